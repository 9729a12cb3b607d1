from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from toto.data.order import Order, Place

WINDOWS, WEIGHTS = [70, 30, 11], [0.6, 0.3, 0.1]


def order(seed: int = 0) -> Order:
    return Order(WINDOWS, WEIGHTS, seed)


def places(order: Order, count: int) -> list[Place]:
    return [order[sequence] for sequence in range(count)]


def test_shares_hold_exactly_in_every_thousand() -> None:
    found = order()
    for first in (0, 1000, 5000):
        counts = Counter(found[first + sequence].source for sequence in range(1000))
        assert counts == {0: 600, 1: 300, 2: 100}


def test_the_scale_of_the_weights_does_not_matter() -> None:
    assert places(Order(WINDOWS, [6.0, 3.0, 1.0], 0), 300) == places(order(), 300)


def test_each_window_comes_once_in_every_reading() -> None:
    found = places(order(), 3000)
    for source, windows in enumerate(WINDOWS):
        read = [place.window for place in found if place.source == source]
        readings = [read[i : i + windows] for i in range(0, len(read) - windows + 1, windows)]
        assert len(readings) >= 25
        for reading in readings:
            assert sorted(reading) == list(range(windows))
        assert len({tuple(reading) for reading in readings}) == len(readings)  # shuffled afresh


def test_a_reading_is_shuffled() -> None:
    found = [place.window for place in places(Order([500], [1.0], 0), 500)]
    neighbours = sum(b == a + 1 for a, b in pairwise(found))
    assert neighbours < 10  # by chance 1 is expected


def test_is_a_function_of_seed_and_number_alone() -> None:
    forward = places(order(), 400)
    again = order()
    backward = [again[sequence] for sequence in reversed(range(400))]
    assert backward[::-1] == forward
    assert order()[399] == forward[399]


def test_another_seed_is_another_order() -> None:
    orders = [places(order(seed), 200) for seed in range(4)]
    for number, one in enumerate(orders):
        for other in orders[number + 1 :]:
            same = sum(a.window == b.window for a, b in zip(one, other, strict=True))
            assert same < 40  # by chance, 6 are expected


def test_sources_of_one_size_are_shuffled_apart() -> None:
    found = places(Order([50, 50], [0.5, 0.5], 0), 100)
    first, second = ([p.window for p in found if p.source == s] for s in (0, 1))
    assert first != second


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 8])
def test_the_ranks_see_the_global_batch_together(world: int) -> None:
    found, batch = order(), 24
    for step in (0, 1, 17):
        whole = places(found, (step + 1) * batch)[step * batch :]
        shares = [found.step(step, batch=batch, rank=rank, world=world) for rank in range(world)]
        assert {len(share) for share in shares} == {batch // world}
        assert [place for share in shares for place in share] == whole


@pytest.mark.parametrize(
    ("windows", "weights", "message"),
    [
        ([], [], "0 sources have 0 weights"),
        ([3], [0.5, 0.5], "1 sources have 2 weights"),
        ([3, 0], [0.5, 0.5], "source 1 has no window; its clips are too short"),
        ([3, 3], [0.5, 0.0], "source 1 has weight 0.0; leave it out instead"),
        ([3, 3], [-1.0, 0.5], "source 0 has weight -1.0; leave it out instead"),
        ([3], [float("nan")], "source 0 has weight nan"),
    ],
)
def test_rejects(windows: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Order(windows, weights, 0)


def test_rejects_ranks_that_do_not_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="a batch of 10 sequences does not divide among 4 ranks"):
        order().step(0, batch=10, world=4)
