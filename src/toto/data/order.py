"""Which window every step sees: a pure function of (seed, step).

Nothing here is stored in a checkpoint. World size and restarts cannot change what a step sees,
since a rank takes its share of the same global batch.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

# Grain warns at import that JAX's profiler is absent; JAX is not needed for what is used here.
logging.getLogger("absl").setLevel(logging.ERROR)
import grain  # noqa: E402


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One window: which source, and which of its windows."""

    source: int
    window: int


class Order:
    """An endless, shuffled mixture of sources.

    Each source is shuffled afresh every time it has been read through, and each window comes once
    in a reading. Sources alternate so that their shares hold exactly, not on average. Grain does
    both (index-based shuffle without memory).

    Args:
        windows: how many windows each source has.
        weights: the sources' shares of the sequences; any positive scale.
        seed: another seed is another order.

    Raises:
        ValueError: if a source is empty, a weight is not positive, or the counts differ.
    """

    def __init__(self, windows: Sequence[int], weights: Sequence[float], seed: int) -> None:
        if len(windows) != len(weights) or not windows:
            raise ValueError(f"{len(windows)} sources have {len(weights)} weights")
        for number, (count, weight) in enumerate(zip(windows, weights, strict=True)):
            if count < 1:
                raise ValueError(f"source {number} has no window; its clips are too short")
            if not weight > 0:
                raise ValueError(f"source {number} has weight {weight}; leave it out instead")
        sources = [
            grain.MapDataset.range(count)
            .seed(seed + 1_000_003 * number)
            .shuffle()
            .map(lambda window, number=number: Place(source=number, window=int(window)))
            .repeat()
            for number, count in enumerate(windows)
        ]
        total = sum(weights)
        self._places = grain.MapDataset.mix(sources, [weight / total for weight in weights])

    def __getitem__(self, sequence: int) -> Place:
        """Place of the sequence with this number, counted over the whole run."""
        place = self._places[sequence]
        assert place is not None  # only grain's filters leave gaps
        return place

    def step(self, step: int, *, batch: int, rank: int = 0, world: int = 1) -> list[Place]:
        """Windows of one rank at one step.

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
        return [self[sequence] for sequence in range(first, first + share)]
