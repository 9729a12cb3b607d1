"""Models that read patches, through the stages that a person would run."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

import toto
from toto.cli import main
from toto.data.token_set import TokenSet
from toto.jobs.probe import Probe
from toto.jobs.tokenize import Tokenize
from toto.jobs.track import Track
from toto.probe.fit import FitConfig
from toto.tasks.classification import Task

TO_TOKENS = ["--model.patch-values", "192"]
TO_PATCHES = [
    *("--model.patch-values", "768", "--model.vocab-size", "4", "--model.predicts", "patches")
]
SHORT = ["--steps", "6", "--warmup", "2", "--save-every", "3", "--validate-every", "3"]


def run(*words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["toto", *map(str, words)])
        main()


@pytest.fixture(scope="module")
def pixel_shards(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished demo's clips in tokens of `grey`, with their frames."""
    folder = tmp_path_factory.mktemp("pixels") / "shards"
    run("tokenize", "--data", finished / "data", "--tokenizer", "grey", "--keep-frames",
        "--out", folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module", params=[TO_TOKENS, TO_PATCHES], ids=["tokens", "patches"])
def trained(
    request: pytest.FixtureRequest, pixel_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    run("pretrain", "tiny", *request.param, *SHORT, "--shards", pixel_shards, "--out", out)
    return out


def test_frames_that_are_kept_change_no_token(pixel_shards: Path, grey_shards: Path) -> None:
    grey = toto.load_tokenizer("grey")
    for name in ("clips/pretrain", "clips/held-out", "moving-digits/train"):
        bare, kept = TokenSet(grey_shards / name), TokenSet(pixel_shards / name, frames=True)
        assert list(bare.clips) == list(kept.clips)
        for clip, length in enumerate(kept.lengths.tolist()):
            ids = kept.window(clip, 0, length)
            assert torch.equal(ids, bare.window(clip, 0, length))
            assert torch.equal(grey.encode(kept.pixels(clip, 0, length)).long(), ids)


def test_one_command_tokenises_in_one_pass(finished: Path, grey_shards: Path) -> None:
    """Asking a finished folder for frames is another config, and does not pass for done."""
    job = Tokenize(data=(finished / "data",), tokenizer="grey", keep_frames=True)
    with pytest.raises(ValueError, match=r"another config \(keep_frames: False != True\)"):
        job.run(grey_shards)


def test_shards_without_frames_are_refused_in_one_line(
    grey_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("pretrain", "tiny", *TO_TOKENS, "--shards", grey_shards, "--out", tmp_path / "out")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("toto: ")]
    assert len(lines) == 1
    assert re.search(r"pretrain keeps no frames, .*; tokenise again with --keep-frames", lines[0])
    assert not (tmp_path / "out").exists()


def test_the_run_says_its_unit(trained: Path) -> None:
    result = json.loads((trained / "results" / "pretrain.json").read_text())
    described = json.loads((trained / "results" / "model.json").read_text())
    if described["model"]["predicts"] == "patches":
        assert result["unit"] == "squared error a value"
        assert 0 < result["validation_loss"] < 3 * result["zero_loss"]
        assert described["grid"] == [2, 2]
    else:
        assert result["unit"] == "nats a token"
        assert result["unigram_loss"] < result["uniform_loss"]
        assert described["grid"] == [4, 4]
    assert described["patches"]["target"] == "patch"


def test_its_layers_are_probed_from_frames(
    trained: Path, pixel_shards: Path, grey_shards: Path, tmp_path: Path
) -> None:
    def probe(shards: Path) -> Probe:
        return Probe(
            run_folder=trained,
            shards=shards / "moving-digits",
            tasks=(Task(name="motion", classes=6),),
            fit=FitConfig(epochs=1),
            seeds=(0, 1),
            precision="fp32",
        )

    result = probe(pixel_shards).run(tmp_path / "probe")
    assert result["layers"] == ["embedding", "block 1", "block 2"]
    with pytest.raises(ValueError, match="train keeps no frames, which a model of patches reads"):
        probe(grey_shards).run(tmp_path / "refused")


def test_it_tracks(trained: Path, finished: Path, tmp_path: Path) -> None:
    job = Track(run_folder=trained, data=finished / "data", selection_clips=1, test_clips=2)
    result = job.run(tmp_path / "track")
    assert 0 <= result["scores"]["trained"]["j_and_f"] <= 1


def test_it_is_not_asked_for_more_frames(
    trained: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("generate", "--run-folder", trained, "--data", finished / "data",
            "--prompt-frames", "2", "--frames", "2", "--out", tmp_path / "out")  # fmt: skip
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("toto: ")]
    assert lines == [
        "toto: a model that reads patches cannot go on from what it predicts; "
        "continue clips with one that reads ids"
    ]
    model = toto.load(trained)
    with pytest.raises(ValueError, match="cannot go on from what it predicts"):
        model.generate(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), 1)
