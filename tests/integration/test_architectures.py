"""GPT-2 and Mamba through the stages that a person would run."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

import toto
from toto.cli import main
from toto.data.token_set import TokenSet
from toto.jobs.probe import Probe
from toto.jobs.track import Track
from toto.models import MODELS
from toto.models.sampling import SamplingConfig
from toto.probe.fit import FitConfig
from toto.tasks.classification import Task


def run(*words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["toto", *map(str, words)])
        main()


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module", params=["gpt2", "mamba"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def trained(kind: str, grey_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(kind) / "run"
    run("pretrain", f"tiny-{kind}", "--precision", "fp32", "--shards", grey_shards, "--out", out)
    return out


def test_it_learns(trained: Path) -> None:
    result = json.loads((trained / "results" / "pretrain.json").read_text())
    curve = losses(trained)
    assert len(curve) == 20
    # 16 codes and 3 special ids; the clips' own statistics are known within 20 steps.
    assert curve[0] == pytest.approx(torch.tensor(19.0).log().item(), abs=0.3)
    assert curve[-1] < curve[0] - 0.3
    assert result["validation_loss"] < result["uniform_loss"]


def test_a_run_in_two_parts_is_the_run(
    kind: str, trained: Path, grey_shards: Path, tmp_path: Path
) -> None:
    words = ("pretrain", f"tiny-{kind}", "--precision", "fp32", "--shards", grey_shards)
    out = tmp_path / "run"
    run(*words, "--out", out)
    shutil.rmtree(out / "checkpoints" / "step-0000020")
    (out / "results" / "pretrain.json").unlink()
    run(*words, "--out", out)
    assert losses(out) == losses(trained)


def test_its_features_are_the_layers_of_the_model(
    kind: str, trained: Path, grey_shards: Path
) -> None:
    model = toto.load(trained)
    backbone = model.backbone
    assert type(backbone.model.config) is MODELS[kind]
    ids = TokenSet(grey_shards / "moving-digits/train").window(0, 0, 4)
    read = backbone.token_features(ids[None], [1])[1]
    prompt = backbone.layout.prompt(ids)[None]
    assert torch.equal(read, backbone.model.hidden(prompt, [1])[1][:, 1:])
    frames = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    assert model.features(frames, [2])[2].shape == (3, 4, 4, 32)
    assert not backbone.untrained(0).model.embedding.weight.equal(backbone.model.embedding.weight)


def test_it_generates(trained: Path, finished: Path, tmp_path: Path) -> None:
    run("generate", "--run-folder", trained, "--data", finished / "data", "--prompt-frames", "2",
        "--frames", "2", "--real-clips", "1", "--digit-clips", "1", "--out", tmp_path / "out",
        )  # fmt: skip
    result = json.loads((tmp_path / "out" / "results" / "generate.json").read_text())
    curves = result["groups"]["real clips"]["curves"]["psnr_db"]
    assert [len(curve["mean"]) for curve in curves.values()] == [2, 2, 2, 2]
    assert (tmp_path / "out" / "strip-1.png").is_file()


def test_the_likeliest_continuation_is_that_of_asking_again_and_again(trained: Path) -> None:
    backbone = toto.load(trained).backbone
    ids = torch.randint(16, (2, 4, 4))
    sampling = SamplingConfig(temperature=0.0)
    found = torch.stack(list(backbone.forecast(ids, frames=2, sampling=sampling)))
    sequence = backbone.layout.prompt(ids)[None]
    for _ in range(2 * 16):
        following = backbone.model(sequence)[:, -1, :16].argmax(-1)
        sequence = torch.cat([sequence, following[None]], dim=1)
    assert torch.equal(found.flatten(), sequence[0, -32:])


def test_it_is_probed_and_tracks(
    trained: Path, finished: Path, grey_shards: Path, tmp_path: Path
) -> None:
    probe = Probe(
        run_folder=trained,
        shards=grey_shards / "moving-digits",
        tasks=(Task(name="motion", classes=6),),
        fit=FitConfig(epochs=1),
        seeds=(0, 1),
        precision="fp32",
    )
    assert probe.run(tmp_path / "probe")["layers"] == ["embedding", "block 1", "block 2"]
    track = Track(run_folder=trained, data=finished / "data", selection_clips=1, test_clips=1)
    assert 0 <= track.run(tmp_path / "track")["scores"]["trained"]["j_and_f"] <= 1


def test_it_does_not_read_patches(
    kind: str, grey_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("pretrain", f"tiny-{kind}", "--model.patch-values", "192", "--shards", grey_shards,
            "--out", tmp_path / "out")  # fmt: skip
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("toto: ")]
    assert len(lines) == 1
    assert re.search("Unrecognized options: --model.patch-values", lines[0])


def test_show_tells_its_shape(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("show", "pretrain", kind)
    shown = " ".join(capsys.readouterr().out.split())
    assert {
        "gpt2": "width 1024, depth 22, heads 16, MLP 4096",
        "mamba": "width 1024, depth 42, 2048 channels with 16 numbers each in a block",
    }[kind] in shown
    assert {"gpt2": "a full KV cache", "mamba": "the recurrent state"}[kind] in shown
