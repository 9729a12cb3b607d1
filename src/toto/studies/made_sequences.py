"""Sequences made by chance alone, for studies that need tokens and not their meaning."""

from collections.abc import Iterator

import torch
from torch import Tensor

from toto.types import Batch

RANK = 32
SHARPNESS = 3.0
"""Standard deviation of the logits the next id is drawn by."""


class MadeSequences:
    """A chain in which the next id depends on the last two.

    Its logits are the sum of what the two ids say, each a matrix of rank 32: a model must find the
    id before the last, and has more to learn than a table of pairs. No sequence comes twice.

    Args:
        vocab_size: ids.
        length: tokens of a sequence.
        seed: of the chain.
    """

    def __init__(self, *, vocab_size: int, length: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        last, before, following = torch.randn(3, vocab_size, RANK, generator=generator).unbind()
        size = SHARPNESS / (2 * RANK) ** 0.5
        self._last: Tensor = size * last @ following.T
        self._before: Tensor = size * before @ following.T
        self.length = length

    def batches(self, *, batch: int, seed: int) -> Iterator[Batch]:
        """Yield batches without end; which, follows from the seed."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            ids = torch.randint(len(self._last), (batch, 2), generator=generator)
            for _ in range(self.length - 2):
                logits = self._last[ids[:, -1]] + self._before[ids[:, -2]]
                following = torch.multinomial(logits.softmax(1), 1, generator=generator)
                ids = torch.cat([ids, following], dim=1)
            yield Batch(ids=ids, weight=torch.ones(batch, self.length - 1))
