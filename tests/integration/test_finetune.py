"""Fine-tuning end to end: what it learns from, what it leaves, what it refuses."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import toto
from made_labelled import (
    CLASSES,
    GPT2,
    PATCHES,
    SPLITS,
    losses,
    probes,
    tiny,
    weights_sha256,
    write_labelled,
    write_run,
)
from toto.jobs.export import Export
from toto.jobs.finetune import Finetune
from toto.models import LlamaConfig, MambaConfig
from toto.models.sampling import SamplingConfig
from toto.probe.backbone import open_backbone
from toto.runtime import checkpoint
from toto.runtime.parallel import Parallel
from toto.tasks.classification import Task
from toto.train.augmentation import AugmentationConfig
from toto.train.mixing import MixingConfig

MAE: dict[str, Any] = {
    "augmentation": AugmentationConfig(crop_area=(0.3, 1.0), flip=0.5, operations=2, erase=0.25),
    "mixing": MixingConfig(mixup=0.8, cutmix=1.0),
    "label_smoothing": 0.1,
    "drop_path": 0.1,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labelled") / "shards")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "pretrain"
    write_run(out)
    return out


@pytest.fixture(scope="module", params=[tiny, probes], ids=["whole", "probes"])
def finished(
    request: pytest.FixtureRequest,
    run: Path,
    shards: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Finetune, Path, dict[str, Any]]:
    """A run of each protocol: its job, folder and result."""
    job, out = request.param(run, shards), tmp_path_factory.mktemp("finished") / "out"
    return job, out, job.run(out)


def result(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / "results" / f"{name}.json").read_text())


def decoder_weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(open_backbone(out).model.state_dict())


def test_the_score_recomputes_from_the_predictions(
    finished: tuple[Finetune, Path, dict[str, Any]],
) -> None:
    _, out, scores = finished
    said = result(out, "predictions")
    assert len(said["clips"]) == len(said["labels"]) == SPLITS["test"]
    right = [
        sum(p == label for p, label in zip(row, said["labels"], strict=True)) / len(said["labels"])
        for row in said["predicted"]
    ]
    assert list(scores["test_accuracies"].values()) == right
    assert scores["test_accuracy"] == right[said["layers"].index(scores["layer"])]
    assert scores["chance"] == 1 / CLASSES
    assert scores["clips"] == SPLITS


def test_selection_is_read_each_epoch_and_chooses(
    finished: tuple[Finetune, Path, dict[str, Any]],
) -> None:
    job, _, scores = finished
    # 14 clips, 4 a step: the epochs end in steps 4, 7 and 11.
    assert [(line["epoch"], line["step"]) for line in scores["selection"]] == [
        (1, 4),
        (2, 7),
        (3, 11),
    ]
    assert scores["steps"] == 11
    last = scores["selection"][-1]
    of_layers = {int(k[-2:]): v for k, v in last.items() if "accuracy_layer" in k}
    assert of_layers[scores["layer"]] == last["selection_accuracy"] == max(of_layers.values())
    stopped = job.protocol == "stop-gradient"
    assert scores["choices"] == len(of_layers) == (3 if stopped else 1)
    assert (scores["test_next_token_loss"] is not None) == stopped


def test_a_finished_run_is_not_done_again(finished: tuple[Finetune, Path, dict[str, Any]]) -> None:
    job, out, scores = finished
    before = (out / "metrics.jsonl").read_bytes()
    assert job.run(out) == scores
    assert (out / "metrics.jsonl").read_bytes() == before


def test_it_opens_again_for_features(finished: tuple[Finetune, Path, dict[str, Any]]) -> None:
    job, out, _ = finished
    opened = toto.load(out)
    assert opened.backbone.attention == job.attention
    frames = torch.randint(256, (4, 32, 32, 3)).byte()
    other = frames.clone()
    other[3] = 255 - other[3]
    before, after = (opened.features(clip, [2])[2] for clip in (frames, other))
    # A late frame is seen in the first only where attention goes both ways.
    assert torch.equal(before[0], after[0]) == (job.attention == "causal")
    found = checkpoint.latest(out / "checkpoints")
    assert found is not None
    saved = checkpoint.load(found.path, config_digest=None)["model"]
    for name, weight in opened.backbone.model.state_dict().items():
        assert torch.equal(weight, saved[f"decoder.{name}"])
    if job.attention == "bidirectional":
        with pytest.raises(ValueError, match="layer 0 attends in both directions"):
            opened.generate(frames[:2], 1, SamplingConfig())
        assert opened.backbone.untrained(0).attention == "bidirectional"
    with pytest.raises(ValueError, match="is a fine-tuning, whose heads transformers has no place"):
        Export(run_folder=out).run(out.parent / "exported")


def test_it_can_be_fine_tuned_again(
    finished: tuple[Finetune, Path, dict[str, Any]], shards: Path, tmp_path: Path
) -> None:
    _, out, _ = finished
    assert tiny(out, shards, epochs=1).run(tmp_path / "again")["steps"] == 4


def test_labels_never_reach_a_stopped_backbone(run: Path, shards: Path, tmp_path: Path) -> None:
    other = write_labelled(tmp_path / "shuffled", shuffled=True)
    # Long gradients of the probes must not shorten the backbone's.
    changes = {"clip_norm": 1e-2, "head_lr_scale": 5.0}
    probes(run, shards, **changes).run(tmp_path / "true")
    probes(run, other, **changes).run(tmp_path / "false")
    true, false = decoder_weights(tmp_path / "true"), decoder_weights(tmp_path / "false")
    assert all(torch.equal(weight, false[name]) for name, weight in true.items())
    assert not torch.equal(true["norm.weight"], decoder_weights(run)["norm.weight"])
    assert weights_sha256(tmp_path / "true") != weights_sha256(tmp_path / "false")
    # They do where nothing stops them.
    tiny(run, shards, epochs=1).run(tmp_path / "whole-true")
    tiny(run, other, epochs=1).run(tmp_path / "whole-false")
    assert weights_sha256(tmp_path / "whole-true") != weights_sha256(tmp_path / "whole-false")


@pytest.mark.parametrize("init", ["trained", "untrained"])
def test_it_begins_with_the_weights_that_were_asked_for(
    run: Path, shards: Path, tmp_path: Path, init: str
) -> None:
    tiny(run, shards, init=init, epochs=1, lr=1e-12).run(tmp_path / "out")
    began, pretrained = decoder_weights(tmp_path / "out"), decoder_weights(run)
    near = all(torch.allclose(w, pretrained[name], atol=1e-9) for name, w in began.items())
    assert near == (init == "trained")


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (tiny, MAE),
        (probes, {"augmentation": MAE["augmentation"]}),
        (tiny, {"layer": 1, "attention": "causal"}),
    ],
    ids=["whole, all of MAE", "probes, augmented", "another layer"],
)
def test_more_of_the_recipe_runs(
    run: Path,
    shards: Path,
    tmp_path: Path,
    make: Callable[..., Finetune],
    changes: dict[str, Any],
) -> None:
    job = make(run, shards, epochs=1, **changes)
    scores = job.run(tmp_path / "out")
    assert scores["steps"] == 4
    assert scores["layer"] in ([1] if job.layer else [2] if make is tiny else [0, 1, 2])


@pytest.mark.parametrize(
    ("config", "changes"),
    [(PATCHES, MAE), (PATCHES, {}), (GPT2, {})],
    ids=["patches, changed", "patches", "gpt2"],
)
def test_other_decoders_can_be_fine_tuned(
    shards: Path, tmp_path: Path, config: Any, changes: dict[str, Any]
) -> None:
    write_run(tmp_path / "run", config)
    tiny(tmp_path / "run", shards, epochs=1, **changes).run(tmp_path / "out")
    assert toto.load(tmp_path / "out").backbone.attention == "bidirectional"


def test_a_mamba_is_fine_tuned_one_way(shards: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", MambaConfig(vocab_size=19, width=16, depth=2, context=66))
    job = tiny(tmp_path / "run", shards, epochs=1, drop_path=0.1)
    with pytest.raises(
        ValueError, match="a Mamba reads in one direction alone; --attention causal"
    ):
        job.run(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    replace(job, attention="causal").run(tmp_path / "out")


def test_context_and_rotary_base_can_be_others(run: Path, tmp_path: Path) -> None:
    longer = write_labelled(tmp_path / "longer", length=6)
    with pytest.raises(
        ValueError, match="a sequence has 98 tokens, the run's context 66; --context"
    ):
        probes(run, longer).run(tmp_path / "out")
    job = probes(run, longer, context=98, rope_base=50_000.0, epochs=1)
    job.run(tmp_path / "out")
    config = open_backbone(tmp_path / "out").model.config
    assert isinstance(config, LlamaConfig)
    assert (config.context, config.rope_base) == (98, 50_000.0)


def test_images_are_read_one_a_sequence(run: Path, tmp_path: Path) -> None:
    images = write_labelled(tmp_path / "images", length=1, kind="images")
    assert probes(run, images, epochs=1).run(tmp_path / "out")["clips"] == SPLITS
    assert open_backbone(tmp_path / "out").layout.config.frames == 1


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards that keep no frames, with clips of 4 and 7."""
    return write_labelled(tmp_path_factory.mktemp("bare") / "shards", frames=False, longer=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "has clips of 4 to 7 frames; --frames 4 reads as many of each"),
        ({"frames": 5, "context": 98}, "a clip of 4 frames, 5 are read of each; --frames 4"),
        ({"frames": 4, "mixing": MixingConfig(mixup=0.8)}, "train keeps no frames, and augmentat"),
        (
            {"frames": 4, "augmentation": AugmentationConfig(flip=0.5)},
            "tokenise again with --keep-frames, or switch them off",
        ),
        ({"frames": 4, "task": Task(name="hue", classes=3)}, "hue"),
        (
            {"frames": 4, "task": Task(name="shade", classes=2)},
            "train has shade '2', which is none of the 2",
        ),
        ({"frames": 4, "layer": 3}, r"layer 3 is not in 1..2"),
        ({"frames": 4, "precision": "fp16"}, "precision 'fp16': fp16 needs loss scaling"),
    ],
)
def test_what_cannot_be_is_refused_before_there_is_a_folder(
    run: Path, bare: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(run, bare, **changes).run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refuses_other_starts(run: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compile 'on': fine-tuning is not compiled"):
        tiny(run, shards).run(tmp_path / "out", Parallel(compile="on"))
    with pytest.raises(ValueError, match="batch 4 does not divide into 1 ranks x 3 parts"):
        tiny(run, shards).run(tmp_path / "out", Parallel(accumulate=3))
    write_run(tmp_path / "gpt2", GPT2)
    with pytest.raises(ValueError, match=r"rope_base 50000.0: the run's model has no rotary"):
        tiny(tmp_path / "gpt2", shards, rope_base=50_000.0).run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_step_taken_in_parts_is_the_same_step(run: Path, shards: Path, tmp_path: Path) -> None:
    changes = {**MAE, "drop_path": 0.5}
    tiny(run, shards, **changes).run(tmp_path / "whole")
    again = Parallel(activation_checkpointing=True)
    tiny(run, shards, **changes).run(tmp_path / "again", again)
    assert losses(tmp_path / "again") == losses(tmp_path / "whole")
    tiny(run, shards, **changes).run(tmp_path / "parts", Parallel(accumulate=2))
    ours, theirs = losses(tmp_path / "parts"), losses(tmp_path / "whole")
    for mine, alone in zip(ours, theirs, strict=True):
        if mine[1] == "loss":
            # Sums of 4 clips and of 2 + 2 round differently.
            found, expected = float.fromhex(mine[2]), float.fromhex(alone[2])
            assert found == pytest.approx(expected, rel=1e-5)


def test_a_batch_may_be_longer_than_an_epoch(run: Path, shards: Path, tmp_path: Path) -> None:
    scores = tiny(run, shards, batch=32).run(tmp_path / "out")
    # 3 epochs of 14 clips are 42, and 2 steps of 32.
    assert [(line["epoch"], line["step"]) for line in scores["selection"]] == [(2, 1), (3, 2)]


def test_a_run_that_diverges_ends(run: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="10 batches in a row were passed over"):
        tiny(run, shards, lr=1e30, epochs=9).run(tmp_path / "out")


def test_refuses_other_data_than_it_began_with(run: Path, tmp_path: Path) -> None:
    folder = write_labelled(tmp_path / "shards")
    job = tiny(run, folder)
    job.run(tmp_path / "out")
    (tmp_path / "out" / "results" / "finetune.json").unlink()
    folder.rename(tmp_path / "before")
    write_labelled(folder, shuffled=True)
    with pytest.raises(ValueError, match=r"did not begin with what .* now hold; bring that back"):
        job.run(tmp_path / "out")
