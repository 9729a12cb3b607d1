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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SequenceScore:
    """How well each object of one sequence was followed.

    Attributes:
        objects: the id of each object, in the order of the scores.
        j: region similarity of each object, mean over the scored frames, in [0, 1].
        f: boundary accuracy of each object, mean over the scored frames, in [0, 1].
    """

    objects: tuple[int, ...]
    j: Float64[np.ndarray, " J"]
    f: Float64[np.ndarray, " J"]

    @property
    def j_and_f(self) -> Float64[np.ndarray, " J"]:
        """The mean of J and F of each object, in [0, 1]."""
        return (self.j + self.f) / 2


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
    among `objects` (255 for void, or one that enters later) counts as background.

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
    strange = np.setdiff1d(predicted, [0, *objects])
    if len(strange):
        raise ValueError(f"predicted id {strange[0]} is not among the objects {tuple(objects)}")
    inner = slice(1, -1)
    pairs = [(predicted[inner] == one, truth[inner] == one) for one in objects]
    return SequenceScore(
        objects=tuple(objects),
        j=np.array([region_similarity(p, t).mean() for p, t in pairs]),
        f=np.array([boundary_accuracy(p, t, tolerance).mean() for p, t in pairs]),
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
