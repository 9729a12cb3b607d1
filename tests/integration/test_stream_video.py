"""`toto stream` over a made video, and a real one where there is any."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_demo import moving_picture
from safetensors.torch import load_file

from made_films import GPT2, LLAMA, PATCHES
from made_run_folders import save_run, strange
from toto.cli import main
from toto.jobs.stream import StreamVideo, as_text
from toto.models import DecoderConfig
from toto.probe.backbone import open_backbone
from toto.probe.stream import Stream
from toto.video.decode import Decoder
from toto.video.write import write_mp4

FRAMES = 11


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "ramps.mp4"
    write_mp4(path, moving_picture(FRAMES, 2), fps=12)
    return path


def run_of(folder: Path, config: DecoderConfig) -> Path:
    save_run(folder / "run", strange(config))
    return folder / "run"


@pytest.mark.parametrize("config", [LLAMA, PATCHES], ids=["llama", "patches"])
def test_it_keeps_the_mean_features_of_every_frame(
    config: DecoderConfig, video: Path, tmp_path: Path
) -> None:
    run = run_of(tmp_path, config)
    out = tmp_path / "out"
    job = StreamVideo(run_folder=run, video=video, every=2, layers=(0, 3))
    result = job.run(out)
    with Decoder() as decoder:
        decoded = decoder.read(video, stride=2, side_px=32)
    stream = Stream(open_backbone(run), (0, 3))
    pushed = [stream.push(torch.from_numpy(frame)) for frame in decoded.frames]
    found = load_file(out / "features.safetensors")
    assert found["times_s"].tolist() == decoded.times_s.tolist()
    for layer in (0, 3):
        wanted = torch.stack([one[layer].mean((0, 1)) for one in pushed])
        torch.testing.assert_close(found[f"layer-{layer}"], wanted, rtol=1e-5, atol=1e-5)
    assert result == json.loads((out / "results/stream.json").read_text()) == job.run(out)
    assert (result["frames"], result["tokens"], result["window_frames"]) == (6, 96, 4)
    assert (result["layers"], result["side_px"]) == ([0, 3], 32)
    took_ms = 1000 * (found["tokenizer_s"] + found["model_s"]).numpy()
    assert result["latency_ms"]["frame"]["median"] == pytest.approx(np.median(took_ms))
    assert result["frames_per_s"] == pytest.approx(6000 / took_ms.sum())
    middle, high = (result["latency_ms"]["model"][name] for name in ("median", "p95"))
    assert 0 < middle <= high
    row = as_text(result).splitlines()[2]
    assert row.split() == ["model", f"{middle:.1f}", "ms", f"{high:.1f}", "ms"]


def test_the_command_takes_run_and_video(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = run_of(tmp_path, LLAMA), tmp_path / "out"
    words = ["stream", run, video, "--frames", "5", "--out", out]
    monkeypatch.setattr(sys, "argv", ["toto", *map(str, words)])
    main()
    said = capsys.readouterr().out
    assert "\n5 frames of 16 tokens, 80 in all; " in said
    assert [line.split()[0] for line in said.splitlines()[1:4]] == ["tokenizer", "model", "frame"]
    result = json.loads((out / "results/stream.json").read_text())
    # The middle of three layers.
    assert result["layers"] == [1]


def test_a_gpt2_is_told_how_far_it_goes(video: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, GPT2)
    assert StreamVideo(run_folder=run, video=video, frames=4).run(tmp_path / "four")["frames"] == 4
    with pytest.raises(ValueError, match="frame 5 lies beyond the window of 4"):
        StreamVideo(run_folder=run, video=video).run(tmp_path / "all")


@pytest.mark.parametrize("name", ["every", "frames", "window_frames"])
def test_rejects_a_count_of_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} 0 must be at least 1"):
        replace(StreamVideo(run_folder=Path("run"), video=Path("v.mp4")), **{name: 0})


def test_rejects_a_file_that_is_no_video(tmp_path: Path) -> None:
    run, text = run_of(tmp_path, LLAMA), tmp_path / "text.mp4"
    text.write_text("not a film")
    with pytest.raises(ValueError, match=r"text\.mp4: "):
        StreamVideo(run_folder=run, video=text).run(tmp_path / "out")


def test_rejects_a_run_whose_grid_is_no_square(video: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, LLAMA)
    described = json.loads((run / "results/model.json").read_text())
    described["grid"] = [2, 8]
    (run / "results/model.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="grids of 2 x 8 tokens, and videos are cut to squares"):
        StreamVideo(run_folder=run, video=video).run(tmp_path / "out")


def test_a_real_clip_streams(data_root: Path, tmp_path: Path) -> None:
    clips = sorted((data_root / "clips").rglob("*.mp4"))
    if not clips:
        pytest.skip(f"no mp4 below {data_root / 'clips'}")
    job = StreamVideo(run_folder=run_of(tmp_path, LLAMA), video=clips[0], every=4, frames=12)
    assert job.run(tmp_path / "out")["frames"] == 12
