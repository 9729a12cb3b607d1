from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from toto.tokenizers.quantised import signed
from toto.tokenizers.vqgan import VQGAN, Attention, VQGANConfig
from toto.tokenizers.vqgan_weights import from_published

SMALL = VQGANConfig(
    vocab_size=64,
    channels=32,
    multipliers=(1, 2, 3),
    blocks_per_level=1,
    attention_levels=(1,),
    z_channels=24,
    code_width=8,
)


def frames(count: int = 2, height: int = 16, width: int = 24) -> Tensor:
    return torch.randint(256, (count, height, width, 3), dtype=torch.uint8)


@pytest.fixture
def vqgan() -> VQGAN:
    model = SMALL.build().eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.normal_(mean=0.5, std=0.1)  # so that no two of a shape are alike
    return model


def in_diffusers_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As `VQModel` of three levels stores them: decoder levels reversed, attention linear."""
    theirs = {}
    for name, tensor in weights.items():
        parts = name.split(".")
        if parts[1] in ("down", "up"):
            level = int(parts[2]) if parts[1] == "down" else 2 - int(parts[2])
            kind = {"block": "resnets", "attn": "attentions"}.get(parts[3], f"{parts[3]}rs.0")
            parts[1:4] = [f"{parts[1]}_blocks", str(level), kind]
        elif parts[1] == "mid":
            kind, _, number = parts[2].partition("_")
            kind = {"block": "resnets", "attn": "attentions"}[kind]
            parts[1:3] = ["mid_block", kind, str(int(number) - 1)]
        if "attentions" in parts:
            linear = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
            parts[-2] = {**linear, "norm": "group_norm"}[parts[-2]]
            tensor = tensor.flatten(1) if tensor.ndim == 4 else tensor
        parts[-2] = {"nin_shortcut": "conv_shortcut", "norm_out": "conv_norm_out"}.get(
            parts[-2], parts[-2]
        )
        theirs[".".join(parts)] = tensor
    return theirs


def in_old_diffusers_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    theirs = in_diffusers_names(weights)
    for new, name in old.items():
        theirs = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in theirs.items()}
    return theirs


def in_llamagen_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    theirs = {"quantize.codebook_used": torch.zeros(65536)}
    for name, tensor in weights.items():
        parts = name.split(".")
        if parts[1] in ("down", "up"):
            level = int(parts[2]) if parts[1] == "down" else 2 - int(parts[2])
            parts[1:4] = ["conv_blocks", str(level), {"block": "res"}.get(parts[3], parts[3])]
        elif parts[1] == "mid":
            parts[2] = {"block_1": "0", "attn_1": "1", "block_2": "2"}[parts[2]]
        theirs[".".join(parts)] = tensor
    return theirs


def in_taming_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        **weights,
        "loss.discriminator.main.0.weight": torch.zeros(4),
        "loss.perceptual_loss.net.slice1.0.weight": torch.zeros(4),
        "quantize.embedding.cluster_size": torch.zeros(64),
        "quantize.embedding.embed_avg": torch.zeros(64, 8),
    }


DIALECTS = {
    "taming": in_taming_names,
    "diffusers": in_diffusers_names,
    "old diffusers": in_old_diffusers_names,
    "LlamaGen": in_llamagen_names,
}


@pytest.mark.parametrize("vocab_size", [1024, 16384])
def test_the_full_size_has_the_published_parameters(vocab_size: int) -> None:
    """Those of taming's classes at its published config."""
    with torch.device("meta"):
        model = VQGANConfig(vocab_size=vocab_size).build()
    counts = {
        name: (sum(p.numel() for p in part.parameters()), len(list(part.parameters())))
        for name, part in (("encoder", model.encoder), ("decoder", model.decoder))
    }
    assert counts == {"encoder": (29_298_176, 144), "decoder": (42_449_795, 194)}
    assert model.quantize.embedding.weight.shape == (vocab_size, 256)
    assert model.patch_px == 16
    attending = [n for n, m in model.named_modules() if isinstance(m, Attention)]
    assert attending == [
        *(f"encoder.down.4.attn.{n}" for n in range(2)),
        "encoder.mid.attn_1",
        "decoder.mid.attn_1",
        *(f"decoder.up.4.attn.{n}" for n in range(3)),
    ]


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (2, 1, 1, 3)])
def test_a_patch_is_halved_once_between_levels(multipliers: tuple[int, ...]) -> None:
    config = VQGANConfig(
        vocab_size=8, channels=32, multipliers=multipliers, blocks_per_level=1, attention_levels=()
    )
    model = config.build()
    side = 2 ** (len(multipliers) - 1)
    assert model.patch_px == side
    pictures = frames(1, 2 * side, 3 * side)
    assert model.encode(pictures).shape == (1, 2, 3)
    assert model.decode(model.encode(pictures)).shape == pictures.shape


def test_unit_codes_and_vectors_have_length_1() -> None:
    model = replace(SMALL, unit_codes=True).build()
    vectors = model.hidden(signed(frames()))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2, 4, 6))
    torch.testing.assert_close(model.codes.norm(dim=1), torch.ones(64))


