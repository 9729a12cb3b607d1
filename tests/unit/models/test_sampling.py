import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from toto.models import Llama, LlamaConfig
from toto.models.decoding import open_reader
from toto.models.sampling import Draws, SamplingConfig, continue_sequence, draw, surprise_nats

CODES = 20
CONFIG = LlamaConfig(
    vocab_size=CODES + 3, width=16, depth=2, heads=2, mlp_width=24, context=40, init_std=0.4
)
SHARES = torch.tensor([0.05, 0.4, 0.3, 0.2, 0.05])


@pytest.fixture
def model() -> Llama:
    return CONFIG.build().eval()


def continued(
    model: Llama, prompt: torch.Tensor, *, tokens: int = 20, futures: int = 1, **fields: Any
) -> torch.Tensor:
    config = SamplingConfig(**fields)
    drawn = continue_sequence(
        open_reader(model),
        prompt,
        tokens=tokens,
        codes=CODES,
        config=config,
        draws=Draws(config.seed, clips=len(prompt), futures=futures),
        futures=futures,
    )
    return torch.stack([token.ids for token in drawn], dim=1)


def numbers(count: int) -> torch.Tensor:
    return torch.rand(count, dtype=torch.float64)


def observed(draws: int = 20_000, **fields: Any) -> torch.Tensor:
    logits = SHARES.log().expand(draws, -1)
    ids = draw(logits, SamplingConfig(**fields), numbers(draws))
    return ids.bincount(minlength=len(SHARES)) / draws


def test_temperature_0_takes_the_most_likely() -> None:
    logits = torch.randn(50, 9)
    ids = draw(logits, SamplingConfig(temperature=0.0), numbers(50))
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
    for limits in ({"top_k": 2}, {"top_p": 0.9}):
        config = SamplingConfig(temperature=1.0, **limits)
        rows = torch.stack([draw(logits, config, numbers(2)) for _ in range(200)])
        assert rows[:, 0].unique().tolist() == [1, 2]
        assert rows[:, 1].unique().tolist() == [0, 3]


def test_a_seed_repeats_and_another_differs(model: Llama) -> None:
    prompt = torch.randint(CODES, (2, 5))
    first = continued(model, prompt, seed=3)
    assert torch.equal(first, continued(model, prompt, seed=3))
    assert not torch.equal(first, continued(model, prompt, seed=4))


def test_a_future_does_not_know_how_many_there_are_nor_what_is_beside_it(model: Llama) -> None:
    prompt = torch.randint(CODES, (3, 5))
    drawn = continued(model, prompt, futures=4).unflatten(0, (3, 4))
    assert torch.equal(drawn[:, 0], continued(model, prompt))
    assert torch.equal(drawn[1, :2], continued(model, prompt[1:2], futures=2))
    assert len({tuple(future) for future in drawn[0].tolist()}) == 4


def test_the_ends_of_the_numbers_fall_on_tokens_that_are_left() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).repeat(2, 1)
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert draw(logits, SamplingConfig(), ends).tolist() == [1, 2]


@torch.no_grad()
def test_surprise_is_the_cross_entropy_among_the_codes(model: Llama) -> None:
    prompt = torch.randint(CODES, (2, 5))
    drawn = list(
        continue_sequence(
            open_reader(model),
            prompt,
            tokens=20,
            codes=CODES,
            config=SamplingConfig(temperature=0.5, top_k=3),
            draws=Draws(0, clips=2, futures=1),
        )
    )
    ids = torch.cat([prompt, torch.stack([token.ids for token in drawn], dim=1)], dim=1)
    logits = model(ids[:, :-1])[:, 4:, :CODES]
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 5:].flatten(), reduction="none"
    )
    found = torch.stack([token.surprise_nats for token in drawn], dim=1)
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(surprise_nats(logits, ids[:, 5:]).flatten() > 0, expected > 0)


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
        ({"seed": -1}, "seed -1 must be at least 0"),
    ],
)
def test_rejects(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SamplingConfig(), **fields)
