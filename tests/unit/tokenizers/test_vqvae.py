from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from toto.tokenizers import VQVAEConfig
from toto.tokenizers.vqvae import Block, from_published

SMALL = VQVAEConfig(
    vocab_size=16, code_width=4, width=8, residual_width=6, encoder_blocks=2, decoder_blocks=1
)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 1}, "vocab_size 1 must be at least 2"),
        ({"code_width": 0}, "code_width 0 must be at least 1"),
        ({"width": 0}, "width 0 must be at least 1"),
        ({"residual_width": -1}, "residual_width -1 must be at least 1"),
        ({"halvings": 0}, "halvings 0 must be at least 1"),
        ({"encoder_blocks": -1}, "encoder_blocks -1 and decoder_blocks 4 must not be negative"),
        ({"decoder_blocks": -2}, "encoder_blocks 4 and decoder_blocks -2 must not be negative"),
        (
            {"resample": "convolutions", "width": 6},
            "width 6 cannot be halved 2 times, once for each finer convolution",
        ),
    ],
)
def test_rejects(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VQVAEConfig(**fields)


@torch.no_grad()
@pytest.mark.parametrize("resample", ["patches", "convolutions"])
@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_shapes(resample: Any, halvings: int) -> None:
    config = replace(SMALL, resample=resample, halvings=halvings)
    model, side = config.build(), 2**halvings
    assert model.patch_px == config.patch_px == side
    vectors = model.hidden(torch.zeros(2, 3, 3 * side, 5 * side))
    assert vectors.shape == (2, 4, 3, 5)
    assert model.draw(vectors).shape == (2, 3, 3 * side, 5 * side)
    assert model.codes.shape == (16, 4)
    ids = model.encode(torch.zeros(2, 3 * side, 5 * side, 3, dtype=torch.uint8))
    assert ids.shape == (2, 3, 5)
    assert model.decode(ids).shape == (2, 3 * side, 5 * side, 3)


@pytest.mark.parametrize("resample", ["patches", "convolutions"])
def test_the_last_weight_is_the_one_that_draws(resample: Any) -> None:
    model = replace(SMALL, resample=resample).build()
    before = model.draw(torch.zeros(1, 4, 2, 2))
    with torch.no_grad():
        model.last_weight.zero_()
    after = model.draw(torch.randn(1, 4, 2, 2))
    assert not torch.equal(before, after)
    # Without it nothing but its bias is left.
    assert torch.equal(after, model.draw(torch.randn(1, 4, 2, 2)))


def test_strided_convolutions_grow_in_width() -> None:
    config = replace(SMALL, resample="convolutions")
    assert config.widths == [2, 4, 8]
    assert replace(config, halvings=1).widths == [8]


@torch.no_grad()
def test_a_new_block_adds_nothing() -> None:
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(Block(SMALL)(x), x)
    assert torch.equal(Block(replace(SMALL, rectified_skip=True))(x), x.relu())


@torch.no_grad()
def test_a_rectified_skip_is_what_a_relu_in_place_leaves() -> None:
    """The published block begins with a ReLU in place, which also changes what it is added to."""
    block = Block(replace(SMALL, rectified_skip=True))
    block.widen.weight.normal_()
    published = torch.nn.Sequential(
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv2d(8, 6, 3, padding=1, bias=False),
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv2d(6, 8, 1, bias=False),
    )
    published[1].weight.copy_(block.narrow.weight)
    published[3].weight.copy_(block.widen.weight)
    x = torch.randn(2, 8, 5, 4)
    changed = x.clone()
    expected = published(changed)
    expected = changed + expected
    torch.testing.assert_close(block(x), expected, rtol=1e-6, atol=1e-6)
    plain = Block(SMALL)
    plain.load_state_dict(block.state_dict())
    assert not torch.allclose(plain(x), expected)


def published(
    *, halvings: int = 2, encoder_blocks: int = 2, decoder_blocks: int = 1
) -> dict[str, torch.Tensor]:
    """Random weights under the published names: codes 16 x 4, width 8, inside the blocks 6."""
    sides = [8 // 2**level for level in range(halvings - 1, -1, -1)]
    shapes: dict[str, tuple[int, ...]] = {
        "_vq_vae._embedding.weight": (16, 4),
        "_vq_vae._ema_w": (16, 4),
        "_vq_vae._ema_cluster_size": (16,),
        f"_encoder._conv_{halvings + 1}": (8, 8, 3, 3),
        "_pre_vq_conv": (4, 8, 1, 1),
        "_decoder._conv_1": (8, 4, 3, 3),
    }
    for level, (channels, filters) in enumerate(pairwise([3, *sides]), start=1):
        shapes[f"_encoder._conv_{level}"] = (filters, channels, 4, 4)
    downwards = [*sides[::-1], 3]
    for level, (channels, filters) in enumerate(pairwise(downwards), start=1):
        shapes[f"_decoder._conv_trans_{level}"] = (channels, filters, 4, 4)
    for side, blocks in (("encoder", encoder_blocks), ("decoder", decoder_blocks)):
        for number in range(blocks):
            block = f"_{side}._residual_stack._layers.{number}._block"
            shapes[f"{block}.1.weight"] = (6, 8, 3, 3)
            shapes[f"{block}.3.weight"] = (8, 6, 1, 1)
    state: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        if name.startswith("_vq_vae") or name.endswith("weight"):
            state[name] = 0.3 * torch.randn(shape)
        else:
            state[f"{name}.weight"] = 0.3 * torch.randn(shape)
            filters = shape[1] if "_trans_" in name else shape[0]
            state[f"{name}.bias"] = 0.3 * torch.randn(filters)
    return state


def by_hand(state: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """The published encoder, with two strided convolutions, from its weights alone."""

    def layer(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    x = F.conv2d(pixels, *layer("_encoder._conv_1"), stride=2, padding=1).relu()
    x = F.conv2d(x, *layer("_encoder._conv_2"), stride=2, padding=1).relu()
    x = F.conv2d(x, *layer("_encoder._conv_3"), padding=1)
    x = stack(state, "encoder", x, blocks=2)
    return F.conv2d(x, *layer("_pre_vq_conv"))


def stack(state: dict[str, torch.Tensor], side: str, x: torch.Tensor, blocks: int) -> torch.Tensor:
    for number in range(blocks):
        block = f"_{side}._residual_stack._layers.{number}._block"
        x = x.relu()
        inside = F.conv2d(x, state[f"{block}.1.weight"], padding=1).relu()
        x = x + F.conv2d(inside, state[f"{block}.3.weight"])
    return x.relu()


@torch.no_grad()
def test_published_weights_compute_what_they_did() -> None:
    state = published()
    config, weights = from_published(state)
    assert config == VQVAEConfig(
        vocab_size=16,
        code_width=4,
        width=8,
        residual_width=6,
        encoder_blocks=2,
        decoder_blocks=1,
        halvings=2,
        resample="convolutions",
        rectified_skip=True,
    )
    model = config.build()
    model.load_state_dict(weights)
    pixels = torch.randn(2, 3, 16, 12)
    torch.testing.assert_close(model.hidden(pixels), by_hand(state, pixels), rtol=1e-4, atol=1e-5)
    vectors = torch.randn(2, 4, 3, 4)
    x = F.conv2d(
        vectors, state["_decoder._conv_1.weight"], state["_decoder._conv_1.bias"], padding=1
    )
    x = stack(state, "decoder", x, blocks=1)
    for level, end in ((1, F.relu), (2, torch.Tensor.clone)):
        name = f"_decoder._conv_trans_{level}"
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        x = end(F.conv_transpose2d(x, weight, bias, stride=2, padding=1))
    torch.testing.assert_close(model.draw(vectors), x, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.codes, state["_vq_vae._embedding.weight"])


@pytest.mark.parametrize(("halvings", "encoder_blocks"), [(1, 1), (3, 4)])
def test_sizes_are_told_from_the_weights(halvings: int, encoder_blocks: int) -> None:
    state = published(halvings=halvings, encoder_blocks=encoder_blocks, decoder_blocks=3)
    config, weights = from_published(state)
    assert (config.halvings, config.encoder_blocks, config.decoder_blocks) == (
        halvings,
        encoder_blocks,
        3,
    )
    config.build().load_state_dict(weights)


def test_weights_that_are_none_are_named() -> None:
    state = published()
    for gone in ("_vq_vae._embedding.weight", "_encoder._residual_stack._layers.0._block.1.weight"):
        rest = {name: tensor for name, tensor in state.items() if name != gone}
        with pytest.raises(ValueError, match=f"not a VQ-VAE's weights: '{gone}' is missing"):
            from_published(rest)
    rest = {name: tensor for name, tensor in state.items() if name != "_pre_vq_conv.bias"}
    with pytest.raises(ValueError, match=r"missing \['_pre_vq_conv.bias'\], unknown \[\]"):
        from_published(rest)
    with pytest.raises(ValueError, match=r"missing none, unknown \['_encoder._extra.weight'\]"):
        from_published({**state, "_encoder._extra.weight": torch.zeros(1)})


def test_the_averages_of_training_may_be_absent() -> None:
    state = {name: tensor for name, tensor in published().items() if "_ema_" not in name}
    assert from_published(state)[0].vocab_size == 16
