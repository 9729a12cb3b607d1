"""One process's part in a pre-training run: from the shards to the last checkpoint."""

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from toto.config import to_dict
from toto.data.loader import Loader
from toto.data.remote import copy_folder, names_below
from toto.data.shards import require_same
from toto.data.token_set import INDEX
from toto.jobs.pretrain import Pretrain
from toto.jobs.progress import bar, console
from toto.jobs.sequences import fit_layout, grid_of, objective_of, open_tokens
from toto.jobs.training import StoppedError, Training
from toto.jobs.validation import Validation, to_device
from toto.jobs.watch import Watch
from toto.metrics.tokens import entropy
from toto.models.flops import model_cost
from toto.runtime.devices import (
    Interruption,
    Precision,
    Ranks,
    compute,
    device,
    resolve_precision,
)
from toto.runtime.folder import RunFolder
from toto.tokenizers import load_tokenizer
from toto.train.loop import train_steps
from toto.types import Batch


class Pretraining:
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
        loader = (
            Loader(held_out, [1.0] * len(held_out), self.layout, seed=0, reads=reads)
            if held_out
            else None
        )
        counts = torch.from_numpy(sum(shard.histogram() for shard in shards))
        self.unigram_loss = entropy(counts)
        self.place = device()
        self.precision: Precision = resolve_precision(job.precision, self.place)
        self.validation = Validation(
            loader, self.layout, self.objective, self.place, self.precision
        )

    def train(self, interruption: Interruption) -> dict[str, Any]:
        """Train, or go on with what is there; every rank gets the result."""
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
            watch = Watch(self.layout.length * job.batch)
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

    def _moved(self, batches: Iterator[Batch], watch: Watch) -> Iterator[Batch]:
        """Bring batches to the device, and count the time that takes."""
        while True:
            began = time.perf_counter()
            batch = to_device(next(batches), self.place)
            watch.loading_s += time.perf_counter() - began
            yield batch

    def _validate(self, folder: RunFolder, model: nn.Module, step: int) -> None:
        loss = self.validation.mean(model)
        if loss is not None:
            folder.log(step=step, validation_loss=loss)

    def _result(self, model: nn.Module, watch: Watch) -> dict[str, Any]:
        job = self.job
        losses = self.validation.losses(model)
        torch.manual_seed(job.seed)
        fresh = self.validation.losses(job.model.build().to(self.place))
        tokens = job.steps * job.batch * self.layout.length
        return {
            "parameters": model_cost(job.model).parameters,
            "steps": job.steps,
            "tokens": tokens,
            "unit": self.objective.unit,
            "validation_loss": None if losses is None else losses.mean().item(),
            "loss_per_frame": self.validation.per_frame(losses),
            "loss_per_frame_untrained": self.validation.per_frame(fresh),
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
        return {
            "unigram_loss": None,
            "uniform_loss": None,
            "zero_loss": self.validation.zero_loss(),
        }


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
