"""What a fine-tuning writes down: how its model opens, and what it scores."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from toto.config import to_dict
from toto.data.layout import LayoutConfig
from toto.data.remote import copy_folder
from toto.jobs.evaluation import Evaluation, best
from toto.jobs.finetune import Finetune
from toto.jobs.labelled_clips import LabelledClips
from toto.jobs.listed_samples import ListedSamples
from toto.jobs.score_files import write_score
from toto.models import DecoderConfig
from toto.models.flops import model_cost
from toto.probe.backbone import TOKENIZER
from toto.probe.classifier import INSIDE
from toto.runtime import checkpoint
from toto.runtime.devices import Precision
from toto.runtime.folder import RunFolder
from toto.tasks.ledger import Model, Protocol, Score, Selection, Views, require_apart
from toto.tasks.published import PUBLISHED
from toto.tokenizers.base import digest_of
from toto.tokenizers.patches import PatchNormalisation


def describe(
    folder: RunFolder,
    job: Finetune,
    splits: Mapping[str, LabelledClips],
    *,
    model: DecoderConfig,
    layout: LayoutConfig,
    patches: PatchNormalisation,
    grid: tuple[int, int],
    precision: Precision,
) -> None:
    """Write what a later job needs to open the model, and a copy of its tokenizer.

    Args:
        folder: of the run.
        job: the run's config.
        splits: what it reads.
        model: config of the decoder.
        layout: of a sequence.
        patches: how pixels are scaled, where the model reads them.
        grid: rows and columns of a frame's tokens.
        precision: that it computes in.

    Raises:
        ValueError: if the run began with other data or other weights, or the split that chooses
            shares a clip with the one that is reported.
    """
    chose, reported = (splits[name].split for name in ("selection", "test"))
    require_apart(chose.described(), chose.ids, ListedSamples.of(reported).ids)
    found = checkpoint.latest(RunFolder.open(job.run_folder).checkpoints)
    assert found is not None, "the backbone was opened from it"
    origin = {
        "sources": {name: split.tokens.sha256 for name, split in splits.items()},
        "classes": list(splits["train"].split.classes[0]),
        "origin": {"run_folder": str(job.run_folder), "step": found.step},
    }
    if folder.has_result("data") and folder.result("data") != origin:
        raise ValueError(
            f"{folder.path} did not begin with what {job.shards} and {job.run_folder} now hold; "
            "bring that back, or begin another run with --out"
        )
    folder.write_result("data", origin)
    copy_folder(job.run_folder, TOKENIZER, folder.path / TOKENIZER)
    folder.write_result(
        "model",
        {
            "model": to_dict(model),
            "layout": to_dict(layout),
            "patches": to_dict(patches),
            "grid": list(grid),
            "parameters": model_cost(model).parameters,
            "precision": precision,
            "attention": job.attention,
            "inside": INSIDE,
        },
    )


def write_scores(
    folder: RunFolder,
    job: Finetune,
    splits: Mapping[str, LabelledClips],
    tested: Mapping[Views, Evaluation],
    *,
    steps: int,
    skipped: int,
    precision: Precision,
) -> None:
    """Write scores and predictions; the layer is the best of the last reading of selection.

    Args:
        folder: of the run, with its metrics.
        job: the run's config.
        splits: what it read.
        tested: the readings of the test split: by the views asked for, and by one.
        steps: that were to be taken.
        skipped: of them, those whose batch was passed over.
        precision: that it computed in.
    """
    test, classes = splits["test"], splits["test"].split.classes[0]
    listed, found = ListedSamples.of(test.split), tested[job.views]
    selection = [line for line in folder.metrics() if "selection_accuracy" in line]
    chosen = best(selection[-1], found.layers)
    folder.write_result(
        "predictions",
        {
            "clips": list(listed.read),
            "classes": list(classes),
            "labels": test.labels.tolist(),
            "layers": list(found.layers),
            "predicted": found.ranked[..., 0].tolist(),
        },
    )
    write = _Writer(folder, job, splits, listed, chosen)
    scores = {views: write.score(views, evaluation) for views, evaluation in tested.items()}
    # A lost clip counts as wrong here too.
    right = (found.ranked[..., 0] == test.labels).double().sum(1) / len(listed.ids)
    folder.write_result(
        "finetune",
        {
            "protocol": job.protocol,
            "attention": job.attention,
            "init": job.init,
            "pooling": job.head.pooling,
            "task": job.task.name,
            "classes": job.task.classes,
            "chance": job.task.chance,
            "clips": {name: len(split) for name, split in splits.items()},
            "lost": [*listed.missing, *listed.undecodable],
            "seed": job.seed,
            "steps": steps,
            "skipped_steps": skipped,
            "selection": selection,
            "choices": len(found.layers),
            # What probes are called says little of how much they can learn.
            "head_parameters": write.head_parameters // len(found.layers),
            "layer": found.layers[chosen],
            "views": str(job.views),
            "test_accuracy": scores[job.views].value,
            "test_accuracy_one_view": scores[Views()].value,
            "test_accuracies": dict(zip(map(str, found.layers), right.tolist(), strict=True)),
            "test_next_token_loss": found.next_token_loss,
            "precision": precision,
        },
    )


class _Writer:
    """Writes the scores of one run."""

    def __init__(
        self,
        folder: RunFolder,
        job: Finetune,
        splits: Mapping[str, LabelledClips],
        listed: ListedSamples,
        chosen: int,
    ) -> None:
        self._folder, self._job, self._listed, self._chosen = folder, job, listed, chosen
        self._splits = {name: clips.split for name, clips in splits.items()}
        newest = checkpoint.latest(folder.checkpoints)
        assert newest is not None, "the last step is saved"
        # Of backbone and heads together, however many ranks wrote them.
        weights = checkpoint.load(newest.path, config_digest=None)["model"]
        self._weights_sha256 = digest_of("", weights)
        self.head_parameters = sum(
            weight.numel() for name, weight in weights.items() if not name.startswith(INSIDE)
        )

    def score(self, views: Views, found: Evaluation) -> Score:
        job, listed, chosen = self._job, self._listed, self._chosen
        test, chooses = self._splits["test"], self._splits["selection"]
        first = test.tokens.clips[0].frame_indices
        return write_score(
            self._folder,
            job.task.name if views == job.views else f"{job.task.name}-{views}",
            listed.classified(test.labels[0], [found.ranked[chosen]], classes=job.task.classes),
            metric="top1",
            protocol=Protocol.of(
                "frozen-probes" if job.protocol == "frozen" else f"finetune-{job.protocol}",
                {
                    **to_dict(replace(job, run_folder=Path(), shards="", seed=0, views=views)),
                    "trained_on": self._splits["train"].digest,
                    "frame_stride": first[1] - first[0] if len(first) > 1 else None,
                    "classes": list(test.classes[0]),
                },
            ),
            model=Model(
                name=str(self._folder.path),
                weights_sha256=(self._weights_sha256,),
                trained=job.init == "trained",
            ),
            reported=listed.split,
            seeds=(job.seed,),
            views=views,
            published=PUBLISHED[job.published] if job.published else None,
            selection=Selection.on(
                chooses.described(),
                chooses.ids,
                reported=listed.ids,
                among={"layers": len(found.layers)},
                chosen=[f"layer {found.layers[chosen]}"],
            )
            if len(found.layers) > 1
            else None,
        )