def test_gradients_reach_every_part() -> None:
    model = SMALL.build()
    drawn = model.draw(model.hidden(signed(frames())))
    (drawn.square().mean() + model.codes.sum()).backward()
    unmoved = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # A bias of the keys adds the same to all scores of a place.
    assert {name for name in unmoved if not name.endswith(".k.bias")} == set()
    assert model.last_weight is model.decoder.conv_out.weight


@pytest.mark.parametrize("dialect", DIALECTS)
def test_published_weights_are_read_whatever_their_names(dialect: str, vqgan: VQGAN) -> None:
    config, weights = from_published(DIALECTS[dialect](vqgan.state_dict()))
    assert config == replace(SMALL, unit_codes=dialect == "LlamaGen")
    wanted = vqgan.state_dict()
    assert weights.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(weights[name], tensor), name
    config.build().load_state_dict(weights)


def test_half_precision_becomes_fp32(vqgan: VQGAN) -> None:
    halves = {name: tensor.half() for name, tensor in vqgan.state_dict().items()}
    _, weights = from_published(halves)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_missing_tensor_is_told(dialect: str, vqgan: VQGAN) -> None:
    state = DIALECTS[dialect](vqgan.state_dict())
    not_of_the_network = in_taming_names({}).keys() | {"quantize.codebook_used"}
    for name in sorted(state.keys() - not_of_the_network)[::7]:
        with pytest.raises(ValueError, match=r"not the weights of this VQGAN architecture: "):
            from_published({n: t for n, t in state.items() if n != name})


def changed(vqgan: VQGAN, name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    state = {**vqgan.state_dict(), name: tensor}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("decoder.conv_out.bias", None, r"missing: decoder\.conv_out\.bias$"),
        ("encoder.conv_in.weight", None, r"missing or of another shape: encoder\.conv_in\.weight$"),
        ("quantize.embedding.weight", torch.zeros(()), r"of another shape: quantize\.embedding"),
        (
            "encoder.conv_in.weight",
            torch.zeros(0, 3),
            r"of another shape: encoder\.conv_in\.weight$",
        ),
        ("decoder.extra", torch.zeros(1), r"unknown: decoder\.extra$"),
        ("encoder.conv_out.weight", torch.zeros(48, 96, 3, 3), r"another shape: .*encoder\.conv_o"),
        ("quant_conv.bias", torch.zeros(8).int(), r"of no floating point: quant_conv\.bias$"),
    ],
)
def test_rejects_weights_that_do_not_fit(
    vqgan: VQGAN, name: str, tensor: Tensor | None, message: str
) -> None:
    with pytest.raises(
        ValueError, match=rf"not the weights of this VQGAN architecture: .*{message}"
    ):
        from_published(changed(vqgan, name, tensor))


def test_names_three_of_many_that_do_not_fit(vqgan: VQGAN) -> None:
    state = {n: t for n, t in vqgan.state_dict().items() if not n.startswith("decoder.mid.attn_1")}
    with pytest.raises(
        ValueError,
        match=r"missing: decoder\.mid\.attn_1\.k\.bias, decoder\.mid\.attn_1\.k\.weight, "
        r"decoder\.mid\.attn_1\.norm\.bias and 7 more$",
    ):
        from_published(state)


def test_rejects_two_tensors_for_one_place(vqgan: VQGAN) -> None:
    weights = vqgan.state_dict()
    both = in_diffusers_names(weights) | in_old_diffusers_names(weights)
    with pytest.raises(
        ValueError, match=r"two of these weights are one .*: \S+\.(q|k|v|proj_out)\.(weight|bias)$"
    ):
        from_published(both)


@pytest.mark.parametrize("state", [{}, {"model.layers.0.weight": torch.zeros(1)}])
def test_rejects_what_is_no_vqgan(state: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"no VQGAN's weights: .*known are those of taming"):
        from_published(state)


def test_rejects_levels_that_no_multiplier_gives(vqgan: VQGAN) -> None:
    name = "encoder.down.1.block.0.conv1.weight"
    with pytest.raises(ValueError, match=r"levels of \[32, 48, 96\] channels are not multiples of"):
        from_published(changed(vqgan, name, torch.zeros(48, 32, 3, 3)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quantize.proj.weight", r"of a Gumbel quantiser .* take a VQGAN with quantize\.embedding"),
        ("quantize.used", r"renumber their codes .* take the weights without the remapping"),
    ],
)
def test_rejects_quantisers_whose_ids_are_no_nearest_code(
    vqgan: VQGAN, name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        from_published(changed(vqgan, name, torch.zeros(4, 4)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 1}, "vocab_size 1 must be at least 2"),
        ({"channels": 48}, "channels 48 is not a multiple of the 32 normalisation groups"),
        ({"channels": 0}, "channels 0 is not a multiple"),
        ({"multipliers": ()}, r"multipliers \(\) must be one or more, each at least 1"),
        ({"multipliers": (1, 0)}, r"multipliers \(1, 0\) must be one or more"),
        ({"blocks_per_level": 0}, "blocks_per_level 0 must be at least 1"),
        ({"z_channels": 0}, "z_channels 0 must be at least 1"),
        ({"code_width": 0}, "code_width 0 must be at least 1"),
        ({"attention_levels": (5,)}, r"attention_levels \(5,\) must be among the levels 0\.\.4"),
        ({"attention_levels": (-1,)}, r"attention_levels \(-1,\) must be among"),
    ],
)
def test_rejects(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VQGANConfig(**fields)
