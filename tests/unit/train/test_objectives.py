import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from toto.models import Llama, LlamaConfig
from toto.tokenizers import DVAE, DVAEConfig
from toto.tokenizers.dvae import logit_laplace_nll, map_pixels
from toto.train.objectives import (
    RelaxedFrames,
    bound_terms,
    next_token,
    relaxed_bound,
    token_losses,
)
from toto.types import Batch

VOCAB = 13


@pytest.fixture
def model() -> Llama:
    return LlamaConfig(
        vocab_size=VOCAB, width=16, depth=2, heads=2, mlp_width=24, context=10, init_std=0.3
    ).build()


def batch(weight: torch.Tensor | None = None) -> Batch:
    ids = torch.randint(VOCAB, (3, 11), generator=torch.Generator().manual_seed(2))
    return Batch(ids=ids, weight=torch.ones(3, 10) if weight is None else weight)


def test_next_token_is_the_cross_entropy_of_the_next(model: Llama) -> None:
    ids = batch().ids
    logits = model(ids[:, :-1])
    expected = F.cross_entropy(logits.reshape(-1, VOCAB), ids[:, 1:].reshape(-1))
    torch.testing.assert_close(next_token(model, batch()), expected)
    by_hand = -logits.log_softmax(-1)[1, 4, ids[1, 5]]
    torch.testing.assert_close(token_losses(model, batch())[1, 4], by_hand)


def test_targets_of_weight_zero_are_ignored(model: Llama) -> None:
    weight = torch.ones(3, 10)
    weight[:, 6:] = 0
    one = batch(weight)
    changed = one.ids.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % VOCAB  # targets from position 6 on
    other = Batch(ids=changed, weight=weight)
    assert torch.equal(next_token(model, one), next_token(model, other))
    short = Batch(ids=one.ids[:, :7], weight=torch.ones(3, 6))
    torch.testing.assert_close(next_token(model, one), next_token(model, short))


def test_weights_are_a_mean_by_weight(model: Llama) -> None:
    weight = torch.rand(3, 10)
    losses = token_losses(model, batch())
    expected = (losses * weight).sum() / weight.sum()
    torch.testing.assert_close(next_token(model, batch(weight)), expected)
    torch.testing.assert_close(next_token(model, batch(7 * weight)), expected)


@pytest.mark.parametrize(("location", "log_scale"), [(0.0, 0.0), (1.3, -1.0), (-2.0, 0.4)])
def test_the_logit_laplace_density_integrates_to_1(location: float, log_scale: float) -> None:
    # Fine near 0 and 1, where the density has its mass: x = sigmoid(u), dx = x (1 - x) du.
    u = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    x = u.sigmoid()
    place, scale = torch.full_like(x, location), torch.full_like(x, log_scale)
    inside = slice(60_000, -60_000)  # beyond |u| = 24 logit(sigmoid(u)) has no digits left
    density = (-logit_laplace_nll(x, place, scale)).exp() * x * (1 - x)
    mass = torch.trapezoid(density[inside], u[inside])
    assert mass.item() == pytest.approx(1.0, abs=1e-6)


def test_the_logit_laplace_density_by_hand() -> None:
    x, location, scale = 0.7, 0.4, 1.5
    expected = math.log(2 * scale * x * (1 - x)) + abs(math.log(x / (1 - x)) - location) / scale
    got = logit_laplace_nll(torch.tensor(x), torch.tensor(location), torch.tensor(math.log(scale)))
    assert got.item() == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def dvae() -> DVAE:
    return DVAEConfig(vocab_size=16, width=8, decoder_stem=8, blocks_per_group=1).build()


def relaxed(**fields: Any) -> RelaxedFrames:
    frames = torch.randint(256, (4, 16, 24, 3), generator=torch.Generator().manual_seed(1)).byte()
    made = RelaxedFrames(frames=frames, temperature=1.0, kl_weight=2.0, balance_weight=0.5, seed=3)
    return replace(made, **fields)


def scores_of(dvae: DVAE, bias: torch.Tensor) -> None:
    """Let every place's logits be `bias`, whatever the frame."""
    conv = dvae.encoder.get_submodule("blocks.output.conv")
    assert isinstance(conv, torch.nn.Conv2d)
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.copy_(bias)


