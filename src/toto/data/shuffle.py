"""Shuffling by a function: which item is the i-th of n, without a list of n numbers.

A data set of billions of windows cannot be shuffled in memory, and a run that goes on would have to
do it again. A keyed permutation names the i-th item of any reading at once.
"""

import numpy as np
from jaxtyping import Int64, UInt64

ROUNDS = 6
"""At 3, sets of a few items show which of their orders are preferred (tests/unit/data)."""
_KEY_STEP = np.uint64(0xD1B54A32D192ED03)
"""Odd, so that every round has another key."""


def mix(value: UInt64[np.ndarray, " N"]) -> UInt64[np.ndarray, " N"]:
    """Scatter 64-bit numbers, so that neighbours have nothing in common.

    Source: the generator SplitMix64 of Steele, Lea and Flood (OOPSLA 2014), from `value` as state.
    """
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def shuffled(
    index: Int64[np.ndarray, " N"], count: Int64[np.ndarray, " N"], key: UInt64[np.ndarray, " N"]
) -> Int64[np.ndarray, " N"]:
    """Permute each index within its own 0 .. count-1, by its own key.

    One key and one count make one permutation: the indices 0 .. count-1 give every number below
    count once.

    Args:
        index: in [0, count).
        count: at least 1, below 2^62.
        key: names the permutation.

    Source:
        Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002): a Feistel network
        over two digits whose bases multiply to slightly more than count, walked on from results
        beyond count. Nothing is kept secret here.
    """
    count = count.astype(np.uint64)
    high_base = np.ceil(np.sqrt(count)).astype(np.uint64)
    low_base = (count + high_base - np.uint64(1)) // high_base
    value = _feistel(index.astype(np.uint64), high_base, low_base, key)
    beyond = np.flatnonzero(value >= count)
    while len(beyond):
        again = value[beyond], high_base[beyond], low_base[beyond], key[beyond]
        value[beyond] = _feistel(*again)
        beyond = beyond[value[beyond] >= count[beyond]]
    return value.astype(np.int64)


def _feistel(
    value: UInt64[np.ndarray, " N"],
    high_base: UInt64[np.ndarray, " N"],
    low_base: UInt64[np.ndarray, " N"],
    key: UInt64[np.ndarray, " N"],
) -> UInt64[np.ndarray, " N"]:
    """Permute 0 .. high_base * low_base - 1: each digit is shifted by a function of the other."""
    half = np.uint64(32)  # what is added stays so small that no sum wraps round
    high, low = np.divmod(value, low_base)
    for _ in range(ROUNDS):
        high = (high + (mix(low + key) >> half)) % high_base
        low = (low + (mix(high ^ key) >> half)) % low_base
        key = key + _KEY_STEP
    return high * low_base + low
