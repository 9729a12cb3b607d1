import numpy as np
import pytest
import torch
from torch import Tensor

from toto.metrics.segmentation import score_sequence
from toto.probe.protocols import PROTOCOLS
from toto.tasks.tracking import (
    MaskedClip,
    Tracking,
    copy_first_mask,
    track_clip,
)
from toto.types import Clip

CELL_PX = 8


def moving_square(step_px: int = 4, frames: int = 8) -> MaskedClip:
    """A speckled square that slides right over another still speckle."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 256, (64, 64, 3), np.uint8)
    thing = rng.integers(0, 256, (24, 24, 3), np.uint8)
    pictures = np.repeat(ground[None], frames, axis=0)
    masks = np.zeros((frames, 64, 64), np.uint8)
    for t in range(frames):
        where = (t, slice(16, 40), slice(8 + step_px * t, 32 + step_px * t))
        pictures[where], masks[where] = thing, 3
    masks[:, 60:] = 255
    times_s = torch.arange(frames, dtype=torch.float64) / 10
    clip = Clip(frames=torch.from_numpy(pictures), times_s=times_s, source="made")
    return MaskedClip(clip=clip, masks=masks)


def pixels_of_cells(clip: Clip) -> Tensor:
    """Features without a model: the pixels of each 8 x 8 cell, centred."""
    grid = clip.frames.float().sub(127.5).unfold(1, CELL_PX, CELL_PX).unfold(2, CELL_PX, CELL_PX)
    return grid.flatten(3)


def test_tracking_beats_a_mask_that_stays() -> None:
    masked = moving_square(step_px=CELL_PX, frames=5)
    task = Tracking(clips=(masked,), propagation=PROTOCOLS["demo"].propagation)
    scores = dict(task.evaluate(pixels_of_cells))
    stays = np.where(masked.masks[0] == 255, 0, masked.masks[0]).astype(np.uint8)
    still = score_sequence(copy_first_mask(stays, 5), masked.masks, masked.objects)
    assert list(scores) == ["j", "f", "j_and_f"]
    assert scores["j"] > 0.85
    assert scores["j"] > still.j.mean() + 0.4
    assert scores["j_and_f"] == pytest.approx((scores["j"] + scores["f"]) / 2)


def test_scores_are_means_over_objects_not_clips() -> None:
    one, two = moving_square(step_px=0), moving_square(step_px=CELL_PX, frames=5)
    masks = two.masks.copy()
    masks[:, 48:56, 8:56] = 5
    two = MaskedClip(clip=two.clip, masks=masks)

    def score(*clips: MaskedClip) -> float:
        task = Tracking(clips=clips, propagation=PROTOCOLS["demo"].propagation)
        return dict(task.evaluate(pixels_of_cells))["j"]

    assert two.objects == (3, 5)
    assert score(one, two) == pytest.approx((score(one) + 2 * score(two)) / 3)
    assert score(one) != pytest.approx(score(two), abs=1e-3)


def test_a_tracked_clip_has_the_size_asked_for() -> None:
    masked = moving_square(frames=3)
    features = pixels_of_cells(masked.clip)
    ids = track_clip(features, masked.masks[0], (3,), PROTOCOLS["dino-480"].propagation, (48, 80))
    assert ids.shape == (3, 48, 80)
    assert ids.dtype == np.uint8
    assert set(np.unique(ids)) == {0, 3}


def test_rejects_masks_that_do_not_match_the_frames() -> None:
    masked = moving_square(frames=3)
    with pytest.raises(ValueError, match=r"made: masks \(2, 64, 64\) do not match frames \(3, 64"):
        MaskedClip(clip=masked.clip, masks=masked.masks[:2])


def test_rejects_a_clip_without_an_object() -> None:
    masked = moving_square(frames=3)
    with pytest.raises(ValueError, match="made: the first mask has no object to follow"):
        MaskedClip(clip=masked.clip, masks=np.full_like(masked.masks, 255))


def test_rejects_tracking_without_clips() -> None:
    with pytest.raises(ValueError, match="tracking needs at least one clip"):
        Tracking(clips=(), propagation=PROTOCOLS["demo"].propagation)
