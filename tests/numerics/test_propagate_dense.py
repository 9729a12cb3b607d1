"""Tiled label propagation against the whole affinity matrix, written as the recipes word it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from toto.probe.propagate import PROTOCOLS, Propagation, propagate

FRAMES, ROWS, COLUMNS, WIDTH, OBJECTS = 5, 14, 26, 24, 3


def dense(
    features: np.ndarray, first_mask: np.ndarray, config: Propagation
) -> tuple[np.ndarray, float]:
    """Every cell against every cell of every context frame; what may not be seen weighs nothing.

    Returns:
        The labels, and the least distance in cosine between a cell's last kept and first left out.
    """
    frames, rows, columns, width = features.shape
    cells = features.reshape(frames, rows * columns, width).astype(np.float64)
    cells = cells / np.sqrt((cells**2).sum(axis=-1, keepdims=True))
    y, x = np.divmod(np.arange(rows * columns), columns)
    dy, dx = y[:, None] - y, x[:, None] - x
    if config.radius_shape == "disk":
        near = np.sqrt(dy**2 + dx**2) < config.radius
    else:
        near = np.maximum(abs(dy), abs(dx)) <= config.radius
    labels = [first_mask.reshape(rows * columns, -1).astype(np.float64)]
    gap = np.inf
    for frame in range(1, frames):
        sources, seen = [], []
        if config.first_frame_always:
            sources.append(0)
            seen.append(near if config.radius_applies_to_first else np.ones_like(near))
        for back in range(1, config.context_frames + 1):
            source = frame - back
            if source < 0 or (source == 0 and config.first_frame_always):
                if not config.repeat_first:
                    continue
                source = 0
            sources.append(source)
            seen.append(near)
        cosine = np.concatenate([cells[frame] @ cells[s].T for s in sources], axis=1)
        visible = np.concatenate(seen, axis=1)
        weight = np.exp(cosine / config.temperature) * visible
        values = np.concatenate([labels[s] for s in sources])
        kept = np.argsort(-weight, axis=1)[:, : config.topk]
        last = np.take_along_axis(cosine, kept, axis=1).min(axis=1, keepdims=True)
        # copies of one frame tie exactly, and it does not matter which of them is kept
        lower = np.where(visible & (cosine < last - 1e-12), cosine, -np.inf)
        gap = min(gap, (last[:, 0] - lower.max(axis=1)).min())
        weight = np.take_along_axis(weight, kept, axis=1)
        weight /= weight.sum(axis=1, keepdims=True)
        labels.append((weight[..., None] * values[kept]).sum(axis=1))
    return np.stack(labels).reshape(frames, rows, columns, -1), gap


def example(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames that share a texture, so that labels travel, and soft labels that differ by cell."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, ROWS, COLUMNS, WIDTH, generator=generator)
    change = torch.randn(FRAMES, ROWS, COLUMNS, WIDTH, generator=generator)
    mask = torch.randn(ROWS, COLUMNS, 1 + OBJECTS, generator=generator).mul(3).softmax(dim=-1)
    return still + 0.7 * change, mask


CONFIGS = {
    **PROTOCOLS,
    "dino, free first": replace(PROTOCOLS["dino-480"], radius=4, radius_applies_to_first=False),
    "dino, no first": replace(PROTOCOLS["dino-480"], context_frames=2, first_frame_always=False),
    "disk, short": replace(PROTOCOLS["videowalk-2020"], context_frames=2, radius=3),
    "more kept than seen": replace(PROTOCOLS["demo"], context_frames=1, radius=1, topk=500),
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
