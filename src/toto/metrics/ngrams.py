"""How often runs of tokens occur within frames: the curves of the paper's Figures 3, 12 and 13.

Counts are kept as their own histogram (how many n-grams occur k times), which is small however
many n-grams there are, and holds all that entropy, coverage and the sorted curve need.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Int64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ngrams:
    """Counts of all runs of `n` tokens, in raster order, that lie within one frame.

    A run goes on from the end of a row to the start of the next, as the model's sequence does, and
    never from one frame to another.

    Attributes:
        n: length of a run.
        vocab_size: how many codes the tokenizer has.
        occurrences: the counts that occur, increasing.
        how_many: how many distinct n-grams have each of these counts.
    """

    n: int
    vocab_size: int
    occurrences: Int64[np.ndarray, " K"]
    how_many: Int64[np.ndarray, " K"]

    @property
    def total(self) -> int:
        """Runs counted."""
        return int(self.occurrences @ self.how_many)

    @property
    def distinct(self) -> int:
        """Runs that differ."""
        return int(self.how_many.sum())

    @property
    def coverage(self) -> float:
        """Share of all possible n-grams that occur, in [0, 1]."""
        return self.distinct / self.vocab_size**self.n

    @property
    def entropy(self) -> float:
        """Entropy of the n-grams' shares, in nats.

        It cannot exceed ln(total), and comes close to that where most n-grams occur once; then it
        says how much was counted, not how varied the tokens are.
        """
        share = self.occurrences / self.total
        return abs(float(-(self.how_many * share) @ np.log(share)))

    def summary(self) -> dict[str, Any]:
        """All numbers, and the histogram to draw the curve from again, as plain values."""
        return {
            "n": self.n,
            "total": self.total,
            "distinct": self.distinct,
            "coverage": self.coverage,
            "entropy_nats": self.entropy,
            "entropy_bits": self.entropy / math.log(2),
            "entropy_limit_nats": math.log(self.total),
            "perplexity": math.exp(self.entropy),
            "once_share": float(self.how_many[self.occurrences == 1].sum() / self.distinct),
            "occurrences": self.occurrences.tolist(),
            "how_many": self.how_many.tolist(),
        }


def count_ngrams(ids: Int[np.ndarray, "T Y X"], *, n: int, vocab_size: int) -> Ngrams:
    """Count the runs of `n` tokens in raster order within each frame.

    Raises:
        ValueError: if the ids are not [T Y X] within the vocabulary, a frame has fewer than `n`
            tokens, or an n-gram has no number below 2^63.
    """
    if n < 1 or vocab_size**n >= 1 << 63:
        raise ValueError(f"{n}-grams of {vocab_size} codes cannot be numbered in 63 bits")
    if ids.ndim != 3 or ids.size == 0 or ids[0].size < n:
        raise ValueError(f"{n}-grams need frames of at least {n} tokens, got ids {ids.shape}")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"ids {ids.min()}..{ids.max()} lie outside a vocabulary of {vocab_size}")
    raster_TS = ids.reshape(len(ids), -1).astype(np.int64)
    runs = raster_TS.shape[1] - n + 1
    number = np.zeros((len(ids), runs), np.int64)
    for place in range(n):
        number = number * vocab_size + raster_TS[:, place : place + runs]
    _, counts = np.unique(number, return_counts=True)
    occurrences, how_many = np.unique(counts, return_counts=True)
    return Ngrams(n=n, vocab_size=vocab_size, occurrences=occurrences, how_many=how_many)


def sorted_curve(ngrams: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Corners of the curve of counts, the most frequent n-gram first.

    Args:
        ngrams: what `Ngrams.summary` gave.

    Returns:
        Ranks from 1, and the count at each; between two corners the curve is a straight line.
    """
    ranks, counts, rank = [], [], 0
    pairs = zip(ngrams["occurrences"], ngrams["how_many"], strict=True)
    for count, how_many in sorted(pairs, reverse=True):
        ranks += [rank + 1, rank + how_many]
        counts += [count, count]
        rank += how_many
    return ranks, counts
