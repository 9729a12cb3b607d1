"""`toto pretrain`: train the decoder on shards to predict the next token, or the next patch."""

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from toto.config import to_dict
from toto.data.layout import LayoutConfig
from toto.data.loader import Loader
from toto.data.remote import copy_folder, names_below
from toto.data.shards import require_same
from toto.data.token_set import INDEX
from toto.jobs.progress import Bar, bar, console
from toto.jobs.sequences import fit_layout, grid_of, objective_of, open_tokens
from toto.jobs.training import StoppedError, Training
from toto.metrics.tokens import entropy
from toto.models.flops import model_cost
from toto.models.llama import LlamaConfig
from toto.runtime.devices import (
    Precision,
    Ranks,
    compute,
    device,
    distributed,
    interruptible,
    resolve_precision,
)
from toto.runtime.folder import RunFolder
from toto.tokenizers import load_tokenizer
from toto.tokenizers.patches import PatchNormalisation
from toto.train.loop import Step, train_steps
from toto.train.optimizer import AdamWConfig
from toto.train.schedule import WarmupCosine
from toto.types import Batch

VALIDATION_WINDOWS = 64
"""Held-out windows of each source that a validation reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One part of the mixture."""

    name: str
    """Folder of the shard below the shards' folder."""
    weight: float
    """Share of the sequences; the shares need not sum to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrain:
    """Pre-train a decoder on the next token, or the next patch."""

    shards: str
    """Folder that `toto tokenize` wrote, or the address it was copied to, such as s3://..."""
    model: LlamaConfig
    mixture: tuple[Source, ...]
    held_out: tuple[str, ...] = ()
    """Shards for validation; never trained on. Those that are not there are left out."""
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    patches: PatchNormalisation = field(default_factory=PatchNormalisation)
    """How pixels are scaled; of no effect where the model reads ids."""
    hop: int = 1
    """Kept frames from the start of one sample of a video to the next: 1 takes a sample at every
    frame, 16 samples that do not overlap. Not in the paper."""
    optimizer: AdamWConfig = field(default_factory=AdamWConfig)
    steps: int = 1_000_000
    batch: int = 256
    """Sequences a step, over all ranks."""
    accumulate: int = 1
    """Parts that each rank takes its share of the batch in; changes memory, not the batch."""
    lr: float = 3e-4
    warmup: int = 2000
    clip_norm: float = 1.0
    """Longest gradient; not in the paper, 1.0 is LLaMA's."""
    log_every: int = 10
    save_every: int = 1000
    validate_every: int = 1000
    precision: str = "auto"
    """`fp32`, `bf16`, or `auto`: bf16 where the processor computes it natively."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch",
            "accumulate",
            "hop",
            "log_every",
            "save_every",
            "validate_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if not self.mixture:
            raise ValueError("the mixture names no source")
        # Refused here and not at the first step, when the run folder would hold this config.
        self.schedule()
        objective_of(self.model, self.patches)

    def schedule(self) -> WarmupCosine:
        """Learning rate of each step.

        Raises:
            ValueError: if the warm-up leaves no step.
        """
        return WarmupCosine(peak=self.lr, warmup=self.warmup, steps=self.steps)

    def run(self, out: Path) -> dict[str, Any]:
        """Train in `out`, or go on with what is there; a finished run is not done again.

        Under torchrun the ranks share each batch, and rank 0 writes.

        Raises:
            ValueError: if shards are missing, differ among each other, or do not fit the model.
            StoppedError: if it was asked to stop; it has saved.
        """
        with distributed() as ranks, interruptible() as interruption:
            return _Run(self, out, ranks).train(interruption)


class _Run:
    """One process's part in a pre-training run."""

    def __init__(self, job: Pretrain, out: Path, ranks: Ranks) -> None:
        self.job, self.out, self.ranks = job, out, ranks
        if job.batch % (ranks.world * job.accumulate):
            raise ValueError(
                f"batch {job.batch} does not divide into {ranks.world} ranks x {job.accumulate} "
                "parts; choose another --batch or --accumulate"
            )
        self.objective = objective_of(job.model, job.patches)
        reads = self.objective.reads
        there = set(names_below(job.shards, INDEX))
        held_out = [name for name in job.held_out if name in there]
        opened = [
            open_tokens(job.shards, name, frames=reads != "codes")
            for name in [*(source.name for source in job.mixture), *held_out]
        ]
        self.description = description = require_same(opened)
        self.grid = grid_of(job.model, description)
        self.layout = fit_layout(job.layout, job.model, description)
        shards, held_out = opened[: len(job.mixture)], opened[len(job.mixture) :]
        weights = [source.weight for source in job.mixture]
        self.loader = Loader(shards, weights, self.layout, seed=job.seed, reads=reads, hop=job.hop)
        self.held_out = (
            Loader(held_out, [1.0] * len(held_out), self.layout, seed=0, reads=reads)
            if held_out
            else None
        )
        counts = torch.from_numpy(sum(shard.histogram() for shard in shards))
        self.unigram_loss = entropy(counts)
        self.place = device()
        self.precision: Precision = resolve_precision(job.precision, self.place)

    def train(self, interruption: Any) -> dict[str, Any]:
        job, ranks = self.job, self.ranks
        torch.manual_seed(job.seed)
        model = job.model.build().to(self.place)
        optimizer = job.optimizer.build(model)
        # Only the first rank holds the run folder; the others read its checkpoints.
        if ranks.rank == 0:
            folder = RunFolder.create(self.out, job)
        else:
            folder = RunFolder(self.out, writing=False, tensorboard=False)
        with folder:
            # All ranks leave a finished run, or the others would wait for the first for ever.
            if ranks.any(ranks.rank == 0 and folder.has_result("pretrain")):
                return folder.result("pretrain")
            if ranks.rank == 0:
                self._describe(folder)
            training = Training(folder=folder, config=job, model=model, optimizer=optimizer)
            # The first sets damaged checkpoints aside; only then do the others look.
            done = training.resume() if ranks.rank == 0 else 0
            ranks.barrier()
            if ranks.rank > 0:
                done = training.resume()
            if ranks.rank == 0:
                folder.rewind(done)
                if done:
                    console.print(f"resuming {self.out} at step {done}", markup=False)
            trained = model if ranks.world == 1 else DistributedDataParallel(model)
            batches = self.loader.batches(
                batch=job.batch,
                first_step=done,
                accumulate=job.accumulate,
                rank=ranks.rank,
                world=ranks.world,
            )
            watch = _Watch(self.layout.length * job.batch)
            steps = train_steps(
                trained,
                partial(_objective, loss=self.objective.loss, context=self._compute),
                self._moved(batches, watch),
                optimizer,
                job.schedule(),
                steps=range(done, job.steps),
                accumulate=job.accumulate,
                clip_norm=job.clip_norm,
            )
            with bar("pretrain", job.steps, done=done, shown=ranks.rank == 0) as progress:
                for step in steps:
                    watch.note(step, progress)
                    last = step.number == job.steps
                    if last or step.number % job.log_every == 0:
                        loss = _mean(step.loss, ranks)
                        if ranks.rank == 0:
                            folder.log(**watch.line(step, loss))
                    if ranks.rank == 0 and (last or step.number % job.validate_every == 0):
                        self._validate(folder, model, step.number)
                    stop = ranks.any(interruption.stopped) and not last
                    if ranks.rank == 0 and (stop or last or step.number % job.save_every == 0):
                        training.save(step.number)
                    if stop:
                        raise StoppedError(
                            f"stopped at step {step.number} of {job.steps} and saved in {self.out};"
                            " the same command goes on from there"
                        )
            result = self._result(model, watch)
            if ranks.rank == 0:
                folder.write_result("pretrain", result)
            return result

    def _describe(self, folder: RunFolder) -> None:
        """Write what a later job needs to open the model, and a copy of its tokenizer."""
        copy_folder(self.job.shards, "tokenizer", self.out / "tokenizer")
        _require_tokenizer(self.out / "tokenizer", self.description.tokenizer_digest)
        folder.write_result(
            "model",
            {
                "model": to_dict(self.job.model),
                "layout": to_dict(self.job.layout),
                "patches": to_dict(self.job.patches),
                "grid": list(self.grid),
                "parameters": model_cost(self.job.model).parameters,
                "precision": self.precision,
            },
        )

    def _compute(self) -> AbstractContextManager[object]:
        return compute(self.precision, self.place)

    def _moved(self, batches: Iterator[Batch], watch: "_Watch") -> Iterator[Batch]:
        """Bring batches to the device, and count the time that takes."""
        while True:
            began = time.perf_counter()
            batch = self._move(next(batches))
            watch.loading_s += time.perf_counter() - began
            yield batch

    def _move(self, batch: Batch) -> Batch:
        return Batch(
            ids=batch.ids.to(self.place),
            weight=batch.weight.to(self.place),
            frames=None if batch.frames is None else batch.frames.to(self.place),
        )

    @torch.no_grad()
    def _held_out_losses(self, model: nn.Module) -> Tensor | None:
        """Loss of each place on held-out windows, f32 [N L]; the end token is not among them."""
        if self.held_out is None:
            return None
        losses = []
        for source in range(len(self.held_out.shards)):
            for batch in self.held_out.sweep(source, batch=16, limit=VALIDATION_WINDOWS):
                with self._compute():
                    losses.append(self.objective.losses(model, self._move(batch)).cpu())
        return torch.cat(losses)[:, : self.layout.length - 2]

    def _validate(self, folder: RunFolder, model: nn.Module, step: int) -> None:
        losses = self._held_out_losses(model)
        if losses is not None:
            folder.log(step=step, validation_loss=losses.mean().item())

    def _result(self, model: nn.Module, watch: "_Watch") -> dict[str, Any]:
        job = self.job
        losses = self._held_out_losses(model)
        torch.manual_seed(job.seed)
        fresh = self._held_out_losses(job.model.build().to(self.place))
        tokens = job.steps * job.batch * self.layout.length
        return {
            "parameters": model_cost(job.model).parameters,
            "steps": job.steps,
            "tokens": tokens,
            "unit": self.objective.unit,
            "validation_loss": None if losses is None else losses.mean().item(),
            "loss_per_frame": self._per_frame(losses),
            "loss_per_frame_untrained": self._per_frame(fresh),
            **self._guesses(),
            "tokens_per_s": watch.tokens_per_s,
            "loading_share": watch.loading_s / watch.elapsed_s if watch.elapsed_s else None,
            "precision": self.precision,
        }

    def _guesses(self) -> dict[str, float | None]:
        """Losses of guesses that do not look back; those of the other kind of target are None."""
        if self.job.model.predicts == "tokens":
            uniform = torch.tensor(float(self.layout.codes)).log().item()
            return {
                "unigram_loss": self.unigram_loss,
                "uniform_loss": uniform,
                "zero_loss": None,
            }
        losses = self._held_out_losses(_NoForesight())
        zero = None if losses is None else losses.mean().item()
        return {"unigram_loss": None, "uniform_loss": None, "zero_loss": zero}

    def _per_frame(self, losses: Tensor | None) -> list[float]:
        if losses is None:
            return []
        frame = self.layout.frame_of_target()[:-1]
        return [
            losses[:, frame == number].mean().item() for number in range(self.layout.config.frames)
        ]


