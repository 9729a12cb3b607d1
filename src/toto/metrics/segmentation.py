"""Scores of video object segmentation as DAVIS defines them: J, F and their mean.

The benchmark's own code is not on a package index and needs OpenCV and scikit-image, so its
definitions are written here again; its dilation by a disk is a distance threshold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from scipy.ndimage import distance_transform_edt

VOID = 255
"""The id of pixels that DAVIS leaves unannotated; in masks of 2016 it is the one object's."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SequenceScore:
    """How well each object of one sequence was followed.

    Attributes:
        objects: the id of each object, in the order of the scores.
        j_of_frames: region similarity of each object in each scored frame, in [0, 1].
        f_of_frames: boundary accuracy of each object in each scored frame, in [0, 1].
    """

    objects: tuple[int, ...]
    j_of_frames: Float64[np.ndarray, "J T"]
    f_of_frames: Float64[np.ndarray, "J T"]

    @property
    def j(self) -> Float64[np.ndarray, " J"]:
        """Region similarity of each object, mean over the scored frames."""
        return self.j_of_frames.mean(axis=1)

    @property
    def f(self) -> Float64[np.ndarray, " J"]:
        """Boundary accuracy of each object, mean over the scored frames."""
        return self.f_of_frames.mean(axis=1)

    @property
    def j_and_f(self) -> Float64[np.ndarray, " J"]:
        """The mean of J and F of each object, in [0, 1]."""
        return (self.j + self.f) / 2


def recall(of_frames: Float64[np.ndarray, "J T"]) -> Float64[np.ndarray, " J"]:
    """Share of the frames in which an object scores more than one half.

    Source:
        davisvideochallenge/davis2017-evaluation, `davis2017/utils.py`.
    """
    return (of_frames > 0.5).mean(axis=1)


def decay(of_frames: Float64[np.ndarray, "J T"]) -> Float64[np.ndarray, " J"]:
    """How much an object's score falls from the first quarter of the frames to the last.

    Neighbouring quarters share a frame. The official code keeps frame numbers in a byte, which
    overflows from 257 scored frames on; no DAVIS sequence is as long, and here they count on.

    Source:
        davisvideochallenge/davis2017-evaluation, `davis2017/utils.py`.
    """
    # Halves round up, but for what the multiplication rounded down.
    edges = np.round(np.linspace(1, of_frames.shape[1], 5) + 1e-10).astype(int) - 1
    first, last = of_frames[:, : edges[1] + 1], of_frames[:, edges[3] : edges[4] + 1]
    return first.mean(axis=1) - last.mean(axis=1)


def objects_of(first_mask: UInt8[np.ndarray, "H W"]) -> tuple[int, ...]:
    """The ids that DAVIS scores: 1 to the highest of the first frame, void left out.

    An id below the highest counts even if the first frame lacks it; one that enters later does not.

    Source:
        davisvideochallenge/davis2017-evaluation, `davis2017/davis.py`.
    """
    return tuple(range(1, int(np.where(first_mask == VOID, 0, first_mask).max()) + 1))


