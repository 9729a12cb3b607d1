"""Forecasts as an evaluation: what is reported follows from what is on disk."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from toto.cli import main
from toto.jobs.generate import TOKENS, Generate
from toto.jobs.generated_check import differences
from toto.jobs.generated_tokens import GeneratedTokens
from toto.jobs.ledger import Ledger, as_text
from toto.jobs.set_distance import SetDistanceConfig
from toto.metrics.video import psnr_db
from toto.models.sampling import SamplingConfig
from toto.runtime.durable import sha256_file

RESULT, MEASURES = "results/generate.json", "results/measures.json"


@pytest.fixture(scope="module")
def job(finished: Path) -> Generate:
    """Five frames of each clip, though the model sees four at once."""
    return Generate(
        run_folder=finished / "pretrain",
        data=finished / "data",
        prompt_frames=2,
        frames=3,
        futures=2,
        real_clips=2,
        digit_clips=0,
        pictures=1,
        sampling=SamplingConfig(temperature=1.0, seed=3),
        distance=SetDistanceConfig(components=1, stretch_frames=3),
    )


@pytest.fixture(scope="module")
def generated(job: Generate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated") / "generate"
    job.run(out)
    return out


@pytest.fixture
def copy(generated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(generated, tmp_path / "generate"))


def read(out: Path, name: str = RESULT) -> Any:
    return json.loads((out / name).read_text())


def test_all_follows_from_the_files(generated: Path) -> None:
    assert list(differences(generated, decode=True)) == []


def test_a_number_is_that_of_the_stored_tokens_and_the_clip(job: Generate, generated: Path) -> None:
    """By hand: paint the second future of the second clip, and compare its last frame."""
    from toto.tokenizers import load_tokenizer

    tokens = GeneratedTokens.load(generated / TOKENS)
    painted = load_tokenizer(job.run_folder / "tokenizer").decode(tokens.forecast[1, 1])
    clip = job.clips()[1]
    expected = psnr_db(clip.frames[4:], painted[2:]).item()
    told = read(generated, MEASURES)
    assert told["values"]["psnr_db"]["forecast"][1][1][2] == pytest.approx(expected)
    assert told["clips"][1] == {
        "source": clip.source,
        "video": clip.video,
        "group": "real clips",
        "pixels_sha256": clip.sha256(),
    }
    copied = psnr_db(clip.frames[4:], clip.frames[1:2]).item()
    assert told["values"]["psnr_db"]["copy last frame"][1][0][2] == pytest.approx(copied)


def test_the_result_says_how_it_was_made(generated: Path) -> None:
    result = read(generated)
    assert (result["window_frames"], result["kept_frames"], result["futures"]) == (4, 2, 2)
    assert set(result["measures"]) == {"psnr_db", "ssim"}
    group = result["groups"]["real clips"]
    assert list(group["curves"]["ssim"]) == [
        "forecast",
        "copy last frame",
        "tokenizer limit",
        "best of 2",
    ]
    told = read(generated, MEASURES)["values"]["ssim"]["forecast"][1]
    mean_of_clip = group["of_clips"][1]["means"]["ssim"]["forecast"]
    assert mean_of_clip == pytest.approx(sum(map(sum, told)) / 6)
    best, mean = (group["curves"]["psnr_db"][m]["mean"] for m in ("best of 2", "forecast"))
    assert sum(best) >= sum(mean)
    assert {d["method"] for d in result["set_distances"]} == {
        "forecast",
        "copy last frame",
        "tokenizer limit",
    }
    assert (generated / "strip-1.png").is_file()
    assert not (generated / "strip-2.png").exists()


def test_a_second_time_is_the_same(job: Generate, generated: Path, tmp_path: Path) -> None:
    again, before = job.run(tmp_path / "again"), read(generated)
    assert again["groups"] == before["groups"]
    assert again["files"] == before["files"]


def edit(change: Callable[[Any], None], name: str = RESULT) -> Callable[[Path], None]:
    def write(out: Path) -> None:
        content = read(out, name)
        change(content)
        (out / name).write_text(json.dumps(content))

    return write


def seal(out: Path) -> None:
    """Do what one who tampers would do: write the new hashes beside the new files."""
    result = read(out)
    result["files"] = {name: sha256_file(out / name) for name in result["files"]}
    (out / RESULT).write_text(json.dumps(result))


def flatter(out: Path) -> None:
    """Raise one frame's number, and hash the file anew."""
    edit(lambda m: m["values"]["psnr_db"]["forecast"][0][0].__setitem__(0, 40.0), MEASURES)(out)
    seal(out)


def exchange_tokens(out: Path) -> None:
    tokens = safetensors.torch.load((out / TOKENS).read_bytes())
    tokens["forecast"] = (tokens["forecast"] + 1) % 32
    (out / TOKENS).write_bytes(safetensors.torch.save(tokens))
    seal(out)


def calm(out: Path) -> None:
    tokens = safetensors.torch.load((out / TOKENS).read_bytes())
    tokens["forecast_surprise_nats"] *= 0.5
    (out / TOKENS).write_bytes(safetensors.torch.save(tokens))
    seal(out)


def drop_a_clip(out: Path) -> None:
    def change(told: Any) -> None:
        told["clips"].pop()
        for methods in told["values"].values():
            for values in methods.values():
                values.pop()

    edit(change, MEASURES)(out)
    seal(out)


