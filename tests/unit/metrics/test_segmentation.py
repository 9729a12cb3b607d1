import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from toto.metrics.segmentation import (
    boundary,
    boundary_accuracy,
    decay,
    objects_of,
    recall,
    region_similarity,
    score_sequence,
)


def square(top: int, left: int, side: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros((1, *size), bool)
    mask[0, top : top + side, left : left + side] = True
    return mask


def boundary_by_hand(mask: np.ndarray) -> list[tuple[int, int]]:
    """The benchmark's rule pixel by pixel: a neighbour that is outside the image never differs."""
    height, width = mask.shape
    return [
        (y, x)
        for y in range(height)
        for x in range(width)
        for dy, dx in ((0, 1), (1, 0), (1, 1))
        if y + dy < height and x + dx < width and mask[y, x] != mask[y + dy, x + dx]
    ]


def f_by_hand(predicted: np.ndarray, truth: np.ndarray, tolerance: float) -> float:
    """F from the distances of all pairs of boundary pixels."""
    ours, theirs = sorted(set(boundary_by_hand(predicted))), sorted(set(boundary_by_hand(truth)))
    if not ours or not theirs:
        return float(not ours and not theirs)
    reach = math.ceil(tolerance * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    near = cdist(ours, theirs, "sqeuclidean") <= reach**2
    precision, recall = near.any(axis=1).mean(), near.any(axis=0).mean()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def random_masks(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A pair of masks of one random kind: empty, full, speckle, or overlapping rectangles."""
    height, width = rng.integers(5, 26, 2)
    truth = np.zeros((height, width), bool)
    predicted = truth.copy()
    for mask in (truth, predicted):
        kind = rng.integers(5)
        if kind == 1:
            mask[:] = True
        elif kind == 2:
            mask[:] = rng.random(mask.shape) < rng.random()
        elif kind > 2:
            top, left = rng.integers(height - 2), rng.integers(width - 2)
            mask[top : top + rng.integers(2, height), left : left + rng.integers(2, width)] = True
    return predicted, truth


def test_j_and_f_match_the_definitions_on_random_masks() -> None:
    rng = np.random.default_rng(0)
    middling = 0
    for _ in range(300):
        predicted, truth = random_masks(rng)
        tolerance = float(rng.choice([0.008, 0.04, 0.1]))
        union = (predicted | truth).sum()
        j = 1.0 if union == 0 else (predicted & truth).sum() / union
        f = f_by_hand(predicted, truth, tolerance)
        assert region_similarity(predicted[None], truth[None])[0] == pytest.approx(j, abs=1e-12)
        got = boundary_accuracy(predicted[None], truth[None], tolerance)[0]
        assert got == pytest.approx(f, abs=1e-12)
        middling += 0 < f < 1
    assert middling > 50


def test_a_square_shifted_by_half_its_side_has_a_third_of_the_union() -> None:
    got = region_similarity(square(10, 10, 12), square(10, 16, 12))
    assert got[0] == pytest.approx(6 * 12 / (18 * 12))


@pytest.mark.parametrize(("shift", "share"), [(0, 1.0), (1, 1.0), (20, 0.0)])
def test_f_forgives_a_shift_within_the_tolerance(shift: int, share: float) -> None:
    # 0.008 of a diagonal of 72 pixels, rounded up: one pixel
    got = boundary_accuracy(square(10, 10, 12), square(10, 10 + shift, 12))
    assert got[0] == pytest.approx(share)


def test_f_of_a_shift_beyond_the_tolerance() -> None:
    """Two pixels to the right, with one forgiven.

    The boundary of a 12-square is a ring of 13 x 13 pixels, 48 in all. Its top and bottom sides
    lie along the other ring's, but for one end each: 12 and 12. Its upright sides are two pixels
    off, but for the two pixels of the inner one that touch the other's top and bottom.
    """
    got = boundary_accuracy(square(10, 10, 12), square(10, 12, 12))
    assert got[0] == pytest.approx((12 + 12 + 2) / 48)


def test_the_rim_of_the_image_is_no_boundary() -> None:
    assert not boundary(np.ones((4, 5), bool)).any()


def test_empty_masks_are_defined() -> None:
    empty, full = np.zeros((1, 8, 8), bool), np.ones((1, 8, 8), bool)
    assert region_similarity(empty, empty)[0] == 1
    assert boundary_accuracy(empty, empty)[0] == 1
    assert boundary_accuracy(empty, full)[0] == 1
    assert boundary_accuracy(square(3, 3, 4), np.zeros((1, 40, 60), bool))[0] == 0
    assert region_similarity(square(3, 3, 4), np.zeros((1, 40, 60), bool))[0] == 0


def test_a_sequence_is_scored_by_object_without_its_first_and_last_frame() -> None:
    truth = np.zeros((4, 40, 60), np.uint8)
    truth[:, 5:15, 5:15] = 1
    truth[:, 20:30, 20:30] = 7
    truth[:, 35:, 50:] = 255
    predicted = np.where(truth == 255, 0, truth).astype(np.uint8)
    predicted[0] = predicted[3] = 0
    predicted[2][predicted[2] == 7] = 0
    score = score_sequence(predicted, truth, (1, 7))
    assert score.objects == (1, 7)
    np.testing.assert_allclose(score.j, [1, 0.5])
    np.testing.assert_allclose(score.f, [1, 0.5])
    np.testing.assert_allclose(score.j_and_f, [1, 0.5])


def test_rejects_masks_of_different_shapes() -> None:
    with pytest.raises(ValueError, match=r"of one shape, got \(1, 4, 4\) and \(1, 4, 5\)"):
        region_similarity(np.zeros((1, 4, 4), bool), np.zeros((1, 4, 5), bool))


def test_rejects_a_tolerance_in_pixels() -> None:
    with pytest.raises(ValueError, match=r"share of the diagonal in \[0, 1\), got 2.0"):
        boundary_accuracy(square(0, 0, 4), square(0, 0, 4), tolerance=2.0)


def test_rejects_a_sequence_with_nothing_between_its_ends() -> None:
    ids = np.ones((2, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="2 frames leave none to score"):
        score_sequence(ids, ids, [1])


def test_rejects_a_sequence_without_objects() -> None:
    ids = np.ones((3, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="no objects to score"):
        score_sequence(ids, ids, [])


def test_rejects_a_predicted_id_that_is_no_object() -> None:
    ids = np.ones((3, 4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"predicted id 1 is not among the objects \(2,\)"):
        score_sequence(ids, ids, [2])


def test_recall_counts_frames_above_one_half() -> None:
    np.testing.assert_allclose(recall(np.array([[0.5, 0.6, 1.0, 0.0]])), [0.5])


def test_decay_is_the_fall_from_the_first_quarter_to_the_last() -> None:
    of_frames = np.array([[1.0, 0.8, 0.6, 0.4, 0.2], [0.5] * 5])
    # five frames: parts of two that share one
    np.testing.assert_allclose(decay(of_frames), [0.9 - 0.3, 0])
    long = np.linspace(1, 0, 1001)[None]
    np.testing.assert_allclose(decay(long), [0.75])


def test_objects_are_one_to_the_highest_of_the_first_frame() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[0, 0], mask[1, 1] = 3, 255
    assert objects_of(mask) == (1, 2, 3)
    assert objects_of(np.full((4, 4), 255, np.uint8)) == ()


def test_what_is_predicted_in_the_end_frames_does_not_matter() -> None:
    truth = np.zeros((4, 8, 8), np.uint8)
    truth[:, 2:5, 2:5] = 1
    predicted = truth.copy()
    predicted[0], predicted[-1] = 9, 255
    assert score_sequence(predicted, truth, (1,)).j_and_f == 1
