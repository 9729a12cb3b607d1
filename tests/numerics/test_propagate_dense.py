"""Tiled label propagation against the whole affinity matrix, written as the recipes word it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_dense import dense

from toto.probe.propagate import propagate
from toto.probe.protocols import PROTOCOLS

FRAMES, ROWS, COLUMNS, WIDTH, OBJECTS = 5, 14, 26, 24, 3


def example(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames that share a texture, so that labels travel, and soft labels that differ by cell."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, ROWS, COLUMNS, WIDTH, generator=generator)
    change = torch.randn(FRAMES, ROWS, COLUMNS, WIDTH, generator=generator)
    mask = torch.randn(ROWS, COLUMNS, 1 + OBJECTS, generator=generator).mul(3).softmax(dim=-1)
    return still + 0.7 * change, mask


CONFIGS = {
    **{name: protocol.propagation for name, protocol in PROTOCOLS.items()},
    "dino, free first": replace(
        PROTOCOLS["dino-480"].propagation, radius=4, radius_applies_to_first=False
    ),
    "dino, no first": replace(
        PROTOCOLS["dino-480"].propagation, context_frames=2, first_frame_always=False
    ),
    "disk, short": replace(PROTOCOLS["videowalk-2020"].propagation, context_frames=2, radius=3),
    "more kept than seen": replace(
        PROTOCOLS["demo"].propagation, context_frames=1, radius=1, topk=500
    ),
}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_tiles_equal_the_dense_matrix(name: str) -> None:
    features, mask = example(seed=0)
    expected, gap = dense(features.numpy(), mask.numpy(), CONFIGS[name])
    assert gap > 5e-7  # else rounding, not the code, may decide which cell is kept
    got = propagate(features, mask, CONFIGS[name]).numpy()
    assert np.array_equal(got.argmax(axis=-1), expected.argmax(axis=-1))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tile", [5, 64])
def test_the_tile_changes_nothing(tile: int) -> None:
    features, mask = example(seed=0)
    usual = propagate(features, mask, CONFIGS["disk, short"])
    other = propagate(features, mask, CONFIGS["disk, short"], tile=tile)
    torch.testing.assert_close(other, usual, rtol=0, atol=1e-5)
