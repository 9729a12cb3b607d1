"""What every training job shares: where it stands, saving, and stopping when asked."""

import re
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from toto.config import digest
from toto.jobs.progress import console
from toto.runtime import checkpoint, durable, state
from toto.runtime.checkpoint_blocks import Block, Readable, Stored
from toto.runtime.checkpoint_commit import Retention, sweep
from toto.runtime.checkpoint_writer import Writer
from toto.runtime.devices import REQUEUE_CODE, Interruption, Ranks
from toto.runtime.folder import RunFolder

_BRANCH = re.compile(r"(.+)@(\d+)")


class Carried(Protocol):
    """What a run carries from step to step beside its model and optimiser, alike on all ranks."""

    def tensors(self) -> dict[str, Tensor]:
        """Take its state."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `tensors` took."""
        ...


class Training:
    """A model and its optimiser in a run folder; every rank has one and calls it alike.

    Use it in a `with`: leaving waits for the save that is being written. Model and optimiser may be
    sharded (FSDP2): each rank then writes its own blocks, and any number of ranks reads them.

    Attributes:
        model: trained in place; the one that holds the parameters, without wrappers.
        optimizer: over the model's parameters.
        carried: what else a checkpoint holds, by name.
    """

    def __init__(
        self,
        *,
        folder: RunFolder,
        config: object,
        model: nn.Module,
        optimizer: torch.optim.AdamW,
        carried: Mapping[str, Carried] | None = None,
        ranks: Ranks | None = None,
        retention: Retention | None = None,
        seed: int = 0,
    ) -> None:
        """Tie a model to a run folder.

        Args:
            folder: of the run.
            config: of the run; its digest ties the checkpoints to it.
            model: to train.
            optimizer: over its parameters.
            carried: what else a checkpoint holds, by name.
            ranks: that train together; alone unless told.
            retention: which checkpoints stay; the newest two unless told.
            seed: of the run; random states follow from it where none were saved.
        """
        self.folder, self.config_digest = folder, digest(config)
        self.model, self.optimizer, self.carried = model, optimizer, carried or {}
        self.ranks, self.seed = ranks or Ranks(), seed
        self.retention = retention or Retention()
        # 62 bits, so that all of it fits the int64 that the ranks exchange.
        (launch,) = self.ranks.from_first(secrets.randbits(62))
        self._writer = Writer(
            folder.checkpoints,
            config_digest=self.config_digest,
            retention=self.retention,
            ranks=self.ranks,
            launch=launch,
        )

    def resume(self) -> int:
        """Take up the newest good checkpoint; returns the steps it has behind it, or 0.

        The lines of later steps are dropped from the run's metrics: they will be taken again.

        The random states are those that were saved where as many ranks go on; otherwise they follow
        from seed and step, as nobody can say which of theirs would be whose.

        Raises:
            ValueError: if every checkpoint is damaged, or it is of another config.
        """
        # Nobody writes any more when the first rank sweeps and sets damaged ones aside, and the
        # others look only when it has done so.
        self.ranks.barrier()
        found = None
        if self.ranks.rank == 0:
            sweep(self.folder.checkpoints)
            found = checkpoint.latest(self.folder.checkpoints)
        (step,) = self.ranks.from_first(-1 if found is None else found.step)
        if found is not None:
            for path in found.damaged:
                console.print(f"set aside a damaged checkpoint: {path}", markup=False)
        if step >= 0:
            path = checkpoint.at(self.folder.checkpoints, step)
            tensors = checkpoint.stored(path, config_digest=self.config_digest)
            state.restore_model(self.model, tensors["model"])
            state.restore_optimizer(self.optimizer, self.model, tensors["optimizer"])
            for name, part in self.carried.items():
                # A part without any tensor leaves no trace in the file.
                part.restore({key: value[()] for key, value in tensors.get(name, {}).items()})
            self._restore_random(tensors["random"], step)
            durable.crash_point("checkpoint.after_load")
        done = max(step, 0)
        if self.ranks.rank == 0:
            self.folder.rewind(done)
            if done:
                console.print(f"resuming {self.folder.path} at step {done}", markup=False)
        return done

    def branch(self, origin: str) -> None:
        """Begin with weights and moments of another run's checkpoint.

        Steps, learning rate, data and random numbers are this run's own, from its step 0 on. The
        moments keep their own count, so that their averages go on as they were.

        Args:
            origin: RUN@STEP.

        Raises:
            ValueError: if there is no such checkpoint, it is damaged, or does not fit the model.
        """
        run, step = parse_branch(origin)
        folder = RunFolder.open(run)
        tensors = checkpoint.stored(checkpoint.at(folder.checkpoints, step), config_digest=None)
        try:
            state.restore_model(self.model, tensors["model"])
            state.restore_optimizer(self.optimizer, self.model, tensors["optimizer"])
        except ValueError as error:
            raise ValueError(f"branch {origin}: {error}") from error

    def save(self, step: int, *, background: bool = False) -> None:
        """Write a checkpoint of this step; in the background, only copying it is waited for."""
        self._writer.save(
            step,
            {
                "model": self.model.state_dict(),
                "optimizer": state.optimizer_tensors(self.optimizer, self.model),
                "random": self._random(),
                **{name: part.tensors() for name, part in self.carried.items()},
            },
        )
        if not background:
            self.settle()

    def settle(self) -> None:
        """Wait until the save that is being written stands; every rank must call this.

        Raises:
            OSError: if it failed on any rank, as `asked_to_stop` says.
        """
        failed = None
        try:
            self._writer.wait()
        except Exception as error:  # noqa: BLE001 - raised below, when all ranks know of it
            failed = error
        (someone,) = self.ranks.highest(int(failed is not None))
        self._raise(failed, someone=bool(someone))

    def asked_to_stop(self, interruption: Interruption) -> int:
        """The signal by which any rank was asked to stop, or 0; every rank asks, once a step.

        Raises:
            OSError: if a save in the background failed on any rank: its error there
                (`DiskFullError` for a full disk), and one that says so on the others.
        """
        failed = self._writer.error
        someone, number = self.ranks.highest(int(failed is not None), interruption.signal)
        self._raise(failed, someone=bool(someone))
        return number

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._writer.abandon()
            return
        self.settle()

    def _raise(self, failed: Exception | None, *, someone: bool) -> None:
        if failed is not None:
            raise failed
        if someone:
            raise OSError(f"{self.folder.path}: another rank could not save; see what it said")

    def _random(self) -> dict[str, Block]:
        """The random states of this rank, which no other has."""
        prefix = f"rank-{self.ranks.rank:05d}-of-{self.ranks.world:05d}"
        return {
            f"{prefix}/{kind}": Block.own(tensor) for kind, tensor in state.random_tensors().items()
        }

    def _restore_random(self, tensors: Mapping[str, Stored], step: int) -> None:
        prefix = f"rank-{self.ranks.rank:05d}-of-{self.ranks.world:05d}/"
        mine: dict[str, Readable] = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        if mine:
            state.restore_random({kind: tensor[()] for kind, tensor in mine.items()})
        else:
            state.draw_anew(self.seed, step, self.ranks.rank)


def parse_branch(origin: str) -> tuple[Path, int]:
    """Read RUN@STEP.

    Raises:
        ValueError: if it is not of that form.
    """
    parts = _BRANCH.fullmatch(origin)
    if parts is None:
        raise ValueError(f"branch {origin!r} is not RUN@STEP, such as runs/base/pretrain@64000")
    return Path(parts[1]), int(parts[2])


class StoppedError(KeyboardInterrupt):
    """The run was asked to stop and has saved; the message says how to go on.

    Attributes:
        exit_code: of the process: 130 after Ctrl-C, `REQUEUE_CODE` after any other signal.
    """

    def __init__(self, message: str, *, number: int = signal.SIGINT) -> None:
        """Say where the run stands, and by which signal it was asked."""
        super().__init__(message)
        self.exit_code = 130 if number == signal.SIGINT else REQUEUE_CODE
