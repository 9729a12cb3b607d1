"""What becomes of a visitor's file; the hostile ones are in tests/faults."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toto.app import uploads
from toto.app.uploads import UploadLimits, UploadRefusedError, read_picture, read_upload
from toto.video.write import write_mp4

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation is Linux's")


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """40 frames, 30 a second, each of one grey."""
    frames = (
        np.zeros((40, 48, 64, 3), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None, None]
    )
    write_mp4(tmp_path / "film.avi.txt.mp4", 5 * frames, fps=30)
    return tmp_path / "film.avi.txt.mp4"


def test_every_nth_frame_is_taken(film: Path) -> None:
    clip = read_upload(film, frames=16, fps=7.5, side_px=16)
    assert clip.frames.shape == (10, 16, 16, 3)
    assert clip.times_s.tolist() == pytest.approx([n * 4 / 30 for n in range(10)], abs=1e-3)
    assert clip.frames.float().mean((1, 2, 3)).tolist() == pytest.approx(
        [20.0 * n for n in range(10)], abs=4
    )
    assert clip.source == "upload"


@pytest.mark.parametrize(("fps", "taken"), [(30.0, 3), (1000.0, 3), (15.0, 3), (0.5, 1)])
def test_at_any_rate(film: Path, fps: float, taken: int) -> None:
    clip = read_upload(film, frames=3, fps=fps, side_px=None)
    assert clip.frames.shape == (taken, 48, 64, 3)


def test_a_name_says_nothing(film: Path, tmp_path: Path) -> None:
    renamed = film.rename(tmp_path / "x.png")
    assert len(read_upload(renamed, side_px=16).frames) == 10


def test_a_picture_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (10, 20, 30)).save(tmp_path / "x.mp4", format="PNG")
    clip = read_upload(tmp_path / "x.mp4", side_px=16)
    assert clip.frames.shape == (1, 16, 16, 3)
    assert clip.frames[0, 0, 0].tolist() == [10, 20, 30]
    assert read_picture(tmp_path / "x.mp4").shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (UploadLimits(max_bytes=100), uploads.LARGE),
        (UploadLimits(max_pixels=100), uploads.LARGE),
        (UploadLimits(max_duration_s=0.5), uploads.LARGE),
    ],
)
def test_what_is_too_large(limits: UploadLimits, sentence: str, film: Path) -> None:
    with pytest.raises(UploadRefusedError) as refused:
        read_upload(film, limits)
    assert str(refused.value) == sentence


def test_sentences_hold_nothing_of_the_file(
    film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "text").write_text("secret")
    (tmp_path / "cut").write_bytes(film.read_bytes()[:600])
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    for name, sentence in {
        "text": uploads.UNKNOWN,
        "missing": uploads.UNKNOWN,
        ".": uploads.UNKNOWN,
        "cut": uploads.UNKNOWN,
        "cut.png": uploads.DAMAGED,
    }.items():
        caplog.clear()
        with pytest.raises(UploadRefusedError) as refused:
            read_upload(tmp_path / name)
        assert str(refused.value) == sentence
        # The owner of the server can see why.
        assert str(tmp_path / name) in caplog.text


def test_a_mask_that_is_no_picture(film: Path) -> None:
    with pytest.raises(UploadRefusedError, match="no video or picture"):
        read_picture(film)


@pytest.mark.parametrize("asked", [{"frames": 0}, {"frames": 257}, {"fps": 0.0}, {"fps": -1.0}])
def test_arguments_that_make_no_sense(asked: dict, film: Path) -> None:
    with pytest.raises(ValueError, match="frames must be from 1 to 256 and fps above 0, got"):
        read_upload(film, **asked)


def test_limits_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="max_file_bytes must be above 0, got 0"):
        UploadLimits(max_bytes=0)
    with pytest.raises(ValueError, match="memory_bytes must be at least 512 MiB"):
        UploadLimits(memory_bytes=1)
