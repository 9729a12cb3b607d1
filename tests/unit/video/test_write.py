from pathlib import Path

import av
import made_clips
import numpy as np
import pytest
from PIL import Image

from toto.video.write import write_mp4, write_png


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 63), (1, 1)])
def test_a_video_comes_back_nearly_as_it_was(height: int, width: int, tmp_path: Path) -> None:
    frames = made_clips.pictures(9, height, width)
    path = tmp_path / "new folder" / "made.mp4"
    write_mp4(path, frames, 12.5)
    back, times_s = made_clips.decode_all(path)
    assert back.shape == (9, height + height % 2, width + width % 2, 3)
    assert np.abs(back[:, :height, :width].astype(int) - frames).mean() < 6
    np.testing.assert_allclose(times_s, np.arange(9) / 12.5)
    assert [file.name for file in path.parent.iterdir()] == ["made.mp4"]


def test_browsers_can_play_it(tmp_path: Path) -> None:
    write_mp4(tmp_path / "made.mp4", made_clips.pictures(3), 25)
    with av.open(str(tmp_path / "made.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    data = (tmp_path / "made.mp4").read_bytes()
    # Playing starts before the whole file has come: the index stands first.
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_picture_comes_back_as_it_was(tmp_path: Path) -> None:
    image = made_clips.pictures(1)[0]
    write_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as back:
        np.testing.assert_array_equal(np.asarray(back), image)


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    frames = made_clips.pictures(2)
    with pytest.raises(ValueError, match=r"a\.mp4: frames are uint8 \[T H W 3\], got float64"):
        write_mp4(tmp_path / "a.mp4", frames / 255, 25)
    with pytest.raises(ValueError, match=r"a\.mp4: fps must be in \[0.001, 1000\], got 0"):
        write_mp4(tmp_path / "a.mp4", frames, 0)
    with pytest.raises(ValueError, match=r"got uint8 \[2, 48, 64, 3\]"):
        write_png(tmp_path / "a.png", frames)
    assert not list(tmp_path.iterdir())