def test_uniform_codes_have_no_divergence_and_no_imbalance(dvae: DVAE) -> None:
    scores_of(dvae, torch.full((16,), 2.5))
    terms = bound_terms(dvae, relaxed())
    assert terms.divergence.item() == pytest.approx(0.0, abs=1e-5)
    assert terms.imbalance.item() == pytest.approx(0.0, abs=1e-5)


def test_one_code_for_all_costs_ln_v_in_both_terms(dvae: DVAE) -> None:
    bias = torch.zeros(16)
    bias[5] = 60.0
    scores_of(dvae, bias)
    terms = bound_terms(dvae, relaxed())
    assert terms.divergence.item() == pytest.approx(math.log(16), abs=1e-5)
    assert terms.imbalance.item() == pytest.approx(math.log(16), abs=1e-5)
    assert torch.equal(terms.codes, torch.full((4, 2, 3), 5))


def test_divergence_is_the_entropy_that_is_missing(dvae: DVAE) -> None:
    bias = torch.randn(16)
    scores_of(dvae, bias)
    share = bias.softmax(0)
    expected = math.log(16) + (share * share.log()).sum().item()
    assert bound_terms(dvae, relaxed()).divergence.item() == pytest.approx(expected, abs=1e-5)


def test_imbalance_is_of_the_batch_and_divergence_of_the_place(dvae: DVAE) -> None:
    """Places that are each certain, of different codes: much divergence, little imbalance."""
    logits = torch.zeros(4, 16, 2, 3)
    for place in range(24):
        logits[place // 6, place % 16, place % 6 // 3, place % 3] = 60.0
    dvae.logits = lambda _: logits  # pyright: ignore[reportAttributeAccessIssue]
    terms = bound_terms(dvae, relaxed())
    use = torch.tensor([2 / 24] * 8 + [1 / 24] * 8)
    expected = math.log(16) + (use * use.log()).sum().item()
    assert terms.divergence.item() == pytest.approx(math.log(16), abs=1e-5)
    assert terms.imbalance.item() == pytest.approx(expected, abs=1e-5)


def test_cold_relaxation_is_a_draw_of_hard_codes(dvae: DVAE) -> None:
    """At temperature 0 the codes are one-hot, so that the nll is that of decoded hard codes."""
    bias = torch.zeros(16)
    bias[5] = 60.0  # far above any Gumbel noise
    scores_of(dvae, bias)
    terms = bound_terms(dvae, relaxed(temperature=1e-3))
    hard = F.one_hot(torch.full((4, 2, 3), 5), 16).permute(0, 3, 1, 2).float()
    pixels = map_pixels(relaxed().frames)
    expected = logit_laplace_nll(pixels, *dvae.density(hard)).mean()
    torch.testing.assert_close(terms.nll, expected, rtol=1e-4, atol=1e-4)


def test_relaxed_codes_are_drawn_by_their_shares(dvae: DVAE) -> None:
    """The Gumbel-max identity: the winners of noisy scores follow the softmax of the scores."""
    bias = torch.tensor([0.0] * 15 + [math.log(15.0)])  # the last has half of the probability
    scores_of(dvae, bias)
    seen = []
    dvae.density = lambda codes: (seen.append(codes), DVAE.density(dvae, codes))[1]  # pyright: ignore[reportAttributeAccessIssue]
    for seed in range(50):
        bound_terms(dvae, relaxed(seed=seed))
    winners = torch.cat(seen).argmax(1)
    # 1,200 draws: four deviations of a share of a half.
    assert (winners == 15).float().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 1200**0.5)


def test_the_bound_is_its_terms_by_their_weights(dvae: DVAE) -> None:
    terms = bound_terms(dvae, relaxed())
    expected = terms.nll + 2.0 * terms.divergence / 192 + 0.5 * terms.imbalance
    torch.testing.assert_close(relaxed_bound(dvae, relaxed()), expected)


def test_a_seed_repeats_the_noise(dvae: DVAE) -> None:
    loss = relaxed_bound(dvae, relaxed())
    assert torch.equal(loss, relaxed_bound(dvae, relaxed()))
    assert not torch.equal(loss, relaxed_bound(dvae, relaxed(seed=4)))


def test_every_weight_of_the_tokenizer_gets_a_gradient(dvae: DVAE) -> None:
    relaxed_bound(dvae, relaxed()).backward()
    for name, parameter in dvae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
