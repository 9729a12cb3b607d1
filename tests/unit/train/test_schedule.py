import math
from itertools import pairwise

import pytest

from toto.train.schedule import WarmupCosine, cosine, ramp

SCHEDULE = WarmupCosine(peak=3e-4, warmup=20, steps=200, floor=0.1)


def test_values_by_hand() -> None:
    """Warm-up in 4 steps to 8, then half a cosine over 4 steps towards 2."""
    schedule = WarmupCosine(peak=8.0, warmup=4, steps=8, floor=0.25)
    half = 5 + 3 * math.cos(math.pi / 4)
    expected = [2.0, 4.0, 6.0, 8.0, 8.0, half, 5.0, 10 - half]
    assert [schedule(step) for step in range(8)] == pytest.approx(expected)


def test_rises_to_the_peak_and_then_falls() -> None:
    rates = [SCHEDULE(step) for step in range(200)]
    assert all(b > a for a, b in pairwise(rates[:20]))
    assert rates[19] == max(rates) == SCHEDULE.peak == pytest.approx(rates[20])
    assert all(b < a for a, b in pairwise(rates[20:]))
    assert 0.1 * SCHEDULE.peak < rates[-1] < 0.101 * SCHEDULE.peak


def test_the_first_step_trains_already() -> None:
    assert SCHEDULE(0) == SCHEDULE.peak / 20


def test_without_warmup_it_starts_at_the_peak() -> None:
    assert WarmupCosine(peak=1.0, warmup=0, steps=10)(0) == 1.0


def test_stays_at_the_floor_beyond_the_end() -> None:
    assert SCHEDULE(200) == SCHEDULE(10_000) == pytest.approx(0.1 * SCHEDULE.peak)


@pytest.mark.parametrize(("warmup", "steps"), [(10, 10), (11, 10), (-1, 10)])
def test_rejects_a_warmup_that_does_not_end_before_the_run(warmup: int, steps: int) -> None:
    with pytest.raises(ValueError, match=f"warmup {warmup} must be less than steps {steps}"):
        WarmupCosine(peak=1.0, warmup=warmup, steps=steps)


def test_cosine_runs_between_its_ends_and_is_held_beyond() -> None:
    assert cosine(1.0, 0.2, 0.0) == cosine(1.0, 0.2, -3.0) == pytest.approx(1.0)
    assert cosine(1.0, 0.2, 0.5) == pytest.approx(0.6)
    assert cosine(1.0, 0.2, 1.0) == cosine(1.0, 0.2, 9.0) == pytest.approx(0.2)


def test_ramp_runs_between_its_ends_and_is_held_beyond() -> None:
    assert [ramp(6.0, share) for share in (-1.0, 0.0, 0.25, 1.0, 2.0)] == [0, 0, 1.5, 6, 6]
