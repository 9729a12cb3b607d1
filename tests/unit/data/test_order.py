"""The order of data: exact shares, every item once a reading, and nothing but (seed, step)."""

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from toto.data.order import LONGEST_CYCLE, Order, Place

PAPER = [0.2, 0.1, 0.1, 0.6]
# Sizes that nothing divides, and some of less than one sequence of 16.
MIXTURES = [
    pytest.param([331, 70, 29, 211], PAPER, [16, 1, 1, 1], id="paper"),
    pytest.param([70, 30, 11], [0.6, 0.3, 0.1], [1, 1, 1], id="videos"),
    pytest.param([17, 13, 1], [1.0, 1.0, 1.0], [16, 16, 1], id="thirds"),
    pytest.param([97], [3.0], [5], id="one"),
]
mixtures = pytest.mark.parametrize(("items", "weights", "takes"), MIXTURES)
seeds = pytest.mark.parametrize("seed", [0, 1, 2**40 + 7, -3])


def paper(seed: int = 0) -> Order:
    return Order([331, 70, 29, 211], PAPER, seed, takes=[16, 1, 1, 1])


def places(order: Order, count: int) -> list[Place]:
    return order.step(0, batch=count)


def sources(order: Order, first: int, count: int) -> list[int]:
    assert first % count == 0
    return [place.source for place in order.step(first // count, batch=count)]


def drawn(found: list[Place], source: int) -> list[int]:
    return [item for place in found if place.source == source for item in place.items]


def random_parts(seed: int) -> list[int]:
    """Weights that sum to 1,000."""
    generator = random.Random(seed)
    cuts = sorted(generator.sample(range(1, 1000), generator.randint(1, 11)))
    return [b - a for a, b in pairwise([0, *cuts, 1000])]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (PAPER, [200, 100, 100, 600]),
        ([0.333, 0.333, 0.334], [333, 333, 334]),
        ([0.123, 0.456, 0.421], [123, 456, 421]),
        ([0.001, 0.999], [1, 999]),
        *((parts, parts) for parts in map(random_parts, range(20))),
        *(([part / 1000 for part in parts], parts) for parts in map(random_parts, range(20, 40))),
    ],
)
def test_shares_hold_exactly_in_any_thousand(weights: list[float], expected: list[int]) -> None:
    order = Order([50] * len(weights), weights, 0)
    for first in (0, 1000, 256_000_000):
        assert np.bincount(sources(order, first, 1000)).tolist() == expected
    shifted = sources(order, 0, 2000)[321:1321]
    assert np.bincount(shifted).tolist() == expected


@pytest.mark.parametrize(
    "weights", [PAPER, [1 / 3, 2 / 3], [1 / 7] * 7, [1, 1e-3], *map(random_parts, range(40, 60))]
)
def test_no_source_is_ever_a_whole_sequence_off_its_share(weights: list[float]) -> None:
    found = sources(Order([5] * len(weights), weights, 0), 0, 5000)
    given = np.eye(len(weights))[found].cumsum(0)
    due = np.arange(1, len(found) + 1)[:, None] * np.array(weights) / sum(weights)
    assert abs(given - due).max() < 1 - 1e-6


@pytest.mark.parametrize("parts", [3, 7, 11])
def test_thirds_and_sevenths_stay_exact(parts: int) -> None:
    weights = [1 / parts, 1 - 1 / parts]
    found = sources(Order([5, 5], weights, 0), 0, 10_000 * parts)
    assert np.bincount(found).tolist() == [10_000, 10_000 * (parts - 1)]


def test_no_cycle_is_longer_than_it_may_be() -> None:
    """Weights that a cycle of 490,018 would meet."""
    weights = [1 / 998, 498 / 998, 1 / 982, 490 / 982]
    order = Order([5] * 4, weights, 0)
    first, second = (sources(order, first, LONGEST_CYCLE) for first in (0, LONGEST_CYCLE))
    assert first == second


@pytest.mark.parametrize("seed", range(20))
def test_shares_of_no_short_cycle_are_rounded_and_no_more(seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = (generator.random(generator.integers(2, 9)) + 0.01).tolist()
    found = sources(Order([5] * len(weights), weights, 0), 0, LONGEST_CYCLE)
    given = np.eye(len(weights))[found].cumsum(0)
    due = np.arange(1, len(found) + 1)[:, None] * np.array(weights) / sum(weights)
    # Less than one by the alternation, at most one by the rounding.
    assert abs(given - due).max() < 2


def test_the_scale_of_the_weights_does_not_matter() -> None:
    orders = [Order([70, 30, 11], weights, 0) for weights in ([0.6, 0.3, 0.1], [6.0, 3.0, 1.0])]
    assert places(orders[0], 300) == places(orders[1], 300)


@mixtures
@seeds
def test_each_item_comes_once_in_every_reading(
    items: list[int], weights: list[float], takes: list[int], seed: int
) -> None:
    order = Order(items, weights, seed, takes=takes)
    found = places(order, 3000)
    for source, (count, take) in enumerate(zip(items, takes, strict=True)):
        assert {len(p.items) for p in found if p.source == source} == {take}
        read = drawn(found, source)
        readings = [read[i : i + count] for i in range(0, len(read) - count + 1, count)]
        assert len(readings) >= 3
        for reading in readings:
            assert sorted(reading) == list(range(count))
        if count > 20:  # smaller ones meet by chance
            assert len({tuple(reading) for reading in readings}) == len(readings)


def test_a_reading_may_end_inside_a_sequence_and_loses_nothing() -> None:
    """Of 5 images in sequences of 3, the second sequence holds the seam."""
    found = places(Order([5], [1.0], 0, takes=[3]), 5)
    read = drawn(found, 0)
    assert [sorted(read[first : first + 5]) for first in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 8])
