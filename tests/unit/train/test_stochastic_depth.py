"""Stochastic depth: its rates, its expectation, and that evaluation knows nothing of it."""

import numpy as np
import pytest
import torch
from torch import nn

from toto.models import MODELS
from toto.train.stochastic_depth import StochasticDepth

SIZES = {"vocab_size": 19, "width": 16, "depth": 3, "context": 16}
LLAMA = MODELS["llama"](**SIZES, heads=2, mlp_width=24)
CPU = torch.device("cpu")


class OneBranch(nn.Module):
    """A block that adds 1 to a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mixer(torch.ones_like(x))


def generators(count: int, first: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng(first + number) for number in range(count)]


def test_the_rate_rises_linearly_over_the_depth() -> None:
    model = LLAMA.build()
    assert StochasticDepth(list(model.blocks), 0.2).rates == [0.0, 0.0, 0.1, 0.1, 0.2, 0.2]
    mamba = MODELS["mamba"](**SIZES).build()
    assert StochasticDepth(list(mamba.blocks), 0.2).rates == [0.0, 0.1, 0.2]


def test_a_branch_keeps_its_expectation() -> None:
    blocks = [OneBranch(), OneBranch()]
    StochasticDepth(blocks, 0.0)
    dropping = StochasticDepth(blocks, 0.25)
    dropping.draw(generators(4000), CPU)
    added = blocks[1](torch.zeros(4000, 1, 1)).flatten()
    assert added.unique().tolist() == pytest.approx([0, 4 / 3])
    # The deviation of the mean is 0.58 / sqrt(4000); five of them.
    assert added.mean().item() == pytest.approx(1, abs=0.046)
    assert (blocks[0](torch.zeros(4000, 1, 1)) == 1).all()


def test_evaluation_is_left_alone() -> None:
    model = LLAMA.build()
    ids = torch.randint(16, (4, 8))
    before = model.eval()(ids)
    dropping = StochasticDepth(list(model.blocks), 0.9)
    dropping.draw(generators(4), CPU)
    assert torch.equal(model(ids), before)
    assert not torch.equal(model.train()(ids), before)


def test_a_sample_is_dropped_alike_in_any_batch() -> None:
    model = LLAMA.build().train()
    ids = torch.randint(16, (4, 8))
    dropping = StochasticDepth(list(model.blocks), 0.5)
    dropping.draw(generators(4), CPU)
    whole = model(ids)
    dropping.draw(generators(2, first=2), CPU)
    torch.testing.assert_close(model(ids[2:]), whole[2:])


def test_parameters_keep_their_names() -> None:
    model = LLAMA.build()
    names = list(model.state_dict())
    StochasticDepth(list(model.blocks), 0.5)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_refuses_a_rate_that_keeps_nothing(rate: float) -> None:
    with pytest.raises(ValueError, match=rf"drop_path {rate} must lie in 0..1, 1 left out"):
        StochasticDepth(list(LLAMA.build().blocks), rate)
