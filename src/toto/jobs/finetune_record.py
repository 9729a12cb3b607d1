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
from toto.tasks.ledger import Model, Protocol, Selection, require_apart
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
    chose, reported = (ListedSamples.of(splits[name].tokens) for name in ("selection", "test"))
    require_apart(chose.split, chose.ids, reported.ids)
    found = checkpoint.latest(RunFolder.open(job.run_folder).checkpoints)
    assert found is not None, "the backbone was opened from it"
    origin = {
        "sources": {name: split.tokens.sha256 for name, split in splits.items()},
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
    tested: Evaluation,
    *,
    steps: int,
    skipped: int,
    precision: Precision,
) -> None:
    """Write score and predictions; the layer is the best of the last reading of selection.

    Args:
        folder: of the run, with its metrics.
        job: the run's config.
        splits: what it read.
        tested: the one reading of the test split.
        steps: that were to be taken.
        skipped: of them, those whose batch was passed over.
        precision: that it computed in.
    """
    test = splits["test"]
    selection = [line for line in folder.metrics() if "selection_accuracy" in line]
    chosen = best(selection[-1], tested.layers)
    accuracies = zip(map(str, tested.layers), tested.accuracies, strict=True)
    folder.write_result(
        "predictions",
        {
            "clips": [clip.name for clip in test.tokens.clips],
            "labels": test.labels.tolist(),
            "layers": list(tested.layers),
            "predicted": tested.predicted.tolist(),
        },
    )
    found = checkpoint.latest(folder.checkpoints)
    assert found is not None, "the last step is saved"
    # Of backbone and heads together, however many ranks wrote them.
    weights = checkpoint.load(found.path, config_digest=None)["model"]
    chose, listed = (ListedSamples.of(splits[name].tokens) for name in ("selection", "test"))
    write_score(
        folder,
        job.task.name,
        listed.classified(
            test.labels, [tested.predicted[chosen][:, None]], classes=job.task.classes
        ),
        metric="top1",
        protocol=Protocol.of(
            f"finetune-{job.protocol}",
            replace(job, run_folder=Path(), shards=splits["train"].tokens.sha256, seed=0),
        ),
        model=Model(
            name=str(folder.path),
            weights_sha256=(digest_of("", weights),),
            trained=job.init == "trained",
        ),
        reported=listed.split,
        seeds=(job.seed,),
        selection=Selection.on(
            chose.split,
            chose.ids,
            reported=listed.ids,
            among={"layers": len(tested.layers)},
            chosen=[f"layer {tested.layers[chosen]}"],
        )
        if len(tested.layers) > 1
        else None,
    )
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
            "seed": job.seed,
            "steps": steps,
            "skipped_steps": skipped,
            "selection": selection,
            "choices": len(tested.layers),
            "layer": tested.layers[chosen],
            "test_accuracy": tested.accuracies[chosen],
            "test_accuracies": dict(accuracies),
            "test_next_token_loss": tested.next_token_loss,
            "precision": precision,
        },
    )
