"""One process's part in a fine-tuning: from a run and labelled shards to the score."""

from collections.abc import Iterator
from fractions import Fraction
from math import ceil, inf
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toto.config import to_dict
from toto.data.shards import require_same
from toto.jobs.evaluation import Evaluation, evaluate
from toto.jobs.finetune import Finetune
from toto.jobs.finetune_inputs import (
    fit_clips,
    label_clips,
    longer,
    open_splits,
    require_direction,
)
from toto.jobs.finetune_record import describe, write_scores
from toto.jobs.labelled_clips import (
    DROPPED,
    LabelledBatch,
    LabelledClips,
    TrainingBatches,
    generator,
)
from toto.jobs.run_loop import RunLoop, is_finished, open_folder, settle_buckets
from toto.jobs.sequences import grid_of
from toto.jobs.watch import Watch
from toto.models.attention import set_direction
from toto.models.flops import model_cost
from toto.probe.backbone import Backbone, open_backbone
from toto.probe.classifier import INSIDE, Answer, Classifier, StoppedProbes, WholeClassifier
from toto.runtime.devices import (
    Interruption,
    Precision,
    Ranks,
    compute,
    device,
    resolve_precision,
)
from toto.runtime.parallel import Parallel, device_memory_bytes, is_large
from toto.runtime.watchdog import Watchdog
from toto.tasks.ledger import Views
from toto.tokenizers.patches import patch_side_px, patchify
from toto.train.health import Judge
from toto.train.layer_decay import layer_scales
from toto.train.loop import train_steps
from toto.train.schedule import WarmupCosine
from toto.train.stochastic_depth import StochasticDepth


