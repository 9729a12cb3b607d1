import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from toto.metrics.ngrams import count_ngrams, sorted_curve
from toto.metrics.tokens import equal_share, flip_rate


def counted_by_hand(ids: np.ndarray, n: int) -> Counter[tuple[int, ...]]:
    counts: Counter[tuple[int, ...]] = Counter()
    for frame in ids:
        row = frame.reshape(-1).tolist()
        counts.update(tuple(row[at : at + n]) for at in range(len(row) - n + 1))
    return counts


@pytest.mark.parametrize("n", [1, 2, 3])
def test_counts_are_those_of_a_plain_loop(n: int) -> None:
    ids = np.random.default_rng(0).integers(0, 5, (7, 3, 4))
    counts = counted_by_hand(ids, n)
    ngrams = count_ngrams(ids, n=n, vocab_size=5)
    assert dict(zip(ngrams.occurrences.tolist(), ngrams.how_many.tolist(), strict=True)) == Counter(
        counts.values()
    )
    assert (ngrams.total, ngrams.distinct) == (counts.total(), len(counts))
    assert ngrams.coverage == len(counts) / 5**n
    shares = [count / counts.total() for count in counts.values()]
    assert ngrams.entropy == pytest.approx(-sum(p * math.log(p) for p in shares))


def test_a_run_crosses_rows_but_not_frames() -> None:
    ids = np.arange(8).reshape(2, 2, 2)
    summary = count_ngrams(ids, n=2, vocab_size=8).summary()
    # 0-1, 1-2, 2-3 and 4-5, 5-6, 6-7; 3-4 would lie in two frames.
    assert (summary["total"], summary["distinct"]) == (6, 6)
    assert summary["entropy_nats"] == pytest.approx(math.log(6))
    assert summary["entropy_bits"] == pytest.approx(math.log2(6))
    assert summary["perplexity"] == pytest.approx(6)
    assert summary["once_share"] == 1.0


def test_one_code_alone_has_no_entropy() -> None:
    summary = count_ngrams(np.zeros((3, 2, 2), int), n=1, vocab_size=16).summary()
    assert (summary["entropy_nats"], summary["perplexity"]) == (0.0, 1.0)
    assert summary["coverage"] == 1 / 16


def test_the_curve_goes_through_every_count() -> None:
    ids = np.random.default_rng(1).integers(0, 9, (5, 4, 4)) ** 2 // 9
    summary = count_ngrams(ids, n=2, vocab_size=9).summary()
    ranks, counts = sorted_curve(summary)
    expected = sorted(counted_by_hand(ids, 2).values(), reverse=True)
    assert ranks[-1] == len(expected)
    assert all(expected[rank - 1] == count for rank, count in zip(ranks, counts, strict=True))
    assert all(a <= b for a, b in itertools.pairwise(ranks))


def test_what_cannot_be_counted_is_refused() -> None:
    ids = np.zeros((1, 1, 2), int)
    with pytest.raises(ValueError, match="3-grams need frames of at least 3 tokens"):
        count_ngrams(ids, n=3, vocab_size=2)
    with pytest.raises(ValueError, match=r"ids 0\.\.0 lie outside a vocabulary of 0"):
        count_ngrams(ids, n=1, vocab_size=0)
    with pytest.raises(ValueError, match="5-grams of 16384 codes cannot be numbered in 63 bits"):
        count_ngrams(ids, n=5, vocab_size=16384)


def test_equal_tokens_and_flips() -> None:
    ids = torch.tensor([[[1, 2]], [[1, 3]], [[1, 3]], [[2, 4]]])
    assert flip_rate(ids) == pytest.approx(3 / 6)
    assert equal_share(ids, torch.ones_like(ids)) == pytest.approx(3 / 8)
    with pytest.raises(ValueError, match="1 frame has no successor"):
        flip_rate(ids[:1])
    with pytest.raises(ValueError, match=r"ids \(4, 1, 2\) against \(3, 1, 2\)"):
        equal_share(ids, ids[:3])
