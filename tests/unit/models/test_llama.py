import math
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from toto.models import LlamaConfig
from toto.models.flops import model_cost
from toto.models.rope import rotary_tables, rotate
from toto.recipes import PRETRAIN

SMALL = LlamaConfig(vocab_size=37, width=32, depth=2, heads=2, mlp_width=48, context=64)
SHAPES = [
    SMALL,
    replace(SMALL, tied=True),
    replace(SMALL, depth=5, heads=4),
    replace(SMALL, width=64, mlp_width=171, vocab_size=515, context=17),
]


def parameters(config: LlamaConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in config.build().parameters())


@pytest.mark.parametrize("config", SHAPES, ids=range(len(SHAPES)))
def test_counted_parameters_are_those_of_the_built_model(config: LlamaConfig) -> None:
    cost = model_cost(config)
    assert cost.parameters == parameters(config)
    tables = 1 if config.tied else 2
    assert cost.embedding == tables * config.vocab_size * config.width
    assert cost.state_bytes == 16 * cost.parameters


@pytest.mark.parametrize(("name", "published"), [("base", 120e6), ("large", 280e6), ("1b", 1.1e9)])
def test_the_paper_sizes_have_the_paper_parameters(name: str, published: float) -> None:
    """Table 1 of the paper, which rounds to two digits and does not say what it counts."""
    config = PRETRAIN[name]().model
    assert parameters(config) == model_cost(config).parameters
    assert parameters(config) == pytest.approx(published, rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize("config", SHAPES, ids=range(len(SHAPES)))
def test_counted_flops_are_those_that_torch_counts(config: LlamaConfig) -> None:
    ids = torch.zeros(1, config.context, dtype=torch.long)
    model = config.build()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(ids)
    counts = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    # torch counts attention over the whole square; causally, half of it is needed.
    expected = counts["aten.mm"] + counts["aten.bmm"] / 2
    assert model_cost(config).forward_flops_a_token * config.context == expected


def test_fresh_weights_have_the_deviations_promised() -> None:
    config = LlamaConfig(vocab_size=2000, width=256, depth=8, heads=4, mlp_width=512)
    for name, weight in config.build().named_parameters():
        if weight.ndim == 1:
            assert torch.equal(weight, torch.ones_like(weight)), name
            continue
        into_stream = name.endswith(("attention.out.weight", "mlp.down.weight"))
        expected = 0.02 / math.sqrt(2 * 8) if into_stream else 0.02
        # 2 %: the smallest matrix has 65,536 weights, whose deviation varies by 0.3 %.
        assert weight.std().item() == pytest.approx(expected, rel=0.02), name
        assert abs(weight.mean().item()) < expected / 50, name


def test_rotation_turns_a_pair_by_its_angle() -> None:
    cos_LK, sin_LK = rotary_tables(50, 8, base=100.0)
    x = torch.zeros(1, 1, 50, 8)
    x[..., 1] = 1.0  # the second pair is channels 1 and 5
    angle = torch.arange(50) * 100 ** (-2 / 8)
    expected = torch.zeros_like(x)
    expected[..., 1], expected[..., 5] = angle.cos(), angle.sin()
    torch.testing.assert_close(rotate(x, cos_LK, sin_LK), expected, rtol=0, atol=1e-5)


def test_rotated_products_depend_on_the_distance_alone() -> None:
    cos_LK, sin_LK = rotary_tables(64, 16, base=10_000.0)
    q, k = torch.randn(16), torch.randn(16)
    q_LK, k_LK = (rotate(t.expand(1, 1, 64, 16), cos_LK, sin_LK)[0, 0] for t in (q, k))
    products = q_LK @ k_LK.T
    for distance in (0, 1, 20):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)


def test_rotation_keeps_the_precision_it_was_given() -> None:
    cos_LK, sin_LK = rotary_tables(4, 8, base=10_000.0)
    assert rotate(torch.randn(1, 1, 4, 8).bfloat16(), cos_LK, sin_LK).dtype == torch.bfloat16


@pytest.mark.parametrize("heads", [3, 32])
def test_rejects_heads_that_do_not_divide_the_width_evenly(heads: int) -> None:
    with pytest.raises(ValueError, match=f"width 32 does not divide into {heads} heads of an even"):
        replace(SMALL, heads=heads)
