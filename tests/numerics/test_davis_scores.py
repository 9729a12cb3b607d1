"""Scores of whole sequences against a naive reading of DAVIS's rules, and its own code if there.

The benchmark's code is on no package index. With it on PYTHONPATH, and OpenCV and scikit-image
installed, the last test runs too (docs/log.md has what it found).
"""

import math

import numpy as np
import pytest
from made_sequences_of_masks import sequences
from scipy.spatial.distance import cdist

from toto.metrics.segmentation import VOID, decay, objects_of, recall, score_sequence


def edge(mask: np.ndarray) -> np.ndarray:
    """Places that differ from a neighbour right, below or diagonally below, if there is one."""
    height, width = mask.shape
    found = {
        (y, x)
        for dy, dx in ((0, 1), (1, 0), (1, 1))
        for y, x in zip(
            *np.nonzero(mask[: height - dy, : width - dx] != mask[dy:, dx:]), strict=True
        )
    }
    return np.array(sorted(found)).reshape(-1, 2)


def naive(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean, recall and decay of J, then of F, of each object."""
    objects = range(1, max(int(i) for i in np.unique(truth[0]) if i != VOID) + 1)
    reach = math.ceil(0.008 * math.sqrt(truth.shape[1] ** 2 + truth.shape[2] ** 2))
    rows = []
    for one in objects:
        js, fs = [], []
        for t in range(1, len(truth) - 1):
            p, g = predicted[t] == one, truth[t] == one
            js.append((p & g).sum() / (p | g).sum() if (p | g).any() else 1.0)
            ours, theirs = edge(p), edge(g)
            if len(ours) and len(theirs):
                near = cdist(ours, theirs, "sqeuclidean") <= reach**2
                precision, share = near.any(axis=1).mean(), near.any(axis=0).mean()
                both = precision + share
                fs.append(2 * precision * share / both if both else 0.0)
            else:
                fs.append(float(len(ours) == len(theirs)))
        row = []
        for values in (js, fs):
            # Frames 1 to n, counted from 1, in four parts whose ends are rounded half up.
            ends = [math.floor(1 + (len(values) - 1) * part / 4 + 0.5 + 1e-9) for part in range(5)]
            first, last = values[: ends[1]], values[ends[3] - 1 :]
            row += [
                np.mean(values),
                np.mean(np.array(values) > 0.5),
                np.mean(first) - np.mean(last),
            ]
        rows.append(row)
    return np.array(rows)


def ours(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    score = score_sequence(predicted, truth, objects_of(truth[0]))
    j, f = score.j_of_frames, score.f_of_frames
    return np.stack([score.j, recall(j), decay(j), score.f, recall(f), decay(f)], axis=1)


def test_scores_of_random_sequences_are_those_of_the_rules() -> None:
    absent = several = 0
    for predicted, truth in sequences(200, largest_px=26):
        expected = naive(predicted, truth)
        np.testing.assert_allclose(ours(predicted, truth), expected, rtol=0, atol=1e-9)
        several += len(expected) > 1
        absent += not set(objects_of(truth[0])) <= set(np.unique(truth[0]))
    assert several > 100
    assert absent > 20


def test_scores_of_random_sequences_are_those_of_the_official_code() -> None:
    official = pytest.importorskip("davis2017.evaluation", reason="davis2017-evaluation")
    statistics = pytest.importorskip("davis2017.utils").db_statistics
    for predicted, truth in sequences(200, largest_px=150):
        count = len(objects_of(truth[0]))
        true, found = (
            np.stack([ids[1:-1] == one for one in range(1, count + 1)])
            for ids in (truth, predicted)
        )
        found = found[: max(1, int(predicted[1:-1].max()))]
        j, f = official.DAVISEvaluation._evaluate_semisupervised(true, found, None, ("J", "F"))
        expected = [[*statistics(a), *statistics(b)] for a, b in zip(j, f, strict=True)]
        np.testing.assert_allclose(ours(predicted, truth), expected, rtol=0, atol=1e-9)
