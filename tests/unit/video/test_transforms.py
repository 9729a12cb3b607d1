import numpy as np
import pytest

from toto.video.transforms import resize_crop


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
    assert wide == pytest.approx(24 * 64 / min(height, width), abs=2)


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


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8 \[H W 3\], got float64 \[4, 4, 3\]"):
        resize_crop(np.zeros((4, 4, 3)), 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="side_px must be at least 1, got 0"):
        resize_crop(np.zeros((4, 4, 3), np.uint8), 0)
    with pytest.raises(ValueError, match=r"crop_x is a share in \[0, 1\], got 1.5"):
        resize_crop(np.zeros((4, 4, 3), np.uint8), 2, crop_x=1.5)
