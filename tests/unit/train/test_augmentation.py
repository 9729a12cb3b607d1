"""Augmentations of clips: what they may change, and that their draws alone decide."""

import numpy as np
import pytest
import torch

from toto.train.augmentation import (
    ERASED_AREA,
    FILL,
    OPERATIONS,
    AugmentationConfig,
    augment,
)

MAE = AugmentationConfig(crop_area=(0.08, 1.0), flip=0.5, operations=2, erase=0.25)


def clip(frames: int = 2, side: int = 32) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(256, (frames, side, side, 3), generator=draw).byte()


def changed(config: AugmentationConfig, seed: int, frames: torch.Tensor) -> torch.Tensor:
    return augment(frames, config, np.random.default_rng(seed))


def test_the_draws_decide_alone() -> None:
    frames = clip()
    before = frames.clone()
    for seed in range(20):
        torch.manual_seed(seed)
        first = changed(MAE, seed, frames)
        assert torch.equal(changed(MAE, seed, frames), first)
        assert first.shape == frames.shape
        assert first.dtype == torch.uint8
    assert torch.equal(frames, before)
    assert not torch.equal(changed(MAE, 1, frames), changed(MAE, 2, frames))


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    still = clip(frames=1).expand(3, -1, -1, -1)
    for seed in range(30):
        first, *others = changed(MAE, seed, still)
        assert all(torch.equal(first, other) for other in others)


def test_nothing_is_changed_by_default() -> None:
    frames = clip()
    assert not AugmentationConfig().changes
    assert torch.equal(changed(AugmentationConfig(), 0, frames), frames)


def test_a_flip_exchanges_left_and_right() -> None:
    frames = clip()
    assert torch.equal(changed(AugmentationConfig(flip=1.0), 0, frames), frames.flip(2))
    half = [
        torch.equal(changed(AugmentationConfig(flip=0.5), seed, frames), frames)
        for seed in range(200)
    ]
    # 200 fair coins: five deviations.
    assert abs(sum(half) - 100) < 35


def test_a_crop_shows_a_part_of_the_frame_at_its_size() -> None:
    rows = torch.arange(64).byte()[None, :, None, None].expand(1, 64, 64, 3).contiguous()
    config = AugmentationConfig(crop_area=(0.25, 0.25), crop_aspect=(1.0, 1.0))
    for seed in range(20):
        seen = changed(config, seed, rows)[0, :, 0, 0].int()
        # A quarter of the area is half of the rows, drawn out over all.
        assert 28 <= int(seen.max() - seen.min()) <= 32
        assert bool((seen.diff() >= 0).all())


def test_a_whole_crop_changes_nothing() -> None:
    frames = clip()
    config = AugmentationConfig(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0))
    assert torch.equal(changed(config, 0, frames), frames)


def test_erasing_replaces_one_rectangle_by_noise() -> None:
    frames = torch.zeros(2, 60, 60, 3, dtype=torch.uint8)
    shares = []
    for seed in range(50):
        erased = changed(AugmentationConfig(erase=1.0), seed, frames)
        touched = (erased[0] > 0).any(-1)
        rows, columns = touched.any(1).nonzero(), touched.any(0).nonzero()
        area = int(rows[-1] - rows[0] + 1) * int(columns[-1] - columns[0] + 1)
        shares.append(area / 3600)
        # Normal noise is clipped to 0 in all three channels in less than 1 of 50 pixels.
        assert int(touched.sum()) > 0.9 * area
    assert min(shares) > 0.8 * ERASED_AREA[0]
    assert max(shares) < 1.1 * ERASED_AREA[1]


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_an_operation_changes_more_at_a_higher_level(name: str) -> None:
    from PIL import Image

    # A picture with structure, or a turned one would differ as much as a shifted one.
    y, x = np.mgrid[:64, :64]
    smooth = np.stack([60 + 2 * x, 40 + 2 * y, 90 + x + y], axis=-1)
    pixels = (smooth + 8 * (x % 3 == 0)[..., None]).astype(np.uint8)
    image = Image.fromarray(pixels)

    def distance(level: float, sign: int) -> float:
        result = OPERATIONS[name](image, level, sign)
        assert result.size == image.size
        return float(np.abs(np.asarray(result).astype(float) - pixels).mean())

    for sign in (1, -1):
        low, high = distance(0.1, sign), distance(0.9, sign)
        if name in ("auto-contrast", "equalize", "invert"):
            assert low == high > 0
        else:
            assert high > low


def test_what_comes_in_at_the_edges_is_the_mean_colour() -> None:
    from PIL import Image

    black = Image.new("RGB", (40, 40))
    moved = np.asarray(OPERATIONS["translate-x"](black, 1.0, 1))
    assert (moved[:, -17:] == FILL).all()
    assert (moved[:, :20] == 0).all()


@pytest.mark.parametrize("level", [0.0, 0.3, 0.74, 0.9])
def test_posterize_keeps_the_bits_that_pillow_keeps(level: float) -> None:
    from PIL import Image, ImageOps

    image = Image.fromarray(np.arange(256 * 3).astype(np.uint8).reshape(16, 16, 3))
    expected = ImageOps.posterize(image, 4 - int(4 * level))
    assert np.array_equal(OPERATIONS["posterize"](image, level, 1), expected)


def test_posterize_leaves_no_bit_at_the_highest_level() -> None:
    """Which is drawn for a fortieth of MAE's magnitudes, 9 with deviation .5."""
    from PIL import Image

    image = Image.fromarray(np.full((4, 4, 3), 255, np.uint8))
    assert not np.asarray(OPERATIONS["posterize"](image, 1.0, 1)).any()


def test_solarize_add_leaves_bright_bytes() -> None:
    from PIL import Image

    image = Image.fromarray(np.array([[[0, 127, 128], [200, 20, 255]]], dtype=np.uint8))
    added = np.asarray(OPERATIONS["solarize-add"](image, 0.9, 1))
    assert added.tolist() == [[[99, 226, 128], [200, 119, 255]]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flip": 1.5}, "flip 1.5 must lie in 0..1"),
        ({"erase": -0.1}, "erase -0.1 must lie in 0..1"),
        ({"crop_area": (0.5, 0.2)}, r"crop_area \(0.5, 0.2\) must be two rising shares"),
        ({"crop_area": (0.0, 0.2)}, r"crop_area \(0.0, 0.2\) must be two rising shares"),
        ({"crop_aspect": (2.0, 1.0)}, r"crop_aspect \(2.0, 1.0\) must be two rising numbers"),
        ({"operations": -1}, "operations -1 must be 0"),
        ({"magnitude": 11.0}, r"magnitude 11.0 must lie in 0..10"),
        ({"magnitude_deviation": -1.0}, "magnitude_deviation -1.0 must be 0 or more"),
    ],
)
def test_refuses_what_makes_no_sense(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentationConfig(**fields)
