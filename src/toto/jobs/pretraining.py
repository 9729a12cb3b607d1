"""One process's part in a pre-training run: from the shards to the last checkpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toto.data.loader import Loader
from toto.data.remote import names_below
from toto.data.shards import require_same
from toto.data.token_set import INDEX
from toto.jobs.budget import fit, told
from toto.jobs.incidents import Incidents, RewindError
from toto.jobs.pretrain import Pretrain
from toto.jobs.progress import console
from toto.jobs.run_loop import RunLoop, is_finished, open_folder, settle_buckets
from toto.jobs.run_record import describe
from toto.jobs.sequences import fit_layout, grid_of, objective_of, open_tokens
from toto.jobs.validation import Validation, to_device
from toto.jobs.watch import Watch
from toto.metrics.tokens import entropy
from toto.models.flops import model_cost
from toto.runtime.ceiling import matmul_flops_per_s
from toto.runtime.devices import (
    Interruption,
    Precision,
    Ranks,
    compute,
    device,
    resolve_precision,
)
from toto.runtime.folder import RunFolder
from toto.runtime.parallel import Parallel, device_memory_bytes, is_large
from toto.train.compiled import compile_decoder, resolve_compile
from toto.train.float8 import use_float8
from toto.train.health import Judge
from toto.train.loop import train_steps
from toto.types import Batch


class Pretraining:
    """One process's part in a pre-training run."""

    def __init__(self, job: Pretrain, out: Path, ranks: Ranks, parallel: Parallel) -> None:
        self.job, self.out, self.ranks = job, out, ranks
        if job.batch % (ranks.world * max(1, parallel.accumulate)):
            raise ValueError(
                f"batch {job.batch} does not divide into {ranks.world} ranks x "
                f"{max(1, parallel.accumulate)} parts; choose another --batch or --accumulate"
            )
        self.objective = objective_of(job.model, job.patches)
        reads = self.objective.reads
        there = set(names_below(job.shards, INDEX))
        held_out = [name for name in job.held_out if name in there]
        opened = [
            open_tokens(job.shards, name, frames=reads != "codes")
            for name in [*(source.name for source in job.mixture), *held_out]
        ]
        description = require_same(opened)
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
        # Machines may differ, and ranks that decide differently would wait for each other.
        self.memory_bytes = -ranks.highest(-device_memory_bytes(self.place))[0]
        large = is_large(model_cost(job.model).state_bytes, self.memory_bytes)
        self.parallel = fit(
            job,
            parallel.resolve(ranks.world, large=large),
            length=self.layout.length,
            world=ranks.world,
            precision=self.precision,
            memory_bytes=self.memory_bytes,
        )
        self.compilation = resolve_compile(
            parallel.compile,
            self.place,
            flops=job.steps
            * job.batch
            * self.layout.length
            * model_cost(job.model).train_flops_a_token
            / ranks.world,
        )
        self.validation = Validation(
            loader, self.layout, self.objective, self.place, self.precision
        )

    def train(self, interruption: Interruption) -> dict[str, Any]:
        """Train, or go on with what is there; every rank gets the result."""
        while True:
            try:
                return self._train(interruption)
            except RewindError:
                continue

    def _train(self, interruption: Interruption) -> dict[str, Any]:
        """Train from the newest checkpoint on."""
        job, ranks = self.job, self.ranks
        model, trained = self._fresh(compiled=self.compilation.on)
        optimizer = job.optimizer.build(model)
        with open_folder(self.out, job, ranks) as folder:
            if is_finished(folder, "pretrain", ranks):
                return folder.result("pretrain")
            if ranks.rank == 0:
                describe(folder, job, self.loader.shards, grid=self.grid, precision=self.precision)
            names = [source.name for source in job.mixture]
            incidents = Incidents(folder, self.loader, names, job.batch, ranks)
            judge = Judge(job.health, ranks, incidents.passed_over())
            loop = RunLoop(job, folder, model, optimizer, judge, ranks, self.parallel, job.steps)
            settle_buckets(trained, self._loss, self._batches(0), self.parallel)
            done = loop.training.resume()
            if not done and job.branch:
                loop.training.branch(job.branch)
            ceiling = ranks.world * matmul_flops_per_s(self.precision, self.place)
            if ranks.rank == 0:
                incidents.rewind(done)
                self._announce(ceiling, job.steps - done)
            watch = Watch(
                self.layout.length * job.batch,
                flops_a_token=model_cost(job.model).train_flops_a_token,
                ceiling=ceiling,
                place=self.place,
            )
            steps = train_steps(
                trained,
                self._loss,
                watch.timed(self._batches(done)),
                optimizer,
                job.schedule(),
                steps=range(done, job.steps),
                accumulate=self.parallel.accumulate,
                clip_norm=job.clip_norm,
                accept=judge,
            )
            with loop.over(steps, watch, done) as taken:
                for step in taken:
                    if judge.rewind is not None:
                        # Or a checkpoint of the steps to be undone might yet come to stand.
                        loop.training.settle()
                    incidents.note(judge)
                    loop.log(step, watch)
                    if loop.due(step, job.validate_every):
                        loop.watchdog.beat(step.number, "validating")
                        self._validate(folder, model, step.number)
                    loop.keep(step, interruption)
            result = self._result(model, watch)
            if ranks.rank == 0:
                folder.write_result("pretrain", result)
            return result

    def _announce(self, ceiling: float, steps: int) -> None:
        """Say what the run will take."""
        for line in told(
            self.job,
            self.parallel,
            length=self.layout.length,
            world=self.ranks.world,
            precision=self.precision,
            memory_bytes=self.memory_bytes,
            ceiling=ceiling,
            steps=steps,
        ):
            console.print(line, markup=False, soft_wrap=True)

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        with compute(self.precision, self.place):
            return self.objective.loss(model, batch)

    def _batches(self, first_step: int) -> Iterator[Batch]:
        """This rank's, on the device."""
        batches = self.loader.batches(
            batch=self.job.batch,
            first_step=first_step,
            accumulate=self.parallel.accumulate,
            rank=self.ranks.rank,
            world=self.ranks.world,
        )
        return (to_device(batch, self.place) for batch in batches)

    def _fresh(self, *, compiled: bool = False) -> tuple[nn.Module, nn.Module]:
        """The untrained model, spread over the ranks: what holds its state, and what to train."""
        torch.manual_seed(self.job.seed)
        model = self.job.model.build()
        if self.job.float8:
            use_float8(model, self.place)
        if compiled:
            compile_decoder(model)
        trained = self.parallel.spread(
            model, list(model.blocks), ranks=self.ranks, place=self.place
        )
        return model, trained

    def _losses(self, model: nn.Module) -> Tensor | None:
        """Held-out losses. A rank that holds the whole model needs no other for them."""
        if self.ranks.rank > 0 and not self.parallel.sharded:
            return None
        return self.validation.losses(model)

    def _validate(self, folder: RunFolder, model: nn.Module, step: int) -> None:
        losses = self._losses(model)
        if losses is not None and self.ranks.rank == 0:
            frames = {
                f"validation_loss_frame_{number:02d}": loss
                for number, loss in enumerate(self.validation.per_frame(losses), start=1)
            }
            folder.log(step=step, validation_loss=losses.mean().item(), **frames)

    def _result(self, model: nn.Module, watch: Watch) -> dict[str, Any]:
        job = self.job
        losses, fresh = self._losses(model), self._losses(self._fresh()[0])
        positions = self.validation.per_position(losses)
        tokens = job.steps * job.batch * self.layout.length
        return {
            "parameters": model_cost(job.model).parameters,
            "steps": job.steps,
            "tokens": tokens,
            "unit": self.objective.unit,
            "validation_loss": None if losses is None else losses.mean().item(),
            "loss_per_position_first": positions["first"],
            "loss_per_position_later": positions["later"],
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
