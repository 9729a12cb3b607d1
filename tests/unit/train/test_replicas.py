"""Whether ranks hold the same, told from sums of their bits."""

import pytest
import torch

from toto.runtime.devices import Ranks
from toto.train.replicas import differing, fingerprints, require_equal_replicas


@pytest.mark.parametrize("bit", [0, 13, 30, 31])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_every_single_bit_changes_the_sum(kind: torch.dtype, bit: int) -> None:
    whole = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).to(kind)
    flipped = whole.clone()
    flipped.view(torch.int32 if kind != torch.bfloat16 else torch.int16).view(-1)[5] ^= (
        1 << bit % 15 if kind == torch.bfloat16 else (1 << bit) - (bit == 31) * (1 << 32)
    )
    one, other = fingerprints({"a": whole}), fingerprints({"a": flipped})
    assert one != other
    assert torch.equal(fingerprints({"a": whole.T.contiguous().T}), one)


def test_the_rank_that_differs_is_named() -> None:
    sums = torch.tensor([[1, 2, 3], [1, 2, 3], [1, 9, 3]])
    assert differing(sums, ["a", "b", "c"]) == (
        "rank 2 holds other values of b than the other ranks"
    )
    assert differing(sums[:2], ["a", "b", "c"]) is None
    assert differing(torch.tensor([[1, 2, 3], [4, 2, 5]]), ["a", "b", "c"]) == (
        "ranks 0 and 1 hold different values of a and 1 more"
    )


def test_one_rank_has_nobody_to_differ_from() -> None:
    model = torch.nn.Linear(2, 2)
    require_equal_replicas(model, torch.optim.AdamW(model.parameters()), Ranks(), 1)
