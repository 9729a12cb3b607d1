import hashlib
import itertools
from pathlib import Path

import av
import made_clips
import numpy as np
import pytest
from PIL import Image

from toto.video.transforms import Squares, resize_crop, resize_whole


def scene(height: int, width: int, *, patch_px: int = 12) -> np.ndarray:
    """Patches of random colours that run into each other, u8 [H W 3]."""
    coarse = np.random.default_rng(0).integers(
        0, 256, (2 + height // patch_px, 2 + width // patch_px, 3), dtype=np.uint8
    )
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def test_a_checkerboard_averages_to_grey() -> None:
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = resize_crop(np.stack([board] * 3, axis=-1), 32)
    assert np.abs(small.astype(int) - 127).max() <= 2
    # Without antialiasing every 8th pixel is taken, and the board turns black or white.
    assert np.abs(board[::8, ::8].astype(int) - 127).min() > 100


@pytest.mark.parametrize(("height", "width"), [(90, 160), (160, 90), (64, 64), (33, 47)])
def test_a_disc_stays_round(height: int, width: int) -> None:
    y, x = np.mgrid[:height, :width]
    inside = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2 < 12**2
    frame = np.repeat(inside[..., None] * np.uint8(255), 3, axis=-1).astype(np.uint8)
    small = resize_crop(frame, 64)[..., 0] > 127
    tall, wide = (int(small.any(axis=axis).sum()) for axis in (1, 0))
    assert abs(tall - wide) <= 1
    assert wide == pytest.approx(inside.any(axis=0).sum() * 64 / min(height, width), abs=2)


@pytest.mark.parametrize(("share", "first"), [(0.0, 0), (0.5, 40), (1.0, 80)])
def test_the_crop_stands_at_its_share_of_the_free_room(share: float, first: int) -> None:
    ramp = np.broadcast_to(np.arange(120, dtype=np.uint8)[:, None, None], (120, 40, 3)).copy()
    np.testing.assert_array_equal(
        resize_crop(ramp, 40, crop_y=share)[:, 0, 0], np.arange(first, first + 40)
    )
    across = resize_crop(ramp.transpose(1, 0, 2).copy(), 40, crop_x=share)
    np.testing.assert_array_equal(across[0, :, 0], np.arange(first, first + 40))


def test_a_frame_of_the_right_size_is_left_alone() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_crop(frame, 16), frame)


@pytest.mark.parametrize("size", [(240, 320), (161, 97), (33, 47), (500, 40)])
@pytest.mark.parametrize("side_px", [16, 64, 127])
def test_it_is_the_bicubic_filter_of_pillow(size: tuple[int, int], side_px: int) -> None:
    frame, shortest = scene(*size, patch_px=2), min(size)
    left, top = (size[1] - shortest) // 2, (size[0] - shortest) // 2
    box = (left, top, left + shortest, top + shortest)
    away = {}
    for name in ("BICUBIC", "BILINEAR"):
        resized = Image.fromarray(frame).resize((side_px,) * 2, Image.Resampling[name], box=box)
        away[name] = np.abs(resize_crop(frame, side_px).astype(int) - np.array(resized)).mean()
    # Both round on the way.
    assert away["BICUBIC"] < min(1, away["BILINEAR"] / 3)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0)])
def test_a_plain_colour_stays(colour: tuple[int, int, int]) -> None:
    frame = np.broadcast_to(np.array(colour, np.uint8), (50, 71, 3)).copy()
    assert (resize_crop(frame, 32) == colour).all()


@pytest.mark.parametrize("size", [(120, 172), (121, 173)])
@pytest.mark.parametrize(
    "kind", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "gray", "gbrp", "nv12"]
)
def test_a_decoded_frame_becomes_what_its_rgb_becomes(kind: str, size: tuple[int, int]) -> None:
    frame = av.VideoFrame.from_ndarray(scene(*size)).reformat(format=kind)
    expected = resize_crop(frame.to_ndarray(format="rgb24"), 32)
    away = np.abs(Squares().cut(frame, 32).astype(int) - expected)
    # Colours of half the resolution are enlarged by repetition there, by the filter here.
    assert away.mean() < 2


