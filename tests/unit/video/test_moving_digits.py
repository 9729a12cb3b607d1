from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from toto.video.datasets.moving_digits import (
    MOTIONS,
    DigitClip,
    MovingDigits,
    MovingDigitsConfig,
    Split,
    _digit_indices,
)

SPLITS = get_args(Split)
FLAT = 110
"""A grey that every contrast maps to 90."""
CONFIG = MovingDigitsConfig(frames=12, side_px=64, digit_px=24)


def digits(split: Split = "train", *, noise: bool = False, **fields: Any) -> MovingDigits:
    """Digits over flat grey, so that every other pixel is theirs; or over noise."""
    random = np.random.default_rng(0)
    if noise:
        backgrounds = [random.integers(256, size=(n, 80, 96, 3)).astype(np.uint8) for n in (9, 1)]
    else:
        backgrounds = [np.full((20, 64, 64, 3), FLAT, dtype=np.uint8)]
    values = {"frames": 12, "side_px": 64, "digit_px": 24, **fields}
    return MovingDigits(MovingDigitsConfig(**values), backgrounds, split)


def card(clip: DigitClip, frame: int) -> np.ndarray:
    """Pixels where the card is, or would be if nothing hid it."""
    x, y = (clip.centres_px[frame] - CONFIG.digit_px / 2).astype(int)
    frames = clip.clip.frames.numpy()
    return frames[frame, y : y + CONFIG.digit_px, x : x + CONFIG.digit_px]


def same(one: DigitClip, other: DigitClip) -> bool:
    return (
        torch.equal(one.clip.frames, other.clip.frames)
        and (one.digit, one.motion) == (other.digit, other.motion)
        and np.array_equal(one.masks, other.masks)
        and np.array_equal(one.centres_px, other.centres_px)
        and np.array_equal(one.hidden, other.hidden)
    )


def test_a_clip_is_a_function_of_its_number() -> None:
    forward = digits(noise=True)
    clips = [forward[index] for index in range(8)]
    again = digits(noise=True)
    assert all(same(again[index], clips[index]) for index in reversed(range(8)))
    assert not any(same(clips[index], clips[index + 1]) for index in range(7))


@pytest.mark.parametrize("split", SPLITS)
def test_another_seed_or_split_gives_other_clips(split: Split) -> None:
    one = digits(split)[3]
    assert not same(one, digits(split, seed=1)[3])
    assert not any(same(one, digits(other)[3]) for other in SPLITS if other != split)


def test_clips_have_the_sizes_and_times_promised() -> None:
    clip = digits(noise=True, fps=8.0)[0]
    assert clip.clip.frames.shape == (12, 64, 64, 3)
    assert clip.clip.frames.dtype == torch.uint8
    assert clip.clip.times_s.tolist() == [n / 8 for n in range(12)]
    assert clip.clip.source == "moving-digits/train#0"
    assert (clip.masks.shape, clip.masks.dtype) == ((12, 64, 64), np.uint8)
    assert (clip.centres_px.shape, clip.hidden.shape) == ((12, 2), (12,))


def test_splits_share_no_handwritten_image_but_pretraining_and_train() -> None:
    images = {split: set(_digit_indices(split).tolist()) for split in SPLITS}
    assert images["pretrain"] == images["train"]
    for one, other in (("train", "selection"), ("train", "test"), ("selection", "test")):
        assert not images[one] & images[other]
    assert set.union(*images.values()) == set(range(1797))


@pytest.mark.parametrize("split", SPLITS)
def test_clips_show_an_image_of_their_split_and_its_digit(split: Split) -> None:
    """Found again by comparing the card with all 1,797 enlarged images."""
    known = load_digits()
    size = (CONFIG.digit_px, CONFIG.digit_px)
    enlarged = np.stack(
        [
            np.asarray(
                Image.fromarray((image / 16 * 255).astype(np.uint8)).resize(
                    size, Image.Resampling.BICUBIC
                ),
                dtype=float,
            ).ravel()
            for image in known.images
        ]
    )
    enlarged = (enlarged - enlarged.mean(1, keepdims=True)) / enlarged.std(1, keepdims=True)
    made = digits(split, occluder_share=0.0)
    for index in range(12):
        clip = made[index]
        found = card(clip, 0).astype(float).mean(-1).ravel()
        likeness = enlarged @ ((found - found.mean()) / found.std()) / found.size
        best = int(likeness.argmax())
        assert likeness[best] > 0.999
        assert best in _digit_indices(split)
        assert known.target[best] == clip.digit


def test_masks_are_where_the_card_is_seen() -> None:
    made = digits(occluder_share=0.0)
    for index in range(30):
        clip = made[index]
        frames = clip.clip.frames.numpy()
        assert (frames[clip.masks == 0] == 90).all()
        for frame in range(12):
            assert np.array_equal(card(clip, frame), card(clip, 0))  # the same card throughout
            rows, columns = np.nonzero(clip.masks[frame])
            assert len(rows) == CONFIG.digit_px**2
            centre = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
            assert centre == tuple(clip.centres_px[frame])
        assert not clip.hidden.any()


