"""Measures of tokenizers, on frames and tokenizers whose answers are known by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from toto.jobs.measured_frames import MeasuredFrames, MeasuredSource
from toto.jobs.progress import bar
from toto.jobs.token_measures import (
    Counted,
    clip_flips,
    describe,
    draws,
    reconstruction,
    require_fit,
    stability,
    stability_cost,
    still_flips,
)
from toto.jobs.tokenizer_bench import TokenizerBench, labels
from toto.jobs.tokenizer_stats import TokenizerStats
from toto.report.token_tables import bench_table, stats_table
from toto.tokenizers import DVAE, DVAEConfig, Grey, GreyConfig, save_tokenizer
from toto.video.transforms import RESIZE_FILTER
from toto.video.write import write_mp4

TINY = DVAEConfig(vocab_size=16, width=4, decoder_stem=8, blocks_per_group=1)


def measured(frames: Tensor, *lengths: int) -> MeasuredFrames:
    return MeasuredFrames(
        name="made", frames=frames, lengths=lengths, sha256="0" * 64, files=1, refused=(), cut={}
    )


def noise(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


def counted(tokenizer: object, total: int = 1) -> Counted:
    with bar("test", total, shown=False) as progress:
        return Counted(tokenizer, progress)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve photographs of noise and one file that only its name calls an image."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(noise(40, 48, 3).numpy()).resize((96, 80)).save(folder / f"{number:02}.png")
    (folder / "zz.jpg").write_text("<html>")
    return folder


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    write_mp4(folder / "still.mp4", np.full((9, 40, 40, 3), 99, np.uint8), 25)
    fade = np.arange(9, dtype=np.uint8)[:, None, None, None] * 28
    write_mp4(folder / "fade.mp4", fade.repeat(40, 1).repeat(40, 2).repeat(3, 3), 25)
    (folder / "notes.txt").write_text("no video")
    return folder


def test_a_still_clip_flickers_with_noise_alone() -> None:
    frames = measured(noise(3, 16, 16, 3))
    # Grey that begins a level exactly: noise pushes it down half the time.
    edge = measured(torch.full((2, 16, 16, 3), 128, dtype=torch.uint8))
    grey = counted(Grey())
    assert still_flips(grey, frames, 0.0) == 0.0
    assert still_flips(grey, edge, 2.0) == still_flips(grey, edge, 2.0)
    assert 0.2 < still_flips(grey, edge, 2.0) < 0.7


def test_flips_of_clips_count_pairs_within_clips_only() -> None:
    ids = torch.tensor([0, 1, 1, 1, 5, 6, 9]).int().view(-1, 1, 1)
    assert clip_flips(ids, (4, 2, 1)) == pytest.approx(2 / 4)
    assert clip_flips(ids[:2], (1, 1)) is None


def test_stability_of_a_tokenizer_that_sees_every_pixel() -> None:
    tokenizer = Grey(GreyConfig(levels=256, patch_px=1))
    frames = noise(2, 16, 16, 3)
    kept = stability(counted(tokenizer), frames, tokenizer.encode(frames))
    assert kept["batch of 1"] == 1.0
    assert kept["bf16 autocast"] is None
    assert kept["shift 1 px"] == pytest.approx(1 / 256, abs=0.02)
    assert 0 < kept["jpeg 50"] < kept["jpeg 95"] < 1
    flat = torch.full((2, 16, 16, 3), 77, dtype=torch.uint8)
    assert stability(counted(tokenizer), flat, tokenizer.encode(flat))["shift 1 px"] == 1.0


def test_every_frame_that_is_encoded_moves_the_bar() -> None:
    moved = []

    class Watched:
        def advance(self, count: int = 1) -> None:
            moved.append(count)

    model, frames = TINY.build().eval(), noise(3, 32, 32, 3)
    kept = stability(Counted(model, Watched()), frames, model.encode(frames))
    assert sum(moved) == stability_cost(model, 3)
    assert 0 <= kept["bf16 autocast"] <= 1
    assert kept["batch of 1"] == 1.0


def test_reconstruction_names_its_reference() -> None:
    frames = measured(noise(4, 16, 16, 3).clamp(max=250))
    close = reconstruction(frames, frames.frames + 5)
    assert close["psnr_db"] == pytest.approx(20 * math.log10(255 / 5), abs=1e-4)
    assert 0.9 < close["ssim"] < 1
    assert close["frechet_dct"] > 0
    assert close["frechet_dct_reference"] == {"name": "made", "frames": 4, "sha256": "0" * 64}
    assert reconstruction(frames, frames.frames)["frechet_dct"] == pytest.approx(0, abs=1e-6)


def test_a_tokenizer_is_described_by_what_a_token_costs() -> None:
    grey, model = describe(Grey()), describe(TINY.build())
    assert (grey["bits_per_pixel"], grey["parameters"]) == (4 / 64, 0)
    assert model["parameters"] == sum(p.numel() for p in DVAE(TINY).parameters())
    assert len(model["digest"]) == 64
    with pytest.raises(ValueError, match="frames of 20 px do not divide into at least 2 x 2 patch"):
        require_fit(Grey(), 20)
    with pytest.raises(ValueError, match=r"frames of 8 px do not divide .* of 8 px"):
        require_fit(Grey(), 8)


def test_stats_of_images_and_clips(images: Path, clips: Path, tmp_path: Path) -> None:
    job = TokenizerStats(tokenizer="grey", images=images, clips=clips, side_px=32, limit=99)
    result = job.run(tmp_path / "out")
    assert result == json.loads((tmp_path / "out/results/tokenizer_stats.json").read_text())
    assert job.run(tmp_path / "out") == result
    frames = result["frames"]
    assert (frames["frames"], frames["files"], frames["kind"]) == (12, 12, "images")
    assert (frames["name"], frames["side_px"], frames["tokens"]) == ("pictures", 32, 12 * 16)
    assert frames["resize_filter"] == RESIZE_FILTER
    assert frames["refused"] == [{"file": "zz.jpg", "reason": "an HTML page, not an image"}]
    assert [ngrams["total"] for ngrams in result["ngrams"]] == [12 * 16, 12 * 15, 12 * 14]
    # Of the two clips with 3 kept frames one never changes, the other always.
    assert (result["clips"]["frames"], result["clips"]["tokens"]) == (6, 6 * 16)
    assert result["flips"]["clips"] == 0.5
    assert result["clips"]["stride"] == 4
    assert result["flips"]["still"]["0"] == 0.0
    for name in ("ngrams.png", "stability.png", "reconstructions.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 150
            assert len(np.unique(picture.convert("L"))) > 20
    table = stats_table(result)
    assert "12 frames of 12 images (pictures, sha256 " in table
    assert "not FID" in table


def test_the_set_is_known_by_its_bytes_and_not_by_its_place(images: Path, tmp_path: Path) -> None:
    here, _ = MeasuredSource(images=images, side_px=16).read()
    moved = images.rename(tmp_path / "moved")
    there, _ = MeasuredSource(images=moved, side_px=16).read()
    assert here.sha256 == there.sha256
    (moved / "00.png").unlink()
    assert MeasuredSource(images=moved, side_px=16).read()[0].sha256 != here.sha256


def test_without_a_folder_the_sample_clips_are_measured() -> None:
    frames, clips = MeasuredSource(side_px=16, clip_frames=2).read()
    assert frames is clips
    assert (frames.name, frames.lengths) == ("sample_clips", (2, 2, 2))
    assert frames.some(3).tolist() == [0, 2, 4]
    assert frames.some(99).tolist() == list(range(6))


def test_bench_sets_tokenizers_side_by_side(images: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_tokenizer(TINY.build(), tmp_path / "tiny")
    job = TokenizerBench(tokenizers=("grey", str(tmp_path / "tiny")), images=images, side_px=32)
    result = job.run(tmp_path / "out")
    assert list(result["tokenizers"]) == ["grey", "tiny"]
    grey, tiny = result["tokenizers"].values()
    assert grey["flips"]["clips"] is None
    assert (grey["tokens"], grey["ngrams"][0]["distinct"] <= 16) == (12 * 16, True)
    assert grey["reconstruction"]["psnr_db"] > tiny["reconstruction"]["psnr_db"]
    assert result["threads"] == torch.get_num_threads()
    assert job.run(tmp_path / "out") == result
    page = (tmp_path / "out/bench.md").read_text()
    assert page == bench_table(result)
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| tokenizer", "| grey", "| tiny"]
    assert len({row.count("|") for row in rows}) == 1
    for name, rows in (("comparison.png", 3), ("ngrams.png", 0)):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.height > 128 * rows
            assert len(np.unique(picture.convert("L"))) > 20


def test_an_encoder_alone_is_measured_without_pictures(images: Path, tmp_path: Path) -> None:
    class Blind(Grey):
        decoder = None

    assert draws(Grey())
    assert draws(TINY.build())
    assert not draws(Blind())
    with pytest.MonkeyPatch.context() as patch:
        for room in ("stats", "bench"):
            patch.setattr(f"toto.jobs.tokenizer_{room}.load_tokenizer", lambda name: Blind())
        stats = TokenizerStats(tokenizer="b", images=images, side_px=16).run(tmp_path / "stats")
        bench = TokenizerBench(tokenizers=("b",), images=images, side_px=16).run(tmp_path / "bench")
    assert stats["reconstruction"] is None
    assert not (tmp_path / "stats/reconstructions.png").exists()
    assert "reconstruction" not in stats_table(stats)
    assert bench["tokenizers"]["b"]["reconstruction"] is None
    assert "| - | - | - |" in bench_table(bench)


def test_labels_are_short_where_that_is_enough() -> None:
    assert labels(("grey", "a/x", "b/y/")) == {"grey": "grey", "x": "a/x", "y": "b/y/"}
    assert labels(("a/x", "b/x", "c")) == {"a/x": "a/x", "b/x": "b/x", "c": "c"}
    with pytest.raises(ValueError, match="tokenizer 'a/x' is given twice"):
        labels(("a/x", "b/x", "a/x"))


def test_what_cannot_be_measured_is_refused(images: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clip_stride 0 must be at least 1"):
        TokenizerStats(tokenizer="grey", clip_stride=0)
    with pytest.raises(ValueError, match="side_px 11 must be at least 12"):
        TokenizerStats(tokenizer="grey", side_px=11)
    for job in (TokenizerStats(tokenizer="grey", clips=images / "x"), TokenizerBench(images=clips)):
        with pytest.raises(ValueError, match=r"is not a folder; point|has no image; JPEG"):
            job.run(tmp_path / "out")
    with pytest.raises(ValueError, match="pictures: 1 frame is too few to measure on"):
        MeasuredSource(images=images, limit=1).read()
    for film in clips.glob("*.mp4"):
        film.unlink()
    with pytest.raises(ValueError, match=r"none of 1 files is a video; the first, .*notes\.txt"):
        MeasuredSource(clips=clips).read()
    with pytest.raises(ValueError, match="toto-8k: frames of 20 px do not divide"):
        TokenizerBench(images=images, side_px=20).run(tmp_path / "out")
    assert not (tmp_path / "out").exists()