@mixtures
def test_the_ranks_see_the_global_batch_together(
    items: list[int], weights: list[float], takes: list[int], world: int
) -> None:
    order, batch = Order(items, weights, 3, takes=takes), 24
    for step in (0, 17, 10**6):
        whole = order.step(step, batch=batch)
        assert whole[5] == order[step * batch + 5]
        shares = [order.step(step, batch=batch, rank=rank, world=world) for rank in range(world)]
        assert {len(share) for share in shares} == {batch // world}
        assert [place for share in shares for place in share] == whole


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 8])
def test_a_run_resumed_at_100_random_steps_keeps_shares_and_readings(world: int) -> None:
    batch, steps = 24, 500
    starts = sorted(random.Random(world).sample(range(1, steps), 100))
    found: list[Place] = []
    for start, end in pairwise([0, *starts, steps]):
        resumed = paper()
        for step in range(start, end):
            for rank in range(world):
                found += resumed.step(step, batch=batch, rank=rank, world=world)
    assert found == places(paper(), steps * batch)
    for first in range(0, len(found), 1000):
        counts = Counter(place.source for place in found[first : first + 1000])
        assert counts == {0: 200, 1: 100, 2: 100, 3: 600}
    for source, count in enumerate([331, 70, 29, 211]):
        read = drawn(found, source)
        for first in range(0, len(read) - count + 1, count):
            assert sorted(read[first : first + count]) == list(range(count))


def test_is_a_function_of_seed_and_number_alone() -> None:
    forward = places(paper(), 200)
    again = paper()
    backward = [again[sequence] for sequence in reversed(range(200))]
    assert backward[::-1] == forward
    assert paper()[199] == forward[199]


def test_the_order_is_the_one_that_older_runs_had() -> None:
    """A run goes on from its step alone, so another order would be another run."""
    found = Order([331, 10**9], [0.25, 0.75], 7, takes=[4, 1]).step(10**6, batch=4)
    assert [(place.source, place.items) for place in found] == [
        (1, (190967809,)),
        (1, (137616524,)),
        (0, (178, 74, 78, 216)),
        (1, (188971726,)),
    ]


def test_another_seed_is_another_order() -> None:
    orders = [places(paper(seed), 200) for seed in range(4)]
    for one, other in ((a, b) for n, a in enumerate(orders) for b in orders[n + 1 :]):
        same = sum(a.items == b.items for a, b in zip(one, other, strict=True))
        assert same < 10  # by chance, 2 are expected
    # Nor is it a later reading of the same.
    readings = [drawn(places(Order([50], [1.0], seed), 100), 0) for seed in range(4)]
    halves = {tuple(reading[first : first + 50]) for reading in readings for first in (0, 50)}
    assert len(halves) == 8


def test_sources_of_one_size_are_shuffled_apart() -> None:
    found = places(Order([50, 50], [0.5, 0.5], 0), 100)
    assert drawn(found, 0) != drawn(found, 1)


def test_billions_of_windows_need_no_memory_and_no_waiting() -> None:
    found = Order([4 * 10**12], [1.0], 0).step(10**9, batch=2000)
    items = np.array([place.items[0] for place in found])
    assert len(set(items.tolist())) == 2000
    assert items.min() >= 0
    assert items.max() < 4 * 10**12
    assert abs(items.mean() / 4e12 - 0.5) < 0.05  # 7 standard deviations


@pytest.mark.parametrize(
    ("items", "weights", "message"),
    [
        ([], [], "0 sources have 0 weights"),
        ([3], [0.5, 0.5], "1 sources have 2 weights"),
        ([3, 0], [0.5, 0.5], "source 1 has no window; its clips are too short"),
        ([3, 3], [0.5, 0.0], "source 1 has weight 0.0; leave it out instead"),
        ([3, 3], [-1.0, 0.5], "source 0 has weight -1.0; leave it out instead"),
        ([3], [float("nan")], "source 0 has weight nan"),
        ([3, 3], [1.0, float("inf")], "source 1 has weight inf"),
        ([3, 3], [1.0, 1e-5], "source 1 has a share of 1e-05, less than one sequence in 10000"),
        ([3] * 3, [1 / 3, 2 / 3, 1e-9], "source 2 has a share of 1e-09.*raise its weight"),
    ],
)
def test_rejects(items: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Order(items, weights, 0)


def test_rejects_ranks_that_do_not_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="a batch of 10 sequences does not divide among 4 ranks"):
        paper().step(0, batch=10, world=4)