def region_similarity(
    predicted: Bool[np.ndarray, "T H W"], truth: Bool[np.ndarray, "T H W"]
) -> Float64[np.ndarray, " T"]:
    """J: intersection over union of two masks, frame by frame.

    Returns:
        Shares in [0, 1]; 1 for a frame where both masks are empty.

    Raises:
        ValueError: if the shapes differ or are not [T H W].

    Source:
        davisvideochallenge/davis2017-evaluation, `davis2017/metrics.py`; docs/paper.md.
    """
    _check_pair(predicted, truth)
    both = np.count_nonzero(predicted & truth, axis=(1, 2))
    either = np.count_nonzero(predicted | truth, axis=(1, 2))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def boundary_accuracy(
    predicted: Bool[np.ndarray, "T H W"],
    truth: Bool[np.ndarray, "T H W"],
    tolerance: float = 0.008,
) -> Float64[np.ndarray, " T"]:
    """F: harmonic mean of the boundary's precision and recall, frame by frame.

    A boundary pixel counts as found if a boundary pixel of the other mask lies within the
    tolerance. A mask that fills its frame, like an empty one, has no boundary.

    Args:
        predicted: the object's mask as it was followed.
        truth: the object's mask as it was annotated.
        tolerance: share of the image's diagonal, rounded up to whole pixels.

    Returns:
        Shares in [0, 1]; 1 where neither mask has a boundary, 0 where only one has.

    Raises:
        ValueError: if the shapes differ or are not [T H W], or the tolerance is not in [0, 1).

    Source:
        davisvideochallenge/davis2017-evaluation, `davis2017/metrics.py`; docs/paper.md.
    """
    _check_pair(predicted, truth)
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is a share of the diagonal in [0, 1), got {tolerance}")
    reach_px = math.ceil(tolerance * math.hypot(*truth.shape[1:]))
    pairs = zip(predicted, truth, strict=True)
    return np.array([_f_measure(boundary(p), boundary(t), reach_px) for p, t in pairs], np.float64)


def boundary(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Mark each pixel that differs from the one right of it, below it, or diagonally below.

    The line is one pixel wide and lies half a pixel up and left of the true edge. Pixels outside
    the image count as equal to the last row or column, so the image's rim is no boundary.

    Source:
        `seg2bmap` of the Berkeley segmentation benchmark, as DAVIS uses it.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask != right) | (mask != below) | (mask != diagonal)


def score_sequence(
    predicted: UInt8[np.ndarray, "T H W"],
    truth: UInt8[np.ndarray, "T H W"],
    objects: Sequence[int],
    tolerance: float = 0.008,
) -> SequenceScore:
    """Score every object of one sequence.

    The first frame is given and the last left out, as DAVIS does. An annotated id that is not
    among `objects` (255 for void, or one that enters later) counts as background. Neither end is
    looked at, so that what was predicted there costs nothing.

    Args:
        predicted: an object's id at each pixel, 0 for background.
        truth: the annotated ids.
        objects: the ids to score.
        tolerance: see `boundary_accuracy`.

    Raises:
        ValueError: if the shapes differ, there are fewer than 3 frames or no objects, or an id
            was predicted that is not among the objects.
    """
    _check_pair(predicted, truth)
    if len(truth) < 3:
        raise ValueError(f"{len(truth)} frames leave none to score: the first and last are not")
    if len(objects) == 0:
        raise ValueError("no objects to score")
    inner = slice(1, -1)
    strange = np.setdiff1d(predicted[inner], [0, *objects])
    if len(strange):
        raise ValueError(f"predicted id {strange[0]} is not among the objects {tuple(objects)}")
    pairs = [(predicted[inner] == one, truth[inner] == one) for one in objects]
    return SequenceScore(
        objects=tuple(objects),
        j_of_frames=np.array([region_similarity(p, t) for p, t in pairs]),
        f_of_frames=np.array([boundary_accuracy(p, t, tolerance) for p, t in pairs]),
    )


def _f_measure(predicted: np.ndarray, truth: np.ndarray, reach_px: int) -> float:
    if not predicted.any() and not truth.any():
        return 1.0
    if not predicted.any() or not truth.any():
        return 0.0
    precision = (np.asarray(distance_transform_edt(~truth))[predicted] <= reach_px).mean()
    recall = (np.asarray(distance_transform_edt(~predicted))[truth] <= reach_px).mean()
    if precision + recall == 0:
        return 0.0
    return float(2 * precision * recall / (precision + recall))


def _check_pair(predicted: np.ndarray, truth: np.ndarray) -> None:
    if predicted.shape != truth.shape or truth.ndim != 3:
        raise ValueError(
            f"masks are [T H W] and of one shape, got {predicted.shape} and {truth.shape}"
        )
