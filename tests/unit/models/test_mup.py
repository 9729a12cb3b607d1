"""What muP promises of one model: nothing changes at the base width, and each rule beyond it."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toto.models import LlamaConfig
from toto.models.mup import MuP, Scales, scales
from toto.train.loop import train_steps
from toto.train.objectives import next_token
from toto.train.optimizer import AdamWConfig
from toto.types import Batch

BASE = LlamaConfig(vocab_size=19, width=32, depth=2, heads=2, mlp_width=64, context=24)
WIDE = replace(BASE, width=128, mlp_width=256, mup=MuP(base_width=32))


def trained(config: LlamaConfig, steps: int = 5) -> tuple[dict[str, Tensor], list[float]]:
    torch.manual_seed(3)
    model = config.build()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (steps, 4, config.context), generator=generator)
    batches = (Batch(ids=i, weight=torch.ones(4, config.context - 1)) for i in ids)
    optimizer = AdamWConfig(weight_decay=0.3).build(model)
    taken = train_steps(
        model, next_token, batches, optimizer, lambda _: 0.02, steps=range(steps), clip_norm=0.5
    )
    losses = [step.loss.item() for step in taken]
    return model.state_dict(), losses


def test_at_the_base_width_every_weight_and_loss_is_the_standard_one() -> None:
    weights, losses = trained(BASE)
    same_weights, same_losses = trained(replace(BASE, mup=MuP(base_width=32)))
    assert same_losses == losses
    assert all(torch.equal(same_weights[name], weights[name]) for name in weights)
    assert losses[-1] != losses[0]


def test_beyond_the_base_width_it_is_another_training() -> None:
    assert trained(WIDE)[1] != trained(replace(WIDE, mup=MuP()))[1]


def test_fresh_weights_have_the_spread_of_the_table() -> None:
    spread = {
        name: values.std().item() / BASE.init_std
        for name, values in WIDE.build().named_parameters()
        if values.ndim == 2
    }
    for name, expected in {
        "embedding.weight": 1.0,
        "blocks.0.attention.qkv.weight": 1 / 2,
        "blocks.0.attention.out.weight": 1 / 2 / math.sqrt(4),
        "blocks.1.mlp.gate_up.weight": 1 / 2,
        "blocks.1.mlp.down.weight": 1 / 2 / math.sqrt(4),
        "head.weight": 1 / 4,
    }.items():
        assert spread[name] == pytest.approx(expected, rel=0.07), name


def settings(config: LlamaConfig, name: str) -> tuple[float, float, float]:
    model = config.build()
    wanted = dict(model.named_parameters())[name]
    for group in AdamWConfig(weight_decay=0.1, eps=1e-8).build(model).param_groups:
        if any(parameter is wanted for parameter in group["params"]):
            return group["lr_scale"], group["weight_decay"], group["eps"]
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("name", "lr_scale", "decay", "eps"),
    [
        ("embedding.weight", 1.0, 0.0, 2.5e-9),
        ("blocks.0.attention_norm.weight", 1.0, 0.0, 2.5e-9),
        ("norm.weight", 1.0, 0.0, 2.5e-9),
        ("blocks.0.attention.qkv.weight", 0.25, 0.4, 2.5e-9),
        ("blocks.1.mlp.down.weight", 0.25, 0.4, 2.5e-9),
        ("head.weight", 0.25, 0.4, 1e-8),
    ],
)
def test_adam_is_told_the_rules(name: str, lr_scale: float, decay: float, eps: float) -> None:
    assert settings(WIDE, name) == pytest.approx((lr_scale, decay, eps))
    assert settings(replace(WIDE, mup=MuP()), name)[::2] == (1.0, 1e-8)


def test_a_patch_projection_reads_what_does_not_grow() -> None:
    patches = replace(WIDE, vocab_size=4, patch_values=12, predicts="patches")
    assert settings(patches, "projection.weight") == pytest.approx((1.0, 0.1, 2.5e-9))
    assert settings(patches, "head.weight") == pytest.approx((0.25, 0.4, 1e-8))


def test_a_wrapped_decoder_is_found() -> None:
    groups = AdamWConfig().build(nn.Sequential(WIDE.build())).param_groups
    assert {group["lr_scale"] for group in groups} == {1.0, 0.25}


def test_each_decayed_weight_loses_the_same_share_a_step_at_every_width() -> None:
    for name in ("blocks.0.attention.qkv.weight", "head.weight"):
        lr_scale, decay, _ = settings(WIDE, name)
        assert lr_scale * decay == pytest.approx(0.1)


@pytest.mark.parametrize("heads", [2, 4, 8])
def test_attention_is_scaled_by_the_width_of_heads(heads: int) -> None:
    """Against logits scaled by hand; 2 heads grow to 64 channels, 8 stay at the base's 16."""
    config = replace(WIDE, heads=heads, mup=MuP(base_width=32, base_heads=2))
    scale = config.mup.attention_scale(config.width, heads)
    assert scale == pytest.approx(math.sqrt(16) / (128 / heads))
    ids = torch.randint(BASE.vocab_size, (2, 24))
    model = config.build().eval()
    plain = replace(config, mup=MuP()).build().eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        for block in plain.blocks:
            block.attention.qkv.weight[:128] *= scale * math.sqrt(128 / heads)
        torch.testing.assert_close(model(ids), plain(ids))


