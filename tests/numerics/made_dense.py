"""Label propagation by the whole affinity matrix, as the recipes word it."""

import numpy as np

from toto.probe.propagate import Propagation


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
    elif config.radius_shape == "disk with rim":
        near = np.sqrt(dy**2 + dx**2) <= config.radius
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
