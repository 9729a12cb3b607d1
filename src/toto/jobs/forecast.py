"""Where a loss curve is heading, from its logged points alone, and whether it looks well."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise
from operator import mul
from statistics import fmean, median, stdev
from typing import NamedTuple

from toto.train.schedule import WarmupCosine

Point = tuple[int, float]
"""A step, counted from 1, and the loss there."""
LEAST_POINTS = 32
"""Fewer logged losses after the warm-up are never extrapolated."""
LEAST_SHARE = 0.25
"""Nor is a run of which less than this share is done: the curve of so little fits anything."""
WIDEST = 0.1
"""Nor is a forecast given that moves by more than this share of itself."""
FLAT = 0.005
"""A curve is on a plateau when its newest quarter lies less than this share below the one before,
noise taken into account: where the noise hides the fall, nothing is said."""
STRETCHES = 48
"""The curve is fitted to the medians of at most so many stretches, which spikes do not move."""
START = 0.1
"""Of the sum of learning rates so far, what is left out at the beginning of the curve."""
EXPONENTS = tuple(0.05 * 1.12**n for n in range(32))
LEFT_OUT = (0.1, 0.2, 0.3, 0.4)
"""Shares of the newest points that a forecast has to do without, to see how much it moves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """The loss at a run's last step.

    Attributes:
        loss: expected.
        spread: how far it may be off: the farthest that the forecast moves when the newest 10, 20,
            30 or 40 % of the points are left out, and no less than the noise about the curve.
        points: logged losses it rests on.
    """

    loss: float
    spread: float
    points: int


def forecast(points: Sequence[Point], schedule: WarmupCosine) -> Forecast | None:
    """Extend the curve to the last step.

    The curve is a + b S^-c + d r, none of them negative: S is the sum of the learning rates so far,
    the clock by which a late step of a cosine moves the loss less than an early one, and r is the
    rate itself, since a loss is higher while steps are long and falls when they are annealed.

    Source: S as the clock and a term of its own for annealing are Tissue et al., arXiv 2408.11029;
    theirs remembers how the rate fell, ours is simpler and looks at the rate alone.

    Args:
        points: logged training losses.
        schedule: of the learning rate.

    Returns:
        The forecast; None where there is too little to tell.
    """
    used = [point for point in points if point[0] > schedule.warmup]
    if len(used) < LEAST_POINTS or used[-1][0] < LEAST_SHARE * schedule.steps:
        return None
    rates = [schedule(step) / schedule.peak for step in range(schedule.steps)]
    sums = list(accumulate(rates))
    places = [
        _Place(sums[min(step, schedule.steps) - 1], rates[min(step, schedule.steps) - 1], loss)
        for step, loss in smoothed(used, STRETCHES)
    ]
    # The steep start says little of the end, and would weigh the most.
    places = [place for place in places if place.rate_sum >= START * places[-1].rate_sum]
    end = _Place(sums[-1], rates[-1], math.nan)
    expected, noise = _extended(places, end)
    moved = [
        abs(_extended(places[: math.ceil(len(places) * (1 - share))], end)[0] - expected)
        for share in LEFT_OUT
    ]
    spread = max(*moved, noise)
    if not spread <= WIDEST * expected:
        return None
    return Forecast(loss=expected, spread=spread, points=len(used))


def smoothed(points: Sequence[Point], stretches: int) -> list[Point]:
    """Medians of equal stretches of a curve, at each one's middle step."""
    count = min(stretches, len(points))
    cuts = [round(n * len(points) / count) for n in range(count + 1)]
    parts = [points[first:last] for first, last in pairwise(cuts)]
    return [(part[len(part) // 2][0], median(loss for _, loss in part)) for part in parts]


def troubles(
    points: Sequence[Point], validation: Sequence[Point], schedule: WarmupCosine
) -> list[str]:
    """What is not well about a curve, in words; nothing where there is too little to tell."""
    found = []
    after = [loss for step, loss in points if step > schedule.warmup]
    if len(after) >= LEAST_POINTS:
        quarter = len(after) // 4
        before, now = after[-2 * quarter : -quarter], after[-quarter:]
        fall = fmean(before) - fmean(now)
        error = math.hypot(stdev(before), stdev(now)) / math.sqrt(quarter)
        if fall < -3 * error:
            found.append(f"the loss rises: {fmean(before):.4g} to {fmean(now):.4g} of late")
        elif fall + 2 * error < FLAT * fmean(now):
            found.append(
                f"a plateau: over the last {2 * quarter} lines the loss fell by less than "
                f"{100 * FLAT:g} %"
            )
    held_out = [loss for _, loss in validation]
    if (
        len(held_out) >= 4
        and held_out[-3] < held_out[-2] < held_out[-1]
        and min(held_out) < 0.98 * held_out[-1]
    ):
        found.append(
            f"the held-out loss rises: {min(held_out):.4g} at best, {held_out[-1]:.4g} now"
        )
    return found


class _Place(NamedTuple):
    """A place on a loss curve."""

    rate_sum: float
    rate: float
    loss: float


def _extended(places: Sequence[_Place], end: _Place) -> tuple[float, float]:
    """The fitted curve at `end`, and the noise about it, both as losses."""
    best = (math.inf, places[-1].loss)
    for exponent in EXPONENTS:
        rows = [(1.0, place.rate_sum**-exponent, place.rate) for place in places]
        squares, weights = _least_squares(rows, [place.loss for place in places])
        there = (1.0, end.rate_sum**-exponent, end.rate)
        best = min(best, (squares, sum(map(mul, weights, there))))
    squares, loss = best
    return loss, math.sqrt(squares / len(places))


def _least_squares(
    rows: Sequence[Sequence[float]], wanted: Sequence[float]
) -> tuple[float, list[float]]:
    """Sum of squares and weights of the best fit without a negative weight.

    Of three columns there are seven choices to leave out; the best that has no negative one is it.
    """
    width = len(rows[0])
    best = (math.inf, [0.0] * width)
    for count in range(1, width + 1):
        for chosen in combinations(range(width), count):
            found = _solved(
                [[sum(row[a] * row[b] for row in rows) for b in chosen] for a in chosen],
                [sum(row[a] * y for row, y in zip(rows, wanted, strict=True)) for a in chosen],
            )
            if found is None or min(found) < 0:
                continue
            weights = [0.0] * width
            for column, weight in zip(chosen, found, strict=True):
                weights[column] = weight
            squares = sum(
                (sum(map(mul, weights, row)) - y) ** 2 for row, y in zip(rows, wanted, strict=True)
            )
            best = min(best, (squares, weights))
    return best


def _solved(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """Solution of a small system by elimination; None if there is no single one."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for n in range(size):
        pivot = max(range(n, size), key=lambda row: abs(rows[row][n]))
        rows[n], rows[pivot] = rows[pivot], rows[n]
        if abs(rows[n][n]) < 1e-12:
            return None
        for row in range(n + 1, size):
            share = rows[row][n] / rows[n][n]
            rows[row] = [a - share * b for a, b in zip(rows[row], rows[n], strict=True)]
    found = [0.0] * size
    for n in reversed(range(size)):
        rest = sum(rows[n][k] * found[k] for k in range(n + 1, size))
        found[n] = (rows[n][size] - rest) / rows[n][n]
    return found
