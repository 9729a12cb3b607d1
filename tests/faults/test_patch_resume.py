"""A run that reads patches, stopped and resumed, ends as the one that was left alone."""

import hashlib
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from made_grey import of_grey
from toto.data.records import ClipRecord
from toto.data.shards import write_shard
from toto.data.token_set import TokenSet, write_index
from toto.jobs.pretrain import Pretrain
from toto.jobs.training import StoppedError
from toto.models.sampling import SamplingConfig
from toto.probe.backbone import open_backbone
from toto.recipes import PRETRAIN
from toto.runtime import durable
from toto.tokenizers import load_tokenizer, save_tokenizer
from toto.types import TokenGrid

pytestmark = pytest.mark.faults
STEPS, SIDE_PX = 12, 32


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with its frames, in the folders that recipe tiny reads."""
    folder = tmp_path_factory.mktemp("noise") / "shards"
    grey, draw = load_tokenizer("grey"), torch.Generator().manual_seed(0)
    description = of_grey()
    for name in ("clips/pretrain", "moving-digits/pretrain", "moving-digits/selection"):
        noise = torch.randint(256, (8, 6, SIDE_PX, SIDE_PX, 3), generator=draw).byte()
        clips = [
            (
                TokenGrid(ids=grey.encode(frames), vocab_size=16),
                ClipRecord(
                    source=f"noise#{number}",
                    source_sha256=None,
                    frame_indices=tuple(range(6)),
                    times_s=tuple(range(6)),
                    side_px=SIDE_PX,
                    crop=(0.5, 0.5),
                ),
                frames,
            )
            for number, frames in enumerate(noise)
        ]
        write_shard(folder / name / "00000", description, clips)
        write_index(folder / name)
    save_tokenizer(grey, folder / "tokenizer")
    return folder


def job(shards: Path, predicts: str) -> Pretrain:
    tiny = PRETRAIN["tiny"]()
    model = replace(tiny.model, patch_values=192)
    if predicts == "patches":  # of 16 px, where the codes are of 8
        model = replace(model, patch_values=768, vocab_size=4, predicts="patches")
    return replace(tiny, shards=str(shards), model=model, steps=STEPS, precision="fp32")


@pytest.fixture(scope="module", params=["tokens", "patches"])
def unbroken(
    request: pytest.FixtureRequest, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pretrain, Path]:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    asked = job(shards, request.param)
    asked.run(out)
    return asked, out


def outcome(out: Path) -> tuple[list[dict[str, float]], str, dict[str, object]]:
    """Metrics without times, hash of the last weights, result without the speed."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in ("time_s", "tokens_per_s", "mfu", "loading_share", "memory_bytes"):
            line.pop(name, None)
    weights = out / "checkpoints" / f"step-{STEPS:07d}" / "model.safetensors"
    result = json.loads((out / "results" / "pretrain.json").read_text())
    del result["tokens_per_s"], result["loading_share"]
    return lines, hashlib.sha256(weights.read_bytes()).hexdigest(), result


def test_the_result_names_the_unit_and_what_a_guess_costs(unbroken: tuple[Pretrain, Path]) -> None:
    asked, out = unbroken
    result = outcome(out)[2]
    assert len(result["loss_per_frame"]) == len(result["loss_per_frame_untrained"]) == 4
    if asked.model.predicts == "tokens":
        assert result["unit"] == "nats a token"
        assert result["uniform_loss"] == pytest.approx(2.7726, abs=1e-4)
        assert result["zero_loss"] is None
    else:
        assert result["unit"] == "squared error a value"
        assert result["uniform_loss"] is result["unigram_loss"] is None
        # Noise, normalised by patch: variance 1 but for the freedom its mean has taken.
        assert result["zero_loss"] == pytest.approx(767 / 768, abs=1e-4)
    assert result["validation_loss"] == pytest.approx(sum(result["loss_per_frame"]) / 4, rel=1e-5)


def test_stopped_and_resumed(
    unbroken: tuple[Pretrain, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, whole = unbroken
    append, lines = durable.append, []

    def stop_at_the_seventh_line(path: Path, data: bytes) -> None:
        append(path, data)
        lines.append(data)
        if len(lines) == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "append", stop_at_the_seventh_line)
        with pytest.raises(StoppedError, match=r"step 7 of 12 and saved"):
            asked.run(tmp_path / "run")
    asked.run(tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(whole)


def test_a_changed_frame_is_found_before_its_batch(
    unbroken: tuple[Pretrain, Path], tmp_path: Path
) -> None:
    asked, _ = unbroken
    shards = shutil.copytree(asked.shards, tmp_path / "shards")
    file = shards / "moving-digits/pretrain/00000/frames.bin"
    data = bytearray(file.read_bytes())
    data[-1] ^= 128
    file.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"pretrain/00000/frames\.bin is damaged: its sha256 is not"
    ):
        replace(asked, shards=str(shards)).run(tmp_path / "run")


def test_features_are_those_of_the_model_that_was_trained(unbroken: tuple[Pretrain, Path]) -> None:
    asked, out = unbroken
    backbone = open_backbone(out)
    assert backbone.reads_patches
    side = 4 if asked.model.predicts == "tokens" else 2
    shard = TokenSet(Path(asked.shards, "moving-digits/selection"), frames=True)
    clip = backbone.window(shard, 0, 1, 4)
    assert torch.equal(clip, shard.pixels(0, 1, 4))
    features = backbone.features(clip, [0, 2])
    assert {layer: tuple(f.shape) for layer, f in features.items()} == dict.fromkeys(
        (0, 2), (4, side, side, 32)
    )
    tokens = backbone.token_features(clip[None], [2])[2][0]
    assert torch.equal(tokens, features[2].flatten(0, 2))
    # A change in a frame is seen from its own place on, and in layer 0 there alone.
    other = clip.clone()
    other[2, :8, :8] = 255 - other[2, :8, :8]
    changed = backbone.features(other, [0, 2])
    places = (changed[0] != features[0]).any(-1).flatten().nonzero().flatten().tolist()
    assert places == [2 * side * side]
    assert torch.equal(changed[2][:2], features[2][:2])
    fresh = backbone.untrained(0).features(clip, [2])
    assert not torch.equal(fresh[2], features[2])


def test_it_is_not_continued(unbroken: tuple[Pretrain, Path]) -> None:
    backbone = open_backbone(unbroken[1])
    ids = torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="a model that reads patches cannot go on from what it p"):
        next(backbone.forecast(ids, frames=1, sampling=SamplingConfig()))


def test_frames_of_another_size_are_refused(unbroken: tuple[Pretrain, Path]) -> None:
    backbone = open_backbone(unbroken[1])
    with pytest.raises(ValueError, match="frames of 36x32 px do not divide into patches of"):
        backbone.features(torch.zeros(1, 32, 36, 3, dtype=torch.uint8), [0])
    with pytest.raises(ValueError, match="do not fit a context of 258"):
        backbone.features(torch.zeros(80, 32, 32, 3, dtype=torch.uint8), [0])
