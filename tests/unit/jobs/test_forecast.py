"""Where a loss curve is said to end, and what is said of its shape."""

import random

import pytest

from toto.jobs.forecast import Point, forecast, smoothed, troubles
from toto.train.schedule import WarmupCosine

SCHEDULE = WarmupCosine(peak=1e-3, warmup=50, steps=2000)


def curve(last: int, *, noise: float = 0.01, anneal: float = 0.3) -> list[Point]:
    """A loss that falls with the sum of the rates, and with the rate."""
    draw, total, points = random.Random(0), 0.0, []
    for step in range(1, last + 1):
        rate = SCHEDULE(step - 1) / SCHEDULE.peak
        total += rate
        loss = 2 + 4 * (total + 1) ** -0.4 + anneal * rate + draw.gauss(0, noise)
        if step % 5 == 0:
            points.append((step, loss))
    return points


@pytest.mark.parametrize("share", [0.4, 0.5, 0.7, 0.9])
def test_the_end_lies_within_the_spread_that_is_given(share: float) -> None:
    end = curve(2000, noise=0)[-1][1]
    found = forecast(curve(int(share * 2000)), SCHEDULE)
    assert found is not None
    assert abs(found.loss - end) <= max(found.spread, 0.01)
    assert found.loss == pytest.approx(end, abs=0.1)
    assert found.points == len([step for step, _ in curve(int(share * 2000)) if step > 50])


def test_too_little_is_not_extended() -> None:
    assert forecast(curve(400), SCHEDULE) is None  # a fifth of the run
    assert forecast(curve(1000)[-31:], SCHEDULE) is None
    assert forecast([], SCHEDULE) is None
    draw = random.Random(0)
    wild = [(step, 3 + draw.uniform(-2, 2) + step / 300) for step in range(60, 700, 10)]
    assert forecast(wild, SCHEDULE) is None


def test_a_flat_curve_stays_where_it_is() -> None:
    found = forecast([(step, 2.5) for step in range(60, 1000, 5)], SCHEDULE)
    assert found is not None
    assert (found.loss, found.spread) == (pytest.approx(2.5), pytest.approx(0, abs=1e-6))


def test_lone_spikes_do_not_move_it() -> None:
    points = curve(1200)
    spiked = [(step, 50.0 if n % 25 == 7 else loss) for n, (step, loss) in enumerate(points)]
    calm, moved = forecast(points, SCHEDULE), forecast(spiked, SCHEDULE)
    assert calm is not None
    assert moved is not None
    assert moved.loss == pytest.approx(calm.loss, abs=0.03)


def test_smoothing_keeps_the_ends_and_takes_medians() -> None:
    points = [(step, float(step)) for step in range(1, 101)]
    assert smoothed(points, 10)[0] == (6, 5.5)
    assert len(smoothed(points, 10)) == 10
    assert smoothed(points[:3], 10) == points[:3]


def test_shapes_that_are_not_well() -> None:
    assert troubles(curve(1500), [], SCHEDULE) == []
    risen = [(step, loss + (step > 700) * 0.5) for step, loss in curve(900)]
    assert troubles(risen, [], SCHEDULE)[0].startswith("the loss rises: ")
    draw = random.Random(1)
    flat = [(step, 3 + draw.gauss(0, 0.01)) for step in range(5, 1200, 5)]
    assert troubles(flat, [], SCHEDULE)[0].startswith("a plateau: ")
    noisy = [(step, 3 + draw.gauss(0, 0.5)) for step in range(5, 1200, 5)]
    assert troubles(noisy, [], SCHEDULE) == []
    held_out = [(200, 3.0), (400, 2.8), (600, 2.9), (800, 3.0)]
    assert troubles(curve(1500), held_out, SCHEDULE) == [
        "the held-out loss rises: 2.8 at best, 3 now"
    ]
    assert troubles(curve(100), [], SCHEDULE) == []
