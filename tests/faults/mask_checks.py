"""What scoring and following of masks must hold; see `evaluation_checks`."""

import math

import numpy as np
import torch
from torch import nn

from toto.metrics import segmentation
from toto.probe import propagate


def masks_score_as_davis_scores_them(*_: object) -> None:
    """J and F by plain loops over pixels, of each object in all frames but the first and last."""
    draw = np.random.default_rng(0)
    for _ in range(4):
        true, guess = draw.integers(0, 4, (2, 5, 9, 11)).astype(np.uint8)
        true[2][true[2] == 1] = guess[2][guess[2] == 1] = 0
        guess[guess == 2] = 0
        # At this tolerance the boundary's reach is one pixel.
        found = segmentation.score_sequence(guess, true, (1, 3), 0.05)
        for place, one in enumerate((1, 3)):
            j = [_overlap(guess[t] == one, true[t] == one) for t in range(1, 4)]
            f = [_rim(guess[t] == one, true[t] == one) for t in range(1, 4)]
            assert math.isclose(found.j[place], sum(j) / 3, abs_tol=1e-12)
            assert math.isclose(found.f[place], sum(f) / 3, abs_tol=1e-12)
            assert math.isclose(found.j_and_f[place], (sum(j) + sum(f)) / 6, abs_tol=1e-12)
    blank = np.zeros((5, 300, 300), np.uint8)
    square, near = blank.copy(), blank.copy()
    square[:, 50:150, 50:150], near[:, 54:154, 50:150] = 1, 1
    # The default reach is 4 px here: ceil(.008 x 424).
    assert segmentation.score_sequence(near, square, (1,)).f[0] == 1.0
    near[:, 54:158, 50:150] = 1
    assert segmentation.score_sequence(near, square, (1,)).f[0] < 1.0


def _overlap(guess: np.ndarray, true: np.ndarray) -> float:
    pixels = [(bool(g), bool(t)) for g, t in zip(guess.flat, true.flat, strict=True)]
    either = sum(g or t for g, t in pixels)
    return sum(g and t for g, t in pixels) / either if either else 1.0


def _rim(guess: np.ndarray, true: np.ndarray, reach_px: int = 1) -> float:
    rims = []
    for mask in (guess, true):
        rows, columns = mask.shape
        rims.append(
            {
                (y, x)
                for y in range(rows)
                for x in range(columns)
                if len(
                    {
                        bool(mask[min(y + dy, rows - 1), min(x + dx, columns - 1)])
                        for dy in (0, 1)
                        for dx in (0, 1)
                    }
                )
                > 1
            }
        )
    ours, theirs = rims
    if not ours or not theirs:
        return float(not ours and not theirs)

    def met(some: set[tuple[int, int]], others: set[tuple[int, int]]) -> float:
        near = [any((y - v) ** 2 + (x - u) ** 2 <= reach_px**2 for v, u in others) for y, x in some]
        return sum(near) / len(near)

    precision, recall = met(ours, theirs), met(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def masks_become_cells_and_back(*_: object) -> None:
    """By hand, on masks whose cells are clear."""
    mask = np.zeros((8, 12), np.uint8)
    mask[:4, :4], mask[4:, 8:], mask[:, 11] = 1, 3, 9
    soft = propagate.mask_to_grid(mask, (1, 3), (2, 3), "area")
    assert soft[0, 0].tolist() == [0, 1, 0]
    assert soft[1, 2].tolist() == [0.25, 0, 0.75]
    # An object that fills the corner of a cell, but not its middle.
    mask[0, :2] = mask[1, :2] = 1
    mask[:4, 2:4] = mask[2:4, :4] = 0
    middle = propagate.mask_to_grid(mask, (1, 3), (2, 3), "nearest")
    assert middle.argmax(-1).tolist() == [[0, 0, 0], [0, 0, 2]]
    # From 1 to .4 between the middles of two cells of 4 px, against a background of .5.
    object_1YX = torch.tensor([[[1.0, 0.4]]])
    soft_TYXJ = torch.stack([torch.full_like(object_1YX, 0.5), object_1YX], -1)
    back = propagate.grid_to_mask(soft_TYXJ, (7,), (2, 8))
    assert back[0].tolist() == [[7] * 5 + [0] * 3] * 2
    # Ids are never averaged: between 1 and 3 there is no 2.
    pair = torch.zeros(1, 1, 2, 3)
    pair[0, 0, 0, 1] = pair[0, 0, 1, 2] = 1
    assert set(propagate.grid_to_mask(pair, (1, 3), (4, 16)).flat) == {1, 3}


def labels_follow_the_likest_cells(*_: object) -> None:
    """Against every cell of every frame compared with every other."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(4, 3, 4, 5, generator=draw)
    first = torch.rand(3, 4, 2, generator=draw).softmax(-1)
    config = propagate.Propagation(context_frames=2, radius=1, topk=3, temperature=0.2)
    found = propagate.propagate(features, first, config).flatten(1, 2)
    unit = nn.functional.normalize(features.flatten(1, 2).double(), dim=-1)
    place = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    near = (place[:, None] - place).abs().amax(-1) <= 1
    labels = [first.flatten(0, 1).double()]
    for frame in range(1, 4):
        context = {1: [0], 2: [0, 1], 3: [0, 1, 2]}[frame]
        weight = torch.cat([unit[frame] @ unit[c].T + near.double().log() for c in context], 1)
        best, which = weight.topk(3, dim=1)
        known = torch.cat([labels[c] for c in context])
        share = (best / 0.2).softmax(1)
        labels.append((share[..., None] * known[which]).sum(1))
    torch.testing.assert_close(found.double(), torch.stack(labels), rtol=1e-4, atol=1e-5)
