import math
from dataclasses import replace

import pytest
import torch

from toto.models import Gpt2Config
from toto.models.gpt2 import sine_table

SMALL = Gpt2Config(vocab_size=37, width=32, depth=2, heads=2, context=64)


def test_fresh_weights_are_gpt2s() -> None:
    config = Gpt2Config(vocab_size=2000, width=256, depth=8, heads=4, context=100, tied=False)
    for name, weight in config.build().named_parameters():
        if name.endswith("bias"):
            assert torch.equal(weight, torch.zeros_like(weight)), name
            continue
        if weight.ndim == 1:
            assert torch.equal(weight, torch.ones_like(weight)), name
            continue
        into_stream = name.endswith(("attention.out.weight", "mlp.down.weight"))
        expected = 0.02 / math.sqrt(2 * 8) if into_stream else 0.02
        assert weight.std().item() == pytest.approx(expected, rel=0.02), name


def test_a_place_weighs_as_much_as_a_fresh_code() -> None:
    model = replace(SMALL, width=256, context=4098).build()
    places = model.positions(range(4098))
    assert places.square().mean().sqrt().item() == pytest.approx(0.02, rel=0.01)
    twice = replace(SMALL, width=256, position_scale=2.0).build().positions(range(4098))
    torch.testing.assert_close(twice, 2 * places)


def test_positions_are_not_weights() -> None:
    assert not [name for name in SMALL.build().state_dict() if "position" in name]


def test_positions_are_the_transformers_sines() -> None:
    """Section 3.5 of arXiv 1706.03762, number by number in double precision."""
    table = sine_table(range(3, 9), 8)
    for row, place in enumerate(range(3, 9)):
        for channel in range(8):
            angle = place / 10_000 ** (channel // 2 * 2 / 8)
            expected = math.cos(angle) if channel % 2 else math.sin(angle)
            assert table[row, channel].item() == pytest.approx(expected, abs=1e-6)


def test_places_are_counted_from_the_start_of_the_sequence() -> None:
    assert torch.equal(sine_table(range(5, 9), 8), sine_table(range(9), 8)[5:])


def test_every_place_is_told_apart() -> None:
    table = sine_table(range(4098), 1024)
    nearest = torch.cdist(table, table).fill_diagonal_(torch.inf).min()
    assert nearest > 1


@pytest.mark.parametrize(("width", "heads"), [(32, 3), (33, 3)])
def test_rejects_a_width_that_heads_or_sines_do_not_fit(width: int, heads: int) -> None:
    with pytest.raises(ValueError, match=f"width {width} must be even and divide into {heads}"):
        replace(SMALL, width=width, heads=heads)
