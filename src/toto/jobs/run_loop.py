"""What pre-training and fine-tuning share around each step: watching, logging, saving, stopping."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toto.jobs.finetune import Finetune
from toto.jobs.pretrain import Pretrain
from toto.jobs.progress import Bar, bar
from toto.jobs.training import StoppedError, Training
from toto.jobs.watch import Watch
from toto.runtime.devices import Interruption, Ranks
from toto.runtime.folder import RunFolder
from toto.runtime.parallel import Parallel
from toto.runtime.watchdog import Watchdog
from toto.train.health import Judge
from toto.train.loop import Step
from toto.train.replicas import require_equal_replicas


class RunLoop:
    """Around the steps of a run; every rank has one and calls it alike, once a step.

    Its `watchdog` wants a sign of life before what takes long.
    """

    def __init__(
        self,
        job: Pretrain | Finetune,
        folder: RunFolder,
        model: nn.Module,
        optimizer: torch.optim.AdamW,
        judge: Judge,
        ranks: Ranks,
        parallel: Parallel,
        steps: int,
    ) -> None:
        self._job, self._folder, self._judge, self._ranks = job, folder, judge, ranks
        self._steps = steps
        self._replicas_every = 0 if parallel.sharded else job.health.replicas_every
        self.watchdog = Watchdog(folder.path / "stacks", ranks, parallel.hung_after_s)
        self.training = Training(
            folder=folder,
            config=job,
            model=model,
            optimizer=optimizer,
            carried={"health": judge},
            ranks=ranks,
            retention=job.retention,
            seed=job.seed,
        )

    @contextmanager
    def over(self, steps: Iterator[Step], watch: Watch, done: int) -> Iterator[Iterator[Step]]:
        """Give the steps to a `with`, watched; leaving it waits for the save being written."""
        what = type(self._job).__name__.lower()
        shown = bar(what, self._steps, done=done, shown=self._ranks.rank == 0)
        with self.training, shown as progress, self.watchdog:
            self.watchdog.beat(done)
            yield self._noted(steps, watch, progress)

    def _noted(self, steps: Iterator[Step], watch: Watch, progress: Bar) -> Iterator[Step]:
        for step in steps:
            self.watchdog.beat(step.number)
            watch.note(step, progress)
            yield step

    def log(self, step: Step, watch: Watch) -> None:
        """Write the step's line if it is due."""
        if self.due(step, self._job.log_every):
            # Each rank has an equal share of the batch.
            loss = self._ranks.summed(step.loss).item() / self._ranks.world
            if self._ranks.rank == 0:
                self._folder.log(**watch.line(step, loss, self._judge))

    def due(self, step: Step, every: int) -> bool:
        """Whether something is due that comes every so many steps, and at the last."""
        return step.number == self._steps or step.number % every == 0

    def keep(self, step: Step, interruption: Interruption) -> None:
        """Save if it is due, or if any rank was asked to stop.

        Raises:
            StoppedError: if one was; it has saved.
            OSError: if a save failed, as `Training.asked_to_stop` says.
            ValueError: if the ranks' replicas differ.
        """
        number, training = step.number, self.training
        if self._replicas_every and number % self._replicas_every == 0:
            require_equal_replicas(training.model, training.optimizer, self._ranks, number)
        stop = 0 if number == self._steps else training.asked_to_stop(interruption)
        due = self.due(step, self._job.save_every) or self._job.retention.permanent(number)
        if stop or due:
            self.watchdog.beat(number, "saving")
            training.save(number, background=not stop)
        self.watchdog.beat(number)
        if stop:
            raise StoppedError(
                f"stopped at step {number} of {self._steps} and saved in {self._folder.path}; "
                "the same command goes on from there",
                number=stop,
            )


def open_folder(out: Path, job: Pretrain | Finetune, ranks: Ranks) -> RunFolder:
    """Open a run's folder: the first rank holds it, the others read its checkpoints."""
    if ranks.rank == 0:
        return RunFolder.create(out, job)
    return RunFolder(out, writing=False, tensorboard=False)


def is_finished(folder: RunFolder, result: str, ranks: Ranks) -> bool:
    """Whether the run has its result: if so all ranks leave, or would wait for the first."""
    return ranks.any(ranks.rank == 0 and folder.has_result(result))


def settle_buckets(
    trained: nn.Module,
    objective: Callable[[nn.Module, Any], Tensor],
    batches: Iterator[Any],
    parallel: Parallel,
) -> None:
    """Let DDP lay out its buckets before the first step, with a batch that trains nothing.

    It does so anew after its first backward pass, by the order that gradients came in, and how
    a sum over more than two ranks is rounded follows from the place in a bucket. A resumed run
    would round its first step unlike the run that was left alone.
    """
    if parallel.strategy == "ddp":
        objective(trained, next(batches)).backward()
        trained.zero_grad(set_to_none=True)
