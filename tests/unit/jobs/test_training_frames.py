"""Where a tokenizer's training frames come from: images, clips and digits, apart from held-out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from toto.jobs.ingest import Ingest
from toto.jobs.training_frames import TrainingFrames
from toto.video.collection import Collection, CollectionConfig, DigitClips
from toto.video.datasets.folder import Folder
from toto.video.datasets.moving_digits import MovingDigitsConfig
from toto.video.write import write_mp4

SIDE_PX = 16


def numbered(frames: torch.Tensor) -> list[int]:
    """Which image each square is from: their red says."""
    return [round(float(frame[..., 0].float().mean())) for frame in frames]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of one colour each; image n has n of red."""
    folder = tmp_path_factory.mktemp("images") / "pictures"
    folder.mkdir()
    for number in range(40):
        colour = np.full((24, 32, 3), (number, 200, 7), np.uint8)
        Image.fromarray(colour).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of one video whose red is 200 at first and 20 in the quarter held out."""
    folder = tmp_path_factory.mktemp("ingested")
    frames = np.full((40, 48, 64, 3), (200, 90, 90), np.uint8)
    frames[30:, ..., 0] = 20
    write_mp4(folder / "videos" / "two.mp4", frames, fps=12)
    config = CollectionConfig(
        frames=4,
        stride=1,
        side_px=SIDE_PX,
        held_out_share=0.25,
        digits=MovingDigitsConfig(frames=4, side_px=SIDE_PX, digit_px=8, speeds_px=(2,)),
        digit_clips=DigitClips(pretrain=8, train=8, selection=8, test=8),
    )
    Ingest(dataset=Folder(root=folder / "videos"), collection=config).run(folder / "data")
    return folder / "data"


def read(sources: TrainingFrames) -> tuple[torch.Tensor, torch.Tensor]:
    return sources.read(np.random.default_rng(0))


def test_held_out_images_are_apart_from_those_trained_on(images: Path) -> None:
    sources = TrainingFrames(images=images, side_px=SIDE_PX, held_out_images=0.1)
    train, held_out = read(sources)
    assert train.shape == (36, SIDE_PX, SIDE_PX, 3)
    assert held_out.shape == (4, SIDE_PX, SIDE_PX, 3)
    assert train.dtype == torch.uint8
    # Every tenth, in the order of their names.
    assert numbered(held_out) == [9, 19, 29, 39]
    assert sorted(numbered(train) + numbered(held_out)) == list(range(40))


def test_a_limit_spreads_over_the_folder(images: Path) -> None:
    sources = TrainingFrames(images=images, side_px=SIDE_PX, held_out_images=0.5, image_limit=10)
    train, held_out = read(sources)
    assert sorted(numbered(train) + numbered(held_out)) == list(range(0, 40, 4))


def test_images_that_cannot_be_read_are_left_out_and_said(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes((images / f"{number:02}.png").read_bytes())
    for number in range(7):
        (tmp_path / f"broken-{number}.png").write_bytes(b"no image")
    train, held_out = read(TrainingFrames(images=tmp_path, side_px=SIDE_PX, held_out_images=0.5))
    assert len(train) + len(held_out) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("left out ") == 6
    assert "broken-0.png" in said.replace(" ", "")  # a long path is broken over lines
    assert "left out 2 more images" in said


def test_clips_are_held_out_by_time(data: Path) -> None:
    sources = TrainingFrames(clips=data, side_px=SIDE_PX, clip_frames=50)
    train, held_out = read(sources)
    assert (len(train), len(held_out)) == (50, 5)
    # 200 of red before, 20 after; the codec keeps them within a few steps.
    assert min(numbered(train)) > 190
    assert max(numbered(held_out)) < 30


def test_digits_are_mixed_in(data: Path) -> None:
    sources = TrainingFrames(clips=data, side_px=SIDE_PX, clip_frames=20, digit_frames=40)
    train, held_out = read(sources)
    assert (len(train), len(held_out)) == (20 + 40, 2 + 4)
    alone, _ = read(replace(sources, clip_frames=0))
    assert len(alone) == 40
    # A digit is bright on its background; a bare frame has one colour.
    spread = alone.float().flatten(1).std(1)
    assert (spread > 5).float().mean() > 0.5


def test_images_and_clips_together(images: Path, data: Path) -> None:
    sources = TrainingFrames(
        images=images, clips=data, side_px=SIDE_PX, held_out_images=0.1, clip_frames=20
    )
    train, held_out = read(sources)
    assert (len(train), len(held_out)) == (36 + 20, 4 + 2)


def test_the_same_seed_cuts_the_same_squares(data: Path) -> None:
    sources = TrainingFrames(clips=data, side_px=SIDE_PX, clip_frames=20, digit_frames=20)
    one, same, other = (sources.read(np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_rejects_what_gives_no_frames(images: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"nothing to train on: give --sources\.images or --sources\.clips"
    ):
        read(TrainingFrames())
    with pytest.raises(ValueError, match="pictures: 40 images are too few to hold one of 50 out"):
        read(TrainingFrames(images=images, side_px=SIDE_PX))
    with pytest.raises(
        ValueError, match="clips are given, but clip_frames and digit_frames are bo"
    ):
        read(TrainingFrames(clips=data, side_px=SIDE_PX, clip_frames=0))
    with pytest.raises(ValueError, match="has no image; JPEG, PNG, WebP and BMP are read"):
        read(TrainingFrames(images=tmp_path))
    with pytest.raises(ValueError, match="is not a run folder"):
        read(TrainingFrames(clips=tmp_path))
    with pytest.raises(ValueError, match="limit 0 must be at least 1"):
        read(TrainingFrames(images=images, image_limit=0))


def test_rejects_sides_that_do_not_fit(data: Path) -> None:
    assert Collection(data).config.side_px == SIDE_PX
    with pytest.raises(
        ValueError,
        match="frames of 28 px, 7/4 of the data folder's side, hold no square of side_px 32; ",
    ):
        read(TrainingFrames(clips=data, side_px=32))
    with pytest.raises(
        ValueError, match="digits of 16 px are no squares of side_px 24; set one to the other"
    ):
        read(TrainingFrames(clips=data, side_px=24, digit_frames=20))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"side_px": 7}, "side_px 7 must be at least 8"),
        ({"held_out_images": 0.0}, r"held_out_images 0.0 must lie in \(0, 0.5\]"),
        ({"held_out_images": 0.7}, r"held_out_images 0.7 must lie in \(0, 0.5\]"),
        ({"clip_frames": 9}, "clip_frames 9: 0, or at least 10, since a tenth as many are held"),
        ({"clip_frames": -1}, "clip_frames -1: 0, or at least 10"),
        ({"digit_frames": 5}, "digit_frames 5: 0, or at least 10"),
    ],
)
def test_rejects(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingFrames(**fields)
