"""Does the best learning rate of a narrow model stay the best of a wide one?

One cell of the sweep is one short training; the widths see the same tokens. The score of a cell is
the mean loss over its last steps: where no sequence comes twice, as in made data, that is a loss on
unseen sequences.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from toto.models.llama import LlamaConfig
from toto.train.loop import train_steps
from toto.train.objectives import next_token
from toto.train.optimizer import AdamWConfig
from toto.train.schedule import WarmupCosine
from toto.types import Batch

Parametrisation = Literal["mup", "standard"]
SCORED_SHARE = 0.1
"""The last part of the steps, whose mean loss is the score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One training of the sweep; its rate is 2^log2_lr."""

    parametrisation: Parametrisation
    width: int
    log2_lr: int
    seed: int


def cells(
    widths: Sequence[int], log2_lrs: Sequence[int], seeds: int, *, base_width: int
) -> list[Cell]:
    """List what there is to train.

    At the base width both parametrisations are the same, so that it is trained once, as muP. The
    widths vary fastest: whatever part of the sweep is done, the rest takes about as long a cell.
    """
    return [
        Cell(parametrisation=kind, width=width, log2_lr=log2_lr, seed=seed)
        for seed, log2_lr, width, kind in product(
            range(seeds), log2_lrs, widths, ("mup", "standard")
        )
        if kind == "mup" or width != base_width
    ]


def train_cell(
    model: LlamaConfig,
    batches: Iterator[Batch],
    optimizer: AdamWConfig,
    schedule: WarmupCosine,
    *,
    seed: int,
    place: torch.device,
    each_step: Callable[[], None],
) -> float | None:
    """Train once.

    Args:
        model: at the cell's width.
        batches: on the model's device.
        optimizer: of the cell.
        schedule: its rates, and how many steps there are.
        seed: of the fresh weights.
        place: where to train.
        each_step: called after every step.

    Returns:
        The score in nats a token; None if the loss or a gradient ceased to be finite.
    """
    torch.manual_seed(seed)
    network = model.build().to(place)
    steps = train_steps(
        network,
        next_token,
        batches,
        optimizer.build(network),
        schedule,
        steps=range(schedule.steps),
        accept=_finite,
    )
    losses = []
    for step in steps:
        if not step.taken:
            return None
        losses.append(step.loss)
        each_step()
    scored = max(1, round(SCORED_SHARE * schedule.steps))
    return torch.stack(losses[-scored:]).mean().item()


def summary(
    scores: Mapping[Cell, float | None],
    widths: Sequence[int],
    log2_lrs: Sequence[int],
    *,
    base_width: int,
) -> dict[str, Any]:
    """Find the best rate of each width, and how far it moves.

    Args:
        scores: of all cells.
        widths: that were trained.
        log2_lrs: rates that were tried.
        base_width: where both parametrisations share their cells.

    Returns:
        By parametrisation: `mean_loss` over seeds, by width and rate, None where a seed's training
        was lost; `best`, by width; `moved`, in powers of two from the lowest best rate to the
        highest; `lost_by_keeping`, what each width loses, in nats, by the narrowest one's best
        rate against its own best.
    """
    found: dict[str, Any] = {}
    for kind in ("mup", "standard"):
        means = {}
        for width in widths:
            trained = "mup" if width == base_width else kind
            means[width] = [_mean(scores, trained, width, log2_lr) for log2_lr in log2_lrs]
        best = {width: _best(losses, log2_lrs) for width, losses in means.items()}
        places = [row["log2_lr"] for row in best.values() if row is not None]
        narrow = best[min(widths)]
        found[kind] = {
            "mean_loss": {str(width): losses for width, losses in means.items()},
            "best": {str(width): row for width, row in best.items()},
            "moved": max(places) - min(places) if len(places) == len(widths) else None,
            "lost_by_keeping": {
                str(width): _lost(means[width], row, narrow, log2_lrs)
                for width, row in best.items()
            },
        }
    return found


def _finite(_: int, loss: Tensor, norm: Tensor) -> bool:
    return bool(torch.isfinite(loss) & torch.isfinite(norm))


def _mean(
    scores: Mapping[Cell, float | None], kind: Parametrisation, width: int, log2_lr: int
) -> float | None:
    values = [
        score
        for cell, score in scores.items()
        if (cell.parametrisation, cell.width, cell.log2_lr) == (kind, width, log2_lr)
    ]
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _best(losses: Sequence[float | None], log2_lrs: Sequence[int]) -> dict[str, Any] | None:
    """The rate with the lowest loss; between the rates, the vertex of the parabola about it."""
    known = [(loss, place) for place, loss in enumerate(losses) if loss is not None]
    if not known:
        return None
    loss, place = min(known)
    row = {"log2_lr": log2_lrs[place], "loss": loss, "between": None}
    below = losses[place - 1] if place else None
    above = losses[place + 1] if place + 1 < len(losses) else None
    # At an end of the rates, or beside a lost training, the best may lie further out.
    row["at_edge"] = below is None or above is None
    if below is not None and above is not None and below + above > 2 * loss:
        spacing = (log2_lrs[place + 1] - log2_lrs[place - 1]) / 2
        row["between"] = log2_lrs[place] + spacing * (below - above) / (
            2 * (below - 2 * loss + above)
        )
    return row


def _lost(
    losses: Sequence[float | None],
    best: Mapping[str, Any] | None,
    narrow: Mapping[str, Any] | None,
    log2_lrs: Sequence[int],
) -> float | None:
    if best is None or narrow is None:
        return None
    kept = losses[log2_lrs.index(narrow["log2_lr"])]
    return None if kept is None else kept - best["loss"]