def test_an_occluder_hides_what_is_behind_it() -> None:
    made, free = digits(occluder_share=1.0), digits(occluder_share=0.0)
    hidden = 0
    for index in range(60):
        clip, bare = made[index], free[index]
        frames = clip.clip.frames.numpy()
        covered = (bare.masks == 1) & (clip.masks == 0)
        # The bar has one colour and does not move: no other pixel of the card is covered.
        assert len(np.unique(frames[covered], axis=0)) <= 1
        assert np.array_equal(frames[clip.masks == 1], bare.clip.frames.numpy()[clip.masks == 1])
        assert (clip.masks <= bare.masks).all()
        assert np.array_equal(clip.centres_px, bare.centres_px)  # known while it is hidden
        seen = clip.masks.sum((1, 2)) / CONFIG.digit_px**2
        assert np.array_equal(clip.hidden, seen < 0.1)
        hidden += clip.hidden.any()
    assert hidden > 10


def test_the_share_of_clips_with_an_occluder() -> None:
    made, free = digits(occluder_share=0.25), digits(occluder_share=0.0)
    with_bar = sum(not same(made[index], free[index]) for index in range(400))
    assert 100 - 35 < with_bar < 100 + 35  # four deviations


def paths(motion: str, count: int = 15) -> list[np.ndarray]:
    made, found, index = digits(occluder_share=0.0), [], 0
    while len(found) < count:
        clip = made[index]
        if MOTIONS[clip.motion] == motion:
            found.append(clip.centres_px)
        index += 1
    return found


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_is_what_its_name_says(motion: str) -> None:
    for path in paths(motion):
        x, y = path.T
        low, high = CONFIG.digit_px / 2, CONFIG.side_px - CONFIG.digit_px / 2
        assert path.min() >= low
        assert path.max() <= high
        assert (len(np.unique(path, axis=0)) > 1) == (motion != "still")
        if motion in ("still", "up-down"):
            assert len(set(x)) == 1
        if motion in ("still", "left-right"):
            assert len(set(y)) == 1
        if motion == "falling diagonal":
            assert len(set(x - y)) == 1
        if motion == "rising diagonal":
            assert len(set(x + y)) == 1
        if motion == "circling":
            radius = np.linalg.norm(path - CONFIG.side_px / 2, axis=1)
            # Each coordinate is off by half a grid step at most.
            assert np.ptp(radius) <= CONFIG.grid_px * np.sqrt(2)


def test_speeds_are_those_of_the_config() -> None:
    for motion in ("left-right", "up-down"):
        steps = np.abs(np.concatenate([np.diff(path, axis=0) for path in paths(motion)])).max(1)
        # 0: there and back within one frame, at an edge.
        assert set(steps) - {0} == set(CONFIG.speeds_px)


def test_classes_come_equally_often() -> None:
    made = digits()
    clips = [made[index] for index in range(600)]
    for labels, classes in (
        ([clip.motion for clip in clips], len(MOTIONS)),
        ([clip.digit for clip in clips], 10),
    ):
        counts = np.bincount(labels, minlength=classes)
        assert len(counts) == classes
        assert (np.abs(counts - 600 / classes) < 5 * np.sqrt(600 / classes)).all()


def test_the_background_is_a_real_clip_that_plays() -> None:
    still, playing = digits(noise=True, background_stride=0), digits(noise=True)
    differ = 0
    for index in range(10):
        for made in (still, playing):
            clip = made[index]
            frames = clip.clip.frames.numpy().astype(int)
            empty = (clip.masks == 0).all(0)
            change = np.abs(np.diff(frames[:, empty], axis=0)).max() > 0
            assert not (made is still and change)
            differ += change
    assert differ > 2  # one of the two backgrounds has a single frame and cannot play


def test_contrast_0_leaves_no_background() -> None:
    clip = digits(noise=True, background_contrast=0.0, occluder_share=0.0)[1]
    assert (clip.clip.frames.numpy()[clip.masks == 0] == 90).all()


def test_rejects_no_background() -> None:
    with pytest.raises(ValueError, match="moving digits need at least one real clip as background"):
        MovingDigits(CONFIG, [], "train")


def test_rejects_a_background_that_is_too_small() -> None:
    backgrounds = [np.zeros((5, 64, 64, 3), np.uint8), np.zeros((5, 70, 60, 3), np.uint8)]
    with pytest.raises(ValueError, match="background 1 is 60x70 px, smaller than the frame of 64"):
        MovingDigits(CONFIG, backgrounds, "train")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"digit_px": 7}, r"digit_px 7 must lie in 8\.\."),
        ({"digit_px": 65}, r"digit_px 65 must lie in 8\.\."),
        ({"occluder_share": 1.5}, r"occluder_share 1.5 must lie in 0\.\.1"),
        ({"speeds_px": ()}, r"speeds_px \(\) is empty or grid_px \d below 1"),
        ({"grid_px": 0}, "is empty or grid_px 0 below 1"),
        ({"frames": 1}, "frames 1: motion needs at least 2"),
    ],
)
def test_rejects(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MovingDigitsConfig(**fields)
