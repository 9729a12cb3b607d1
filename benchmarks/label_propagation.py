"""One label-propagation frame at 480p, 8 px a cell: tiles against the dense affinity matrix."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.side_by_side import line, ratio
from toto.probe.propagate import propagate
from toto.probe.protocols import PROTOCOLS

ROWS, COLUMNS, WIDTH = 60, 107, 768


def dense(features: torch.Tensor, first_mask: torch.Tensor) -> torch.Tensor:
    """The last frame by the whole matrix, as DINO's script computes it, under `dino-480`."""
    config = PROTOCOLS["dino-480"].propagation
    normal = F.normalize(features, dim=-1)
    target, context = normal[-1].flatten(0, 1), normal[:-1].flatten(0, 2)
    affinity = (context @ target.T / config.temperature).exp().unflatten(0, (len(features) - 1, -1))
    row, column = torch.arange(ROWS * COLUMNS) // COLUMNS, torch.arange(ROWS * COLUMNS) % COLUMNS
    near = ((row[:, None] - row).abs() <= config.radius) & (
        (column[:, None] - column).abs() <= config.radius
    )
    affinity = (affinity * near).flatten(0, 1)
    least = affinity.topk(config.topk, dim=0).values[-1]
    affinity = torch.where(affinity >= least, affinity, 0)
    labels = first_mask.flatten(0, 1).repeat(len(features) - 1, 1)
    return (affinity / affinity.sum(0)).T @ labels


def run() -> Iterator[str]:
    """Yield one line: two frames, so that both sides propagate exactly one."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, ROWS, COLUMNS, WIDTH, generator=generator)
    mask = F.one_hot(torch.randint(2, (ROWS, COLUMNS), generator=generator), 2).float()
    config = PROTOCOLS["dino-480"].propagation
    agree = (
        (
            propagate(features, mask, config)[-1].flatten(0, 1).argmax(-1)
            == dense(features, mask).argmax(-1)
        )
        .float()
        .mean()
    )
    yield line(
        f"label propagation, 1 context frame, tiles / dense ({100 * agree:.2f} % same labels)",
        ratio(lambda: propagate(features, mask, config), lambda: dense(features, mask), rounds=3),
    )
