"""The VQGAN against independent code, on the same random weights.

Against a computation in fp64 from the published description (docs/paper.md, section 2.2), which
reads weights by taming's names; and against diffusers' `VQModel` where that is installed. In fp64
it can also be said which code is nearest beyond the doubt of fp32's rounding.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from toto.tokenizers.quantised import signed
from toto.tokenizers.vqgan import VQGAN, VQGANConfig
from toto.tokenizers.vqgan_weights import from_published

SMALL: dict[str, Any] = {
    "channels": 32,
    "multipliers": (1, 1, 2),
    "attention_levels": (1, 2),
    "z_channels": 48,
    "code_width": 24,
}
TIE = 1e-5
"""Two codes are a near tie if their squared distances differ by less than this share of |v|^2 +
|c|^2, which is what some hundred roundings of fp32 on the way to v can change. One in a hundred
may be; all others must agree."""


def pictures(count: int = 3, height: int = 32, width: int = 48) -> Tensor:
    colours = torch.rand(count, height // 8, width // 8, 3)
    coarse = colours.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return ((0.8 * coarse + 0.2 * torch.rand(coarse.shape)) * 255).byte()


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Weights that leave no part of the network without effect."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            # Ones and zeros would hide a misplaced norm or a missing bias.
            parameter.normal_(std=0.1)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
        else:
            # As much variance out as in: else biases drown the signal, and what a norm makes of
            # the rest is rounding. More in attention, or all places would be looked at alike.
            looks = any(f".{part}." in name for part in ("q", "k", "to_q", "to_k"))
            gain = 1.5 if looks else 0.3 if name == "decoder.conv_out.weight" else 1.0
            parameter.normal_(std=gain * parameter[0].numel() ** -0.5)


@torch.no_grad()
def spread(codes: Tensor, vectors_BCYX: Tensor) -> None:
    """Codes drawn from the normal distribution of the vectors, so that many are used."""
    vectors_PC = vectors_BCYX.permute(0, 2, 3, 1).flatten(0, 2)
    axes = torch.linalg.cholesky(vectors_PC.T.cov() + 1e-6 * torch.eye(vectors_PC.shape[1]))
    codes.copy_(vectors_PC.mean(0) + torch.randn_like(codes) @ axes.T)


def exact(frames: Tensor) -> Tensor:
    """Bytes to [-1, 1], in fp64."""
    return frames.permute(0, 3, 1, 2).double() / 255 * 2 - 1


class Reference:
    """Taming's network as functions of its weights, in fp64; convolutions as matrix products."""

    def __init__(self, weights: dict[str, Tensor], *, unit_codes: bool = False) -> None:
        self.weights = {name: tensor.double() for name, tensor in weights.items()}
        self.unit_codes = unit_codes

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.weights

    def conv(
        self, x: Tensor, name: str, *, border: tuple[int, ...] = (), stride: int = 1
    ) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        side = weight.shape[-1]
        x = torch.nn.functional.pad(x, border or [side // 2] * 4)
        rows, columns = ((size - side) // stride + 1 for size in x.shape[2:])
        patches = torch.nn.functional.unfold(x, side, stride=stride)
        return (weight.flatten(1) @ patches + bias[:, None]).view(len(x), -1, rows, columns)

    def norm(self, x: Tensor, name: str) -> Tensor:
        grouped = x.view(len(x), 32, -1)
        centred = grouped - grouped.mean(2, keepdim=True)
        scaled = centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt()
        gain, shift = (self.weights[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
        return scaled.view(x.shape) * gain + shift

    def swish_norm(self, x: Tensor, name: str) -> Tensor:
        x = self.norm(x, name)
        return x * torch.sigmoid(x)

    def block(self, x: Tensor, name: str) -> Tensor:
        h = self.conv(self.swish_norm(x, f"{name}.norm1"), f"{name}.conv1")
        h = self.conv(self.swish_norm(h, f"{name}.norm2"), f"{name}.conv2")
        wider = self.has(f"{name}.nin_shortcut")
        return h + (self.conv(x, f"{name}.nin_shortcut") if wider else x)

    def attention(self, x: Tensor, name: str) -> Tensor:
        h = self.norm(x, f"{name}.norm")
        q, k, v = (self.conv(h, f"{name}.{part}").flatten(2) for part in "qkv")
        look = (torch.einsum("bci,bcj->bij", q, k) * q.shape[1] ** -0.5).softmax(2)
        assert look.max() > 4 / look.shape[2]  # it does look somewhere
        return x + self.conv(
            torch.einsum("bij,bcj->bci", look, v).view(x.shape), f"{name}.proj_out"
        )

    def blocks(self, x: Tensor, level: str) -> Tensor:
        number = 0
        while self.has(f"{level}.block.{number}.conv1"):
            x = self.block(x, f"{level}.block.{number}")
            if self.has(f"{level}.attn.{number}.q"):
                x = self.attention(x, f"{level}.attn.{number}")
            number += 1
        return x

    def middle(self, x: Tensor, name: str) -> Tensor:
        x = self.block(x, f"{name}.mid.block_1")
        return self.block(self.attention(x, f"{name}.mid.attn_1"), f"{name}.mid.block_2")

    def levels(self) -> int:
        return len(
            {name.split(".")[2] for name in self.weights if name.startswith("encoder.down.")}
        )

    def vectors(self, frames: Tensor) -> Tensor:
        x = self.conv(exact(frames), "encoder.conv_in")
        for level in range(self.levels()):
            x = self.blocks(x, f"encoder.down.{level}")
            if level < self.levels() - 1:
                name = f"encoder.down.{level}.downsample.conv"
                x = self.conv(x, name, border=(0, 1, 0, 1), stride=2)
        x = self.swish_norm(self.middle(x, "encoder"), "encoder.norm_out")
        x = self.conv(self.conv(x, "encoder.conv_out"), "quant_conv")
        return x / x.norm(dim=1, keepdim=True) if self.unit_codes else x

    def codes(self) -> Tensor:
        codes = self.weights["quantize.embedding.weight"]
        return codes / codes.norm(dim=1, keepdim=True) if self.unit_codes else codes

    def ids_and_margins(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codes, and by what share of the lengths the second is farther."""
        vectors = self.vectors(frames).permute(0, 2, 3, 1)
        codes = self.codes()
        distances = torch.cdist(vectors.flatten(0, 2), codes).square()
        two = distances.topk(2, dim=1, largest=False)
        lengths = vectors.flatten(0, 2).square().sum(1) + codes[two.indices[:, 0]].square().sum(1)
        margins = (two.values[:, 1] - two.values[:, 0]) / lengths
        return two.indices[:, 0].view(vectors.shape[:3]), margins

    def pixels(self, ids: Tensor) -> Tensor:
        x = self.conv(self.codes()[ids.long()].permute(0, 3, 1, 2), "post_quant_conv")
        x = self.middle(self.conv(x, "decoder.conv_in"), "decoder")
        for level in reversed(range(self.levels())):
            x = self.blocks(x, f"decoder.up.{level}")
            if level:
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self.conv(x, f"decoder.up.{level}.upsample.conv")
        return self.conv(self.swish_norm(x, "decoder.norm_out"), "decoder.conv_out")


def assert_same_codes(ids: Tensor, expected: Tensor, margins: Tensor) -> None:
    sure = margins > TIE
    assert sure.float().mean() > 0.99
    assert torch.equal(ids.long().flatten()[sure], expected.flatten()[sure])


def random_vqgan(config: VQGANConfig) -> VQGAN:
    model = config.build().eval().requires_grad_(False)
    randomise(model)
    spread(model.quantize.embedding.weight, model.hidden(signed(pictures(8))))
    return model


@torch.no_grad()
def test_in_fp64_both_are_one_computation() -> None:
    """Nothing is left to rounding: what remains of 1e-10 would be another network."""
    model = random_vqgan(VQGANConfig(**SMALL))
    reference, model = Reference(model.state_dict()), model.double()
    frames = pictures()
    vectors = model.hidden(exact(frames))
    torch.testing.assert_close(vectors, reference.vectors(frames), rtol=1e-10, atol=1e-10)
    ids, _ = reference.ids_and_margins(frames)
    drawn = model.draw(model.codes[ids].permute(0, 3, 1, 2))
    torch.testing.assert_close(drawn, reference.pixels(ids), rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("vocab_size", [1024, 16384])
@pytest.mark.parametrize("unit_codes", [False, True])
def test_codes_and_pixels_are_the_published_ones(vocab_size: int, unit_codes: bool) -> None:
    config = VQGANConfig(**SMALL, vocab_size=vocab_size, unit_codes=unit_codes)
    model = random_vqgan(config)
    reference = Reference(model.state_dict(), unit_codes=unit_codes)
    frames = pictures()
    vectors = model.hidden(signed(frames))
    torch.testing.assert_close(vectors.double(), reference.vectors(frames), rtol=1e-4, atol=5e-5)
    ids = model.encode(frames)
    assert len(ids.unique()) > 0.5 * ids.numel()
    assert_same_codes(ids, *reference.ids_and_margins(frames))
    drawn = model.draw(model.codes[ids.long()].permute(0, 3, 1, 2))
    pixels = reference.pixels(ids)
    assert pixels.std() > 0.1
    torch.testing.assert_close(drawn.double(), pixels, rtol=1e-5, atol=3e-5)
    # Bytes: [-1, 1] to 0..255, clamped and rounded.
    bytes_ = ((pixels + 1) / 2 * 255).clamp(0, 255).permute(0, 2, 3, 1)
    assert (model.decode(ids).double() - bytes_).abs().max() < 0.51


@torch.no_grad()
@pytest.mark.parametrize("vocab_size", [1024, 16384])
@pytest.mark.filterwarnings("ignore")  # the peer's own
def test_codes_and_pixels_are_those_of_diffusers(vocab_size: int) -> None:
    diffusers = pytest.importorskip("diffusers", reason="a peer, installed by hand")
    peer = diffusers.VQModel(
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 32, 64),
        layers_per_block=2,
        latent_channels=48,
        vq_embed_dim=24,
        num_vq_embeddings=vocab_size,
    ).eval()
    randomise(peer)
    spread(peer.quantize.embedding.weight, peer.encode(signed(pictures(8))).latents)
    config, weights = from_published(peer.state_dict())
    assert config == VQGANConfig(**SMALL, vocab_size=vocab_size)
    model = config.build().eval()
    model.load_state_dict(weights)
    frames = pictures()
    latents = peer.encode(signed(frames)).latents
    torch.testing.assert_close(model.hidden(signed(frames)), latents, rtol=1e-4, atol=5e-5)
    quantised, _, (_, _, theirs) = peer.quantize(latents)
    ids = model.encode(frames)
    _, margins = Reference(weights).ids_and_margins(frames)
    assert_same_codes(ids, theirs.view(ids.shape), margins)
    drawn = model.draw(model.codes[ids.long()].permute(0, 3, 1, 2))
    pixels = peer.decode(quantised, force_not_quantize=True).sample
    torch.testing.assert_close(drawn, pixels, rtol=1e-5, atol=3e-5)