@pytest.mark.parametrize(("space", "reach"), [*itertools.product([1, 5, 9], [1, 2])])
def test_a_frames_own_colour_space_is_used(space: int, reach: int) -> None:
    frame = av.VideoFrame.from_ndarray(scene(120, 172)).reformat(format="yuv444p")
    frame.colorspace, frame.color_range = space, reach
    expected = resize_crop(frame.to_ndarray(format="rgb24"), 32)
    away = np.abs(Squares().cut(frame, 32).astype(int) - expected)
    assert away.mean() < 2


def test_frames_of_another_look_get_a_filter_of_their_own() -> None:
    squares = Squares()
    looks = [
        ((60, 80), "yuv420p", 5),
        ((80, 60), "yuv420p", 5),
        ((60, 80), "yuv444p", 5),
        ((60, 80), "yuv444p", 1),
    ]
    for _, look, share in itertools.product(range(2), looks, np.linspace(0, 1, 8)):
        size, kind, space = look
        frame = av.VideoFrame.from_ndarray(scene(*size)).reformat(format=kind)
        frame.colorspace = space
        got = squares.cut(frame, 16, float(share), 0.5)
        np.testing.assert_array_equal(got, Squares().cut(frame, 16, float(share), 0.5))


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
@pytest.mark.parametrize("size", [(48, 64), (64, 48)])
def test_a_turned_frame_is_cut_as_it_is_shown(
    matrix: tuple[int, int, int, int], size: tuple[int, int], tmp_path: Path
) -> None:
    path = made_clips.make(tmp_path / "turned.mp4", frames=made_clips.pictures(2, *size))
    made_clips.turn(path, matrix)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90).copy()
        for crop in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.5, 0.25)):
            away = np.abs(
                Squares().cut(frame, 24, *crop) - resize_crop(upright, 24, *crop).astype(int)
            )
            assert away.mean() < 3


def test_the_pixels_are_those_that_tokens_were_made_of() -> None:
    """If this fails after a change, RESIZE_FILTER must change with it: tokens mean other pixels."""
    digest = hashlib.sha256()
    for (height, width), side_px, x, y in [
        ((240, 320), 128, 0.5, 0.5),
        ((96, 60), 32, 0.0, 1.0),
        ((40, 64), 48, 0.3, 0.5),
    ]:
        bytes_ = (np.arange(height * width * 3) ** 2 // 97 % 256).astype(np.uint8)
        digest.update(resize_crop(bytes_.reshape(height, width, 3), side_px, x, y).tobytes())
        planes = bytes_[: height * width * 3 // 2].reshape(-1, width)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        digest.update(Squares().cut(frame, side_px, x, y).tobytes())
    assert digest.hexdigest() == (
        "b540e5bdb5e2c364e1788f7089f8c639839dca0a6ec808406968f54dfd6bb992"
    )


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8 \[H W 3\], got float64 \[4, 4, 3\]"):
        resize_crop(np.zeros((4, 4, 3)), 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="side_px must be at least 1, got 0"):
        resize_crop(np.zeros((4, 4, 3), np.uint8), 0)
    with pytest.raises(ValueError, match=r"crop_x is a share in \[0, 1\], got 1.5"):
        resize_crop(np.zeros((4, 4, 3), np.uint8), 2, crop_x=1.5)


def test_a_whole_frame_is_resized_as_a_square_is() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    np.testing.assert_array_equal(resize_whole(frame, (20, 20)), resize_crop(frame, 20))
    assert resize_whole(frame, (48, 48)) is frame


def test_a_squashed_checkerboard_is_grey() -> None:
    """Without antialiasing some lines would survive, since every pixel is seen or is not."""
    board = np.indices((64, 96)).sum(axis=0)[..., None].repeat(3, axis=2) % 2 * 255
    small = resize_whole(board.astype(np.uint8), (23, 31))
    assert small.shape == (23, 31, 3)
    assert abs(small.astype(int) - 127).max() < 12


def test_rejects_a_size_without_a_side() -> None:
    with pytest.raises(ValueError, match=r"size \(0, 8\) has a side below 1 pixel"):
        resize_whole(np.zeros((8, 8, 3), np.uint8), (0, 8))