def curve(result: Any) -> list[float]:
    return result["groups"]["real clips"]["curves"]["psnr_db"]["forecast"]["mean"]


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (edit(lambda r: curve(r).__setitem__(1, 30.0)), "psnr_db.forecast.mean[1] is "),
        (edit(lambda r: curve(r).append(30.0)), "psnr_db.forecast.mean[3] is 'absent' by the"),
        (
            edit(lambda r: r["groups"]["real clips"]["verdicts"]["ssim"].update(sentence="Great.")),
            "not 'Great.'",
        ),
        (edit(lambda r: r["set_distances"][0].update(value=0.1)), "set_distances[0].value is "),
        (edit(lambda m: m["clips"].reverse(), MEASURES), "measures.json is not the one that was"),
        (flatter, "psnr_db.forecast.mean[0] is "),
        (calm, "surprise_nats.forecast.mean[0] is "),
        (drop_a_clip, "groups.real clips.clips is 1 by the numbers it rests on, not 2"),
    ],
    ids=["mean", "frame", "sentence", "distance", "order", "flattered", "calmed", "dropped"],
)
def test_what_was_tampered_with_is_found_without_the_data(
    copy: Path, tamper: Callable[[Path], None], expected: str
) -> None:
    tamper(copy)
    found = list(differences(copy))
    assert any(expected in sentence for sentence in found), found


def test_tokens_that_were_exchanged_are_found_by_painting_them(copy: Path) -> None:
    exchange_tokens(copy)
    assert list(differences(copy)) == []
    found = list(differences(copy, decode=True))
    assert any(sentence.startswith("psnr_db of forecast of ") for sentence in found), found
    assert not any("copy last frame" in sentence for sentence in found)


def test_clips_that_changed_are_found(copy: Path) -> None:
    edit(lambda m: m["clips"][0].update(pixels_sha256="0" * 64), MEASURES)(copy)
    seal(copy)
    found = list(differences(copy, decode=True))
    assert len(found) == 1
    assert found[0].endswith("is not the clip that was continued: its pixels differ")


def test_the_ledger_lists_forecasts_and_what_is_wrong_with_them(copy: Path) -> None:
    entries = Ledger(folders=(copy,), decode=True).run()
    text = list(as_text(entries))
    assert any("forecasts: real clips: By PSNR, against repeating" in line for line in text)
    assert text[-1] == "1 scores, each computed again from its answers; all the same"
    flatter(copy)
    assert list(as_text(Ledger(folders=(copy,)).run()))[-1].endswith("1 WRONG")
    (copy / TOKENS).unlink()
    assert "cannot be read" in "\n".join(as_text(Ledger(folders=(copy,)).run()))
    edit(lambda r: r.pop("files"))(copy)
    assert "names no files that its numbers rest on" in "\n".join(
        as_text(Ledger(folders=(copy,)).run())
    )


def test_weights_of_lpips_are_measured_with_and_named(
    job: Generate, tmp_path: Path, finished: Path
) -> None:
    from toto.metrics.perceptual import NETWORKS

    state, channels, taps = dict[str, torch.Tensor](), 3, 0
    for layer in NETWORKS["alex"]:
        size = (layer.channels, channels, layer.side_px, layer.side_px)
        state[f"features.{layer.place}.weight"] = 0.05 * torch.randn(size)
        state[f"features.{layer.place}.bias"] = torch.zeros(layer.channels)
        state[f"lin{taps}.model.1.weight"] = torch.rand(1, layer.channels, 1, 1)
        channels, taps = layer.channels, taps + 1
    network = {k: v for k, v in state.items() if k.startswith("features")}
    safetensors.torch.save_file(network, tmp_path / "alexnet.safetensors")
    torch.save({k: v for k, v in state.items() if k.startswith("lin")}, tmp_path / "alex.pth")
    files = (tmp_path / "alexnet.safetensors", tmp_path / "alex.pth")
    whole = replace(job, perceptual=files, futures=1, distance=SetDistanceConfig())
    out = tmp_path / "out"
    result = whole.run(out)
    told = result["measures"]["lpips_alex"]
    assert told["weights_sha256"] == {file.name: sha256_file(file) for file in files}
    assert told["higher_is_closer"] is False
    assert min(result["groups"]["real clips"]["curves"]["lpips_alex"]["forecast"]["mean"]) > 0
    assert list(differences(out, decode=True)) == []
    assert result["set_distances"] == []


def test_what_cannot_be_done_is_refused_in_one_line(
    job: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ["toto", "generate", "--run-folder", str(job.run_folder), "--data", str(job.data)]
    words += ["--prompt-frames", "2", "--frames", "3", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*words, "--distance.components", "9"])
    with pytest.raises(SystemExit):
        main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("toto: ")]
    assert lines == [
        "toto: a set distance of 9 components needs more than 9 real clips, got 2; give more "
        "--real-clips or fewer --distance.components"
    ]
    with pytest.raises(ValueError, match="futures 0 must be at least 1"):
        replace(job, futures=0)
    (tmp_path / "alex.pth").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"alex\.pth: not weights but"):
        replace(job, perceptual=(tmp_path / "alex.pth",)).run(tmp_path / "other")