def _require_tokenizer(folder: Path, digest: str) -> None:
    """Refuse a tokenizer that did not make the shards; nothing else vouches for that folder.

    Raises:
        ValueError: if its own digest is another; imported tokens say theirs beside them.
    """
    foreign = folder / "foreign.json"
    if foreign.is_file():
        found = json.loads(foreign.read_bytes())["digest"]
    else:
        found = load_tokenizer(folder).digest()
    if found != digest:
        raise ValueError(f"{folder} is not the tokenizer that made the shards; copy it again")


class _Watch:
    """Speed of the steps taken by this process."""

    def __init__(self, tokens_a_step: int) -> None:
        self._tokens_a_step = tokens_a_step
        self._start = self._since = time.perf_counter()
        self._steps = self._steps_since = 0
        self.tokens_per_s = 0.0
        """Mean over all steps so far, saving and validation included."""
        self.elapsed_s = self.loading_s = 0.0
        """In all, and of it what was spent to read batches and to bring them to the device."""

    def note(self, step: Step, progress: Bar) -> None:
        self._steps += 1
        self._steps_since += 1
        self.elapsed_s = time.perf_counter() - self._start
        self.tokens_per_s = self._steps * self._tokens_a_step / self.elapsed_s
        progress.advance(note=f"loss {step.loss.item():.3f}  {self.tokens_per_s:,.0f} tokens/s")

    def line(self, step: Step, loss: float) -> dict[str, float | int]:
        """Metrics of a step, `loss` that of all ranks; the speed is that since the last line."""
        now = time.perf_counter()
        speed = self._steps_since * self._tokens_a_step / (now - self._since)
        self._since, self._steps_since = now, 0
        return {
            "step": step.number,
            "loss": loss,
            "lr": step.lr,
            "grad_norm": step.grad_norm.item(),
            "tokens_per_s": speed,
            "time_s": now - self._start,
        }


def _mean(loss: Tensor, ranks: Ranks) -> float:
    """Mean of the ranks' losses, each of an equal share of the batch; every rank must ask."""
    if ranks.world == 1:
        return loss.item()
    total = loss.clone()
    torch.distributed.all_reduce(total)
    return total.item() / ranks.world


def _objective(model: nn.Module, batch: Batch, *, loss: Any, context: Any) -> Tensor:
    with context():
        return loss(model, batch)


class _NoForesight(nn.Module):
    """Predicts 0 for every value of a patch."""

    def forward(self, ids: Tensor, patches: Tensor) -> Tensor:
        return torch.zeros_like(patches)
