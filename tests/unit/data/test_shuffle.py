"""Permutations by a function: they are permutations, and look like any others."""

from itertools import pairwise, permutations

import numpy as np
import pytest

from toto.data.shuffle import mix, shuffled


def keys(count: int) -> np.ndarray:
    return mix(np.arange(count, dtype=np.uint64))


def permutation(count: int, key: np.uint64) -> list[int]:
    return shuffled(np.arange(count), np.full(count, count), np.full(count, key)).tolist()


def many(count: int, of: int) -> np.ndarray:
    """Permutations of 0 .. count-1 by as many keys, i64 [of count]."""
    index = np.tile(np.arange(count), of)
    return shuffled(index, np.full_like(index, count), keys(of).repeat(count)).reshape(of, count)


@pytest.mark.parametrize("count", [*range(1, 130), 255, 256, 257, 1023, 4097, 99_991])
def test_every_number_comes_once(count: int) -> None:
    for key in keys(3):
        assert sorted(permutation(count, key)) == list(range(count))


def test_mixing_is_splitmix64() -> None:
    """The first outputs of the published generator from state 0; a state is a step further."""
    states = np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert mix(states).tolist() == published


def test_each_index_has_its_own_count_and_key() -> None:
    counts = np.array([5, 1000, 7, 1, 10**15])
    index = np.array([4, 0, 3, 0, 123_456_789])
    together = shuffled(index, counts, keys(5))
    alone = [shuffled(index[n : n + 1], counts[n : n + 1], keys(5)[n : n + 1]) for n in range(5)]
    assert together.tolist() == np.concatenate(alone).tolist()
    assert (together < counts).all()
    assert (together >= 0).all()


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_all_orders_of_a_few_items_are_as_frequent(count: int) -> None:
    found = many(count, of=24_000)
    seen, counts = np.unique(found, axis=0, return_counts=True)
    orders = len(list(permutations(range(count))))
    assert len(seen) == orders
    expected = len(found) / orders
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    freedom = orders - 1
    # Six standard deviations; three rounds instead of six give 40 to 120.
    assert chi_squared < freedom + 6 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("count", [7, 16, 30, 64])
def test_every_item_stands_everywhere_as_often(count: int) -> None:
    found = many(count, of=8000)
    expected = len(found) / count
    counts = np.stack([np.bincount(column, minlength=count) for column in found.T])
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    freedom = (count - 1) ** 2
    assert chi_squared < freedom + 6 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("count", [500, 65_536, 100_003])
def test_neighbours_do_not_stay_together(count: int) -> None:
    found = permutation(count, keys(9)[8])
    for distance in (1, 2, -1):
        assert sum(b - a == distance for a, b in pairwise(found)) < 8  # by chance, 1 is expected
