import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from toto.models import Llama, LlamaConfig
from toto.models.sampling import SamplingConfig, continue_sequence, draw

CODES = 20
CONFIG = LlamaConfig(
    vocab_size=CODES + 3, width=16, depth=2, heads=2, mlp_width=24, context=40, init_std=0.4
)
SHARES = torch.tensor([0.05, 0.4, 0.3, 0.2, 0.05])


@pytest.fixture
def model() -> Llama:
    return CONFIG.build().eval()


def continued(
    model: Llama, prompt: torch.Tensor, *, tokens: int = 20, **fields: Any
) -> torch.Tensor:
    drawn = continue_sequence(
        model, prompt, tokens=tokens, codes=CODES, config=SamplingConfig(**fields)
    )
    return torch.stack(list(drawn), dim=1)


def observed(draws: int = 20_000, **fields: Any) -> torch.Tensor:
    logits = SHARES.log().expand(draws, -1)
    ids = draw(logits, SamplingConfig(**fields), torch.Generator().manual_seed(0))
    return ids.bincount(minlength=len(SHARES)) / draws


def test_temperature_0_takes_the_most_likely() -> None:
    logits = torch.randn(50, 9)
    ids = draw(logits, SamplingConfig(temperature=0.0), torch.Generator())
    assert torch.equal(ids, logits.argmax(-1))


@pytest.mark.parametrize(
    ("fields", "kept", "power"),
    [
        ({}, [0, 1, 2, 3, 4], 1.0),
        ({"temperature": 0.5}, [0, 1, 2, 3, 4], 2.0),
        ({"temperature": 2.0}, [0, 1, 2, 3, 4], 0.5),
        ({"top_k": 1}, [1], 1.0),
        ({"top_k": 3}, [1, 2, 3], 1.0),
        ({"top_k": 99}, [0, 1, 2, 3, 4], 1.0),
        ({"top_p": 0.1}, [1], 1.0),
        ({"top_p": 0.39}, [1], 1.0),
        ({"top_p": 0.41}, [1, 2], 1.0),
        ({"top_p": 0.8}, [1, 2, 3], 1.0),
        ({"top_p": 1.0}, [0, 1, 2, 3, 4], 1.0),
        ({"top_k": 2, "top_p": 0.55}, [1], 1.0),  # of 0.4 and 0.3, the first has 4/7
    ],
)
def test_draws_follow_the_shares_that_are_left(
    fields: dict[str, Any], kept: list[int], power: float
) -> None:
    expected = torch.zeros(len(SHARES))
    expected[kept] = SHARES[kept] ** power
    expected /= expected.sum()
    shares = observed(**fields)
    assert (shares > 0).nonzero().flatten().tolist() == kept
    # Four deviations of a share of 0.5 counted 20,000 times.
    torch.testing.assert_close(shares, expected, rtol=0, atol=4 * math.sqrt(0.25 / 20_000))


def test_every_row_is_limited_by_its_own_scores() -> None:
    logits = torch.tensor([[0.0, 9.0, 8.0, -9.0], [9.0, 0.0, -9.0, 8.0]])
    generator = torch.Generator().manual_seed(0)
    for limits in ({"top_k": 2}, {"top_p": 0.9}):
        config = SamplingConfig(temperature=1.0, **limits)
        rows = torch.stack([draw(logits, config, generator) for _ in range(200)])
        assert rows[:, 0].unique().tolist() == [1, 2]
        assert rows[:, 1].unique().tolist() == [0, 3]


def test_a_seed_repeats_and_another_differs(model: Llama) -> None:
    prompt = torch.randint(CODES, (2, 5))
    first = continued(model, prompt, seed=3)
    assert torch.equal(first, continued(model, prompt, seed=3))
    assert not torch.equal(first, continued(model, prompt, seed=4))


def test_greedy_is_the_model_asked_again_and_again(model: Llama) -> None:
    ids = torch.randint(CODES, (2, 6))
    drawn = continued(model, ids, tokens=15, temperature=0.0)
    for number in range(15):
        best = model(ids)[:, -1, :CODES].argmax(-1)
        assert torch.equal(drawn[:, number], best)
        ids = torch.cat([ids, best[:, None]], dim=1)


def test_greedy_rows_do_not_know_each_other(model: Llama) -> None:
    prompt = torch.randint(CODES, (3, 5))
    alone = torch.cat([continued(model, row[None], temperature=0.0) for row in prompt])
    assert torch.equal(continued(model, prompt, temperature=0.0), alone)


@torch.no_grad()
def test_special_ids_are_never_drawn(model: Llama) -> None:
    assert model.head is not None
    # By far the likeliest at every position, whichever sign its channel has.
    model.head.weight[CODES] = 100 * torch.ones(CONFIG.width)
    model.head.weight[CODES + 1] = -100 * torch.ones(CONFIG.width)
    prompt = torch.randint(CODES, (8, 5))
    assert model(prompt)[:, -1].argmax(-1).min() >= CODES
    for temperature in (0.0, 1.0, 5.0):
        drawn = continued(model, prompt, tokens=35, temperature=temperature)
        assert drawn.max() < CODES


def test_the_last_position_of_the_context_is_used(model: Llama) -> None:
    prompt = torch.randint(CODES, (1, 5))
    assert continued(model, prompt, tokens=35).shape == (1, 35)
    with pytest.raises(ValueError, match="5 tokens of prompt and 36 new ones do not fit a context"):
        continued(model, prompt, tokens=36)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1 must be at least 0"),
        ({"top_k": 0}, "top_k 0 must be at least 1"),
        ({"top_p": 0.0}, r"top_p 0.0 must lie in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p 1.1 must lie in \(0, 1\]"),
    ],
)
def test_rejects(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SamplingConfig(), **fields)
