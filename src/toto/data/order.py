"""What every step sees: a pure function of (seed, step).

Nothing here is stored in a checkpoint: a run goes on from the number of its step alone. World size
and restarts cannot change what a step sees, since a rank takes its share of the same global batch.
docs/decisions/0007-data-order.md says why this is our own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Int64

from toto.data.shuffle import mix, shuffled

LONGEST_CYCLE = 10_000
"""Shares are whole numbers of at most so many sequences."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What one sequence is made of: a source, and which of its items."""

    source: int
    items: tuple[int, ...]
    """One window of videos, or as many images as a sequence has frames."""


class Order:
    """An endless, shuffled mixture of sources.

    A source gives its items in readings. In one reading each item comes once, in an order that
    belongs to (seed, source, reading). A sequence takes one item (a window of a video) or several
    (images); it takes them from one endless row of readings, so that a reading may end inside a
    sequence: no item is left out or doubled when their number does not divide, and only such a
    sequence can hold an item twice, as the old reading's and the new one's.

    The sources take turns in a fixed cycle. Shares that are whole numbers of 1/1,000 hold exactly
    in any 1,000 successive sequences. At every moment each source has given less than one sequence
    more or fewer than its share.

    Args:
        items: how many items each source has.
        weights: the sources' shares of the sequences; any positive scale. Sequences are all
            equally long, so these are shares of the tokens too.
        seed: another seed is another order.
        takes: how many items a sequence takes of each source; one if left out.

    Raises:
        ValueError: if a source is empty, a weight is not positive or too small to be met, or the
            counts differ.
    """

    def __init__(
        self,
        items: Sequence[int],
        weights: Sequence[float],
        seed: int,
        *,
        takes: Sequence[int] | None = None,
    ) -> None:
        if len(items) != len(weights) or not items:
            raise ValueError(f"{len(items)} sources have {len(weights)} weights")
        for number, (count, weight) in enumerate(zip(items, weights, strict=True)):
            if count < 1:
                raise ValueError(f"source {number} has no window; its clips are too short")
            if not 0 < weight < math.inf:
                raise ValueError(f"source {number} has weight {weight}; leave it out instead")
        self._items = np.array(items, dtype=np.int64)
        self._takes = np.array(takes or [1] * len(items), dtype=np.int64)
        turns = _turns(weights)
        self._turns = np.array(turns, dtype=np.int64)
        self._cycle = _cycle(turns)
        self._earlier = np.empty_like(self._cycle)
        for source in range(len(items)):
            mine = self._cycle == source
            self._earlier[mine] = np.arange(mine.sum())
        numbers = np.arange(len(items), dtype=np.uint64)
        self._keys = mix(mix(np.array([seed % 2**64], dtype=np.uint64)) ^ mix(numbers))

    def __getitem__(self, sequence: int) -> Place:
        """Place of the sequence with this number, counted over the whole run."""
        return self._places(np.array([sequence], dtype=np.int64))[0]

    def step(self, step: int, *, batch: int, rank: int = 0, world: int = 1) -> list[Place]:
        """Places of one rank at one step.

        Args:
            step: counted from 0.
            batch: sequences of the global batch, over all ranks.
            rank: of this process.
            world: how many ranks share the batch.

        Raises:
            ValueError: if the ranks cannot share the batch evenly.
        """
        if batch % world:
            raise ValueError(f"a batch of {batch} sequences does not divide among {world} ranks")
        share = batch // world
        first = step * batch + rank * share
        return self._places(np.arange(first, first + share, dtype=np.int64))

    def _places(self, sequences: Int64[np.ndarray, " N"]) -> list[Place]:
        cycles, slots = np.divmod(sequences, len(self._cycle))
        sources = self._cycle[slots]
        turns = cycles * self._turns[sources] + self._earlier[slots]
        takes = self._takes[sources]
        ends = takes.cumsum()
        # From here on one entry an item: the source's row of readings, from the first it takes.
        sources_of_items = np.repeat(sources, takes)
        draws = np.repeat(turns * takes - (ends - takes), takes) + np.arange(ends[-1])
        counts = self._items[sources_of_items]
        readings, indices = np.divmod(draws, counts)
        keys = mix(self._keys[sources_of_items] + readings.astype(np.uint64))
        items = shuffled(indices, counts, keys).tolist()
        return [
            Place(source=source, items=tuple(items[end - take : end]))
            for source, take, end in zip(
                sources.tolist(), takes.tolist(), ends.tolist(), strict=True
            )
        ]


def _turns(weights: Sequence[float]) -> list[int]:
    """How many sequences of a cycle each source gives.

    The shortest cycle that meets the weights exactly, if one of at most LONGEST_CYCLE does; else
    that longest one, and the largest remainders are rounded up.
    """
    total = math.fsum(weights)
    shares = [Fraction(weight / total).limit_denominator(LONGEST_CYCLE) for weight in weights]
    cycle = math.lcm(*(share.denominator for share in shares))
    if sum(shares) == 1 and cycle <= LONGEST_CYCLE:
        turns = [int(share * cycle) for share in shares]
    else:
        exact = [weight / total * LONGEST_CYCLE for weight in weights]
        turns = [int(turn) for turn in exact]
        by_remainder = sorted(range(len(exact)), key=lambda source: turns[source] - exact[source])
        for source in by_remainder[: LONGEST_CYCLE - sum(turns)]:
            turns[source] += 1
    for source, turn in enumerate(turns):
        if not turn:
            raise ValueError(
                f"source {source} has a share of {weights[source] / total:.1g}, less than one "
                f"sequence in {LONGEST_CYCLE}; leave it out or raise its weight"
            )
    return turns


def _cycle(turns: Sequence[int]) -> Int64[np.ndarray, " C"]:
    """Spread the sources' turns over a cycle, so that none runs ahead or falls behind by one.

    The n-th turn of a source has a first and a last slot that keep it within one of its share;
    among those whose first has come, the one whose last comes soonest is taken.

    Source: Baruah, Cohen, Plaxton and Varvel, "Proportionate progress", Algorithmica 15 (1996).
    """
    cycle = np.empty(sum(turns), dtype=np.int64)
    given = [0] * len(turns)
    for slot in range(len(cycle)):
        ready = (s for s, turn in enumerate(turns) if given[s] * len(cycle) < (slot + 1) * turn)
        chosen = min(ready, key=lambda s: -(-(given[s] + 1) * len(cycle) // turns[s]))
        cycle[slot] = chosen
        given[chosen] += 1
    return cycle