class Finetuning:
    """One process's part in a fine-tuning."""

    def __init__(self, job: Finetune, out: Path, ranks: Ranks, parallel: Parallel) -> None:
        self.job, self.out, self.ranks = job, out, ranks
        if parallel.compile == "on":
            raise ValueError("compile 'on': fine-tuning is not compiled; leave it at 'auto'")
        self.place = device()
        self.precision: Precision = resolve_precision(job.precision, self.place)
        backbone = open_backbone(job.run_folder)
        self.patches = backbone.patches
        if isinstance(backbone.tokenizer, nn.Module):
            backbone.tokenizer.to(self.place)
        require_direction(job, backbone)
        shards = open_splits(job, backbone)
        description = require_same(list(shards.values()))
        self.config = longer(backbone.model.config, job)
        self.grid = grid_of(self.config, description)
        self.layout = fit_clips(job, self.config, backbone, shards)
        self.splits = {
            name: LabelledClips(split, self.layout, patches=backbone.reads_patches)
            for name, split in label_clips(job, shards).items()
        }
        self.batches = TrainingBatches(
            self.splits["train"],
            backbone.tokenizer,
            job.augmentation,
            job.mixing,
            smoothing=job.label_smoothing,
            batch=job.batch,
            seed=job.seed,
        )
        large = is_large(
            model_cost(self.config).state_bytes,
            -ranks.highest(-device_memory_bytes(self.place))[0],
        )
        self.parallel = parallel.resolve(ranks.world, large=large)
        self.accumulate = max(1, parallel.accumulate)
        self.batches.part(accumulate=self.accumulate, world=ranks.world)
        self.steps = self._step_after(job.epochs)
        self.schedule = WarmupCosine(
            peak=job.lr,
            warmup=min(self._step_after(job.warmup_epochs), self.steps - 1),
            steps=self.steps,
            floor=job.floor,
        )
        self.model = self._build(backbone)

    def train(self, interruption: Interruption) -> dict[str, Any]:
        """Train, or go on with what is there, then read the test split; every rank gets the result.

        Raises:
            ValueError: if the run began with other data or weights, or training has failed.
            StoppedError: if it was asked to stop; it has saved.
        """
        job, ranks = self.job, self.ranks
        model = self.model
        dropping = StochasticDepth(list(model.decoder.blocks), job.drop_path)
        trained = self.parallel.spread(
            model, list(model.decoder.blocks), ranks=ranks, place=self.place
        )
        scales = layer_scales(
            (name for name, _ in model.named_parameters()),
            inside=INSIDE,
            layer=model.layers[-1],
            decay=job.layer_decay,
            head=job.head_lr_scale,
        )
        optimizer = job.optimizer.build(model, lr_scales=scales)
        with open_folder(self.out, job, ranks) as folder:
            if is_finished(folder, "finetune", ranks):
                return folder.result("finetune")
            if ranks.rank == 0:
                describe(
                    folder,
                    job,
                    self.splits,
                    model=self.config,
                    layout=self.layout.config,
                    patches=self.patches,
                    grid=self.grid,
                    precision=self.precision,
                )
                folder.write_result("schedule", to_dict(self.schedule))
            judge = Judge(job.health, ranks)
            loop = RunLoop(job, folder, model, optimizer, judge, ranks, self.parallel, self.steps)

            def objective(module: nn.Module, batch: LabelledBatch) -> Tensor:
                draws = [generator(job.seed, DROPPED, number) for number in batch.numbers]
                dropping.draw(draws, self.place)
                return _loss(self._answer(module, batch), batch.targets.to(self.place))

            model.train()
            settle_buckets(trained, objective, self._batches(0), self.parallel)
            done = loop.training.resume()
            watch = Watch(self.layout.length * job.batch, place=self.place)
            steps = train_steps(
                trained,
                objective,
                watch.timed(self._batches(done)),
                optimizer,
                self.schedule,
                steps=range(done, self.steps),
                accumulate=self.accumulate,
                clip_norm=job.clip_norm or inf,
                clipped=model.apart,
                accept=judge,
            )
            with loop.over(steps, watch, done) as taken:
                for step in taken:
                    if judge.complaint:
                        raise ValueError(judge.complaint)
                    loop.log(step, watch)
                    epoch = self._epoch_ended(step.number)
                    if step.number == self.steps or (epoch and epoch % job.evaluate_every == 0):
                        found = self._evaluate(
                            model, "selection", Views(), loop.watchdog, step.number
                        )
                        if ranks.rank == 0:
                            folder.log(step=step.number, epoch=epoch, **found.line())
                    loop.keep(step, interruption)
                # Once, when nothing is left to be chosen but by what the selection split said.
                tested = {
                    views: self._evaluate(model, "test", views, loop.watchdog, self.steps)
                    for views in dict.fromkeys((job.views, Views()))
                }
            if ranks.rank == 0:
                write_scores(
                    folder,
                    job,
                    self.splits,
                    tested,
                    steps=self.steps,
                    skipped=judge.skipped,
                    precision=self.precision,
                )
            ranks.barrier()
            return folder.result("finetune")

    def _build(self, backbone: Backbone) -> Classifier:
        """The model before its first step, in ordinary memory."""
        job = self.job
        torch.manual_seed(job.seed)
        decoder = self.config.build()
        if job.init == "trained":
            decoder.load_state_dict(backbone.model.state_dict())
        set_direction(decoder, job.attention)
        if job.protocol != "whole":
            return StoppedProbes(
                decoder,
                job.head,
                job.task.classes,
                frozen=job.protocol == "frozen",
                layer=job.layer,
            )
        layer = job.layer or decoder.config.depth
        return WholeClassifier(decoder, job.head, job.task.classes, layer=layer)

    def _answer(self, module: nn.Module, batch: LabelledBatch) -> Answer:
        """Let a model, wrapped or not, read a batch."""
        patches = None
        if batch.frames is not None:
            side_px = patch_side_px(self.config.patch_values)
            patches = patchify(batch.frames.to(self.place), side_px, self.patches)
            # Behind the start token, where nothing is read; the end is not read either.
            patches = F.pad(patches.flatten(1, 3), (0, 0, 1, 0))[:, : batch.ids.shape[1] - 1]
        with compute(self.precision, self.place):
            return module(batch.ids.to(self.place), patches)

    def _evaluate(
        self, model: Classifier, split: str, views: Views, watchdog: Watchdog, step: int
    ) -> Evaluation:
        def answer(module: nn.Module, batch: LabelledBatch) -> Answer:
            # Thirty views of a large split take longer than a rank may be silent.
            watchdog.beat(step, f"evaluating the {split} split")
            return self._answer(module, batch)

        return evaluate(
            model, answer, self.splits[split], ranks=self.ranks, place=self.place, views=views
        )

    def _batches(self, first_step: int) -> Iterator[LabelledBatch]:
        return self.batches.from_step(
            first_step,
            accumulate=self.accumulate,
            rank=self.ranks.rank,
            world=self.ranks.world,
        )

    def _step_after(self, epochs: int) -> int:
        """Steps until so many epochs have been read."""
        return ceil(Fraction(epochs * len(self.splits["train"]), self.job.batch))

    def _epoch_ended(self, step: int) -> int:
        """Which epoch this step ends, counted from 1; 0 if it ends none."""
        clips, batch = len(self.splits["train"]), self.job.batch
        epoch = min(step * batch // clips, self.job.epochs)
        return epoch if epoch > (step - 1) * batch // clips else 0


def _loss(answer: Answer, targets: Tensor) -> Tensor:
    """Cross-entropy of every head against the classes' shares, and the next token's if it counts.

    A sum over heads, not a mean: they share nothing, and each learns as if it were alone.
    """
    scores_ZBJ = answer.scores.float()
    heads = sum((F.cross_entropy(scores_BJ, targets) for scores_BJ in scores_ZBJ), start=0.0)
    total = heads if answer.next_token_loss is None else heads + answer.next_token_loss
    assert isinstance(total, Tensor)
    return total