def test_a_cache_gives_what_the_whole_sequence_does() -> None:
    model = WIDE.build().eval()
    ids = torch.randint(BASE.vocab_size, (2, 24))
    with torch.no_grad():
        cache = model.new_cache(2)
        parts = [model(ids[:, :7], cache), model(ids[:, 7:8], cache), model(ids[:, 8:], cache)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), rtol=1e-4, atol=1e-5)


def test_queries_and_readout_begin_at_zero_if_asked() -> None:
    model = replace(WIDE, mup=MuP(zero_query=True, zero_readout=True)).build()
    query, rest = model.blocks[0].attention.qkv.weight.split([128, 256])
    assert not query.any()
    assert rest.all()
    assert not model(torch.zeros(1, 3, dtype=torch.long)).any()


def test_the_readout_is_the_multiplied_one_of_microsoft_mup() -> None:
    """Their form: weights of std sqrt(m) / sqrt(m fan_in), logits / m, the full rate.

    Ours has no multiplier. From the same logits, both give the same ones after each of Adam's
    steps, epsilon included.
    """
    ratio, eps, lr = 4.0, 1e-3, 0.02
    rule = scales("readout", ratio)
    ours = nn.Parameter(torch.randn(5, 64) * rule.init_std)
    theirs = nn.Parameter(ours.detach() / rule.init_std)
    own = torch.optim.AdamW([ours], lr=lr * rule.lr, eps=eps * rule.eps,
                            weight_decay=0.1 * rule.weight_decay)  # fmt: skip
    other = torch.optim.AdamW([theirs], lr=lr, eps=eps / ratio, weight_decay=0.1)
    x, y = torch.randn(8, 64), torch.randint(5, (8,))
    start = F.linear(x, ours).detach()
    for _ in range(5):
        logits, expected = F.linear(x, ours), F.linear(x, theirs) / ratio
        # Theirs decays at rate x decay; ours at rate / m x m decay: the same share.
        torch.testing.assert_close(logits, expected)
        for loss in (F.cross_entropy(logits, y), F.cross_entropy(expected, y)):
            loss.backward()
        for optimizer in (own, other):
            optimizer.step()
            optimizer.zero_grad()
    assert not torch.allclose(logits, start, atol=0.01)


def test_the_rules_are_none_at_the_base_and_go_one_way() -> None:
    for kind in ("vector", "matrix", "readout"):
        assert scales(kind, 1.0) == Scales()
    rates = [scales("matrix", ratio).lr for ratio in (0.5, 1.0, 2.0, 8.0)]
    assert all(after < before for before, after in pairwise(rates))


def test_a_standard_model_is_as_before() -> None:
    """The default has no trace of muP: two groups, as saved runs had, and torch's own scale."""
    model = BASE.build()
    assert [len(group["params"]) for group in AdamWConfig().build(model).param_groups] == [9, 6]
    assert model.blocks[0].attention.scale is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MuP(base_width=-1), "base_width -1 must be 0 or more"),
        (lambda: MuP(base_width=8, base_heads=-2), "base_heads -2 must be 0 or more"),
        (lambda: MuP(base_heads=2), "base_heads 2 needs a base_width"),
        (lambda: replace(WIDE, tied=True), r"tied: under muP \(base_width 32\) .* leave tied off"),
        (
            lambda: replace(BASE, tied=True, mup=MuP(zero_readout=True)),
            "zero_readout: a tied model would begin with embeddings of 0",
        ),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
