"""The discrete VAE of DALL-E: 8 x 8 pixels a token, trained by Gumbel-softmax.

The defaults are the published size (8192 codes, 53.8 M and 43.8 M parameters); a smaller `width`
and `vocab_size` give the same blocks at a size that trains on a laptop.

Source: docs/paper.md, K rows (openai/DALL-E: encoder, decoder, map_pixels).
"""

import json
import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor, nn

from toto.config import to_dict
from toto.tokenizers.base import check_frames, check_ids, digest_of
from toto.tokenizers.batch import frames_at_once

PIXEL_MARGIN = 0.1
"""Pixels are mapped into [0.1, 0.9], where the logit-Laplace density is finite."""
GROUPS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class DVAEConfig:
    """Size of the discrete VAE."""

    vocab_size: int = 8192
    width: int = 256
    """Channels of the first group; the others have 2, 4 and 8 times as many."""
    decoder_stem: int = 128
    """Channels after the decoder's first 1x1 convolution."""
    blocks_per_group: int = 2
    decoder: bool = True
    """Whether there is one; published encoders come alone too, and then frames become ids only."""

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size {self.vocab_size} must be at least 2")
        for name in ("width", "decoder_stem", "blocks_per_group"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4, the blocks' bottleneck")

    def build(self) -> "DVAE":
        """Make the tokenizer these sizes describe, with fresh weights."""
        return DVAE(self)


def convolution(channels: int, filters: int, kernel: int) -> nn.Conv2d:
    """Make a 'same' convolution with the published start: N(0, 1 / fan in), zero bias."""
    layer = nn.Conv2d(channels, filters, kernel, padding=(kernel - 1) // 2)
    nn.init.normal_(layer.weight, std=1 / math.sqrt(channels * kernel**2))
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return layer


class Block(nn.Module):
    """Pre-activation bottleneck; the residual is scaled by 1 / (number of blocks)^2.

    Encoder blocks have kernels 3, 3, 3, 1 and decoder blocks 1, 3, 3, 3.
    """

    def __init__(self, channels: int, filters: int, kernels: tuple[int, ...], gain: float) -> None:
        super().__init__()
        hidden = filters // 4
        sizes = [channels, hidden, hidden, hidden, filters]
        self.gain = gain
        self.id_path = (
            nn.Identity() if channels == filters else convolution(channels, filters, kernel=1)
        )
        path: OrderedDict[str, nn.Module] = OrderedDict()
        for number, kernel in enumerate(kernels, start=1):
            path[f"relu_{number}"] = nn.ReLU()
            path[f"conv_{number}"] = convolution(sizes[number - 1], sizes[number], kernel)
        self.res_path = nn.Sequential(path)

    def forward(self, x: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B C2 H W"]:
        """Add the scaled residual to the (widened) input."""
        return self.id_path(x) + self.gain * self.res_path(x)


def _group(
    channels: int,
    filters: int,
    count: int,
    kernels: tuple[int, ...],
    end: tuple[str, nn.Module] | None,
) -> nn.Sequential:
    gain = 1 / (GROUPS * count) ** 2
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, count + 1):
        parts[f"block_{number}"] = Block(channels, filters, kernels, gain)
        channels = filters
    if end:
        parts[end[0]] = end[1]
    return nn.Sequential(parts)


def _encoder(config: DVAEConfig) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["input"] = convolution(3, config.width, kernel=7)
    channels = config.width
    for number, factor in enumerate((1, 2, 4, 8), start=1):
        pool = ("pool", nn.MaxPool2d(2)) if number < GROUPS else None
        filters = factor * config.width
        parts[f"group_{number}"] = _group(
            channels, filters, config.blocks_per_group, (3, 3, 3, 1), pool
        )
        channels = filters
    parts["output"] = nn.Sequential(
        OrderedDict(relu=nn.ReLU(), conv=convolution(channels, config.vocab_size, kernel=1))
    )
    return nn.Sequential(parts)


def _decoder(config: DVAEConfig) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["input"] = convolution(config.vocab_size, config.decoder_stem, kernel=1)
    channels = config.decoder_stem
    for number, factor in enumerate((8, 4, 2, 1), start=1):
        double = ("upsample", nn.Upsample(scale_factor=2)) if number < GROUPS else None
        filters = factor * config.width
        parts[f"group_{number}"] = _group(
            channels, filters, config.blocks_per_group, (1, 3, 3, 3), double
        )
        channels = filters
    parts["output"] = nn.Sequential(
        OrderedDict(relu=nn.ReLU(), conv=convolution(channels, 6, kernel=1))
    )
    return nn.Sequential(parts)


class DVAE(nn.Module):
    """Encoder to logits over codes, decoder from codes to a logit-Laplace density of pixels."""

    name = "dvae"
    patch_px = 2 ** (GROUPS - 1)

    def __init__(self, config: DVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config or DVAEConfig()
        self.vocab_size = self.config.vocab_size
        self.encoder = nn.Sequential(OrderedDict(blocks=_encoder(self.config)))
        self.decoder = (
            nn.Sequential(OrderedDict(blocks=_decoder(self.config)))
            if self.config.decoder
            else None
        )
        # The same codes, 4 times faster on a CPU (the demo's size, 64 px, 2 threads).
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def logits(self, pixels: Float32[Tensor, "B 3 H W"]) -> Float32[Tensor, "B V Y X"]:
        """Score every code at every place; `pixels` are mapped by `map_pixels`."""
        return self.encoder(pixels)

    def density(
        self, codes: Float32[Tensor, "B V Y X"]
    ) -> tuple[Float32[Tensor, "B 3 H W"], Float32[Tensor, "B 3 H W"]]:
        """Location and log scale of each subpixel's logit-Laplace density.

        Args:
            codes: one-hot, or the relaxed mixture of training.

        Raises:
            ValueError: if there is no decoder.
        """
        if self.decoder is None:
            raise ValueError(
                "this dVAE was converted from an encoder alone and cannot draw frames; "
                "convert OpenAI's decoder.pkl too"
            )
        location, log_scale = self.decoder(codes).float().chunk(2, dim=1)
        return location, log_scale

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "T H W 3"]) -> Int32[Tensor, "T Y X"]:
        """Take the best code at each place."""
        check_frames(frames, self.patch_px)
        place = self._place()
        parts = [
            self.logits(map_pixels(part.to(place))).argmax(1).int().to(frames.device)
            for part in frames.split(frames_at_once(*frames.shape[1:3]))
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def decode(self, ids: Int32[Tensor, "T Y X"]) -> UInt8[Tensor, "T H W 3"]:
        """Draw the location of the density that the codes stand for."""
        check_ids(ids, self.vocab_size)
        parts = []
        height, width = ids.shape[1:]
        for part in ids.split(frames_at_once(height * self.patch_px, width * self.patch_px)):
            codes = F.one_hot(part.long().to(self._place()), self.vocab_size)
            location, _ = self.density(codes.permute(0, 3, 1, 2).float())
            parts.append(unmap_pixels(torch.sigmoid(location)).to(ids.device))
        return torch.cat(parts)

    @torch.no_grad()
    def place_codes(
        self, frames: UInt8[Tensor, "T H W 3"], *, sharpness: float, generator: torch.Generator
    ) -> None:
        """Begin with every code on a random patch of real frames instead of at random.

        The output layer's scores become -s |h - c|^2 up to a term that all codes share, where h
        is what the encoder's last group says of a patch and c of the code's own patch. From a
        random start a short run leaves most codes dead; from this one it does not
        (docs/log.md, 2026-11-20). Not part of the published recipe.

        Args:
            frames: at least as many patches as there are codes.
            sharpness: mean score gap between a patch's own code and another.
            generator: chooses the patches.

        Raises:
            ValueError: if there are fewer patches than codes.
        """
        blocks = self.encoder.get_submodule("blocks")
        hidden = map_pixels(frames.to(self._place()))
        for name, group in blocks.named_children():
            hidden = group.get_submodule("relu")(hidden) if name == "output" else group(hidden)
        patches_PC = hidden.permute(0, 2, 3, 1).flatten(0, 2)
        if len(patches_PC) < self.vocab_size:
            raise ValueError(
                f"{len(patches_PC)} patches are too few to start {self.vocab_size} codes from"
            )
        chosen = torch.randperm(len(patches_PC), generator=generator)
        codes_VC = patches_PC[chosen[: self.vocab_size].to(patches_PC.device)]
        some_PC = patches_PC[chosen[:1000].to(patches_PC.device)]
        scale = sharpness / torch.cdist(some_PC, codes_VC).square().mean()
        conv = blocks.get_submodule("output.conv")
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        conv.weight.copy_((2 * scale * codes_VC)[:, :, None, None])
        conv.bias.copy_(-scale * codes_VC.square().sum(1))

    def _place(self) -> torch.device:
        return next(self.parameters()).device

    def digest(self) -> str:
        """sha256 of the configuration and all weights."""
        return digest_of(
            f"dvae {json.dumps(to_dict(self.config), sort_keys=True)}", self.state_dict()
        )


def map_pixels(frames: UInt8[Tensor, "T H W 3"]) -> Float32[Tensor, "T 3 H W"]:
    """Bring bytes into (0, 1), away from the ends: x -> (1 - 2e) x + e with e = 0.1."""
    x = frames.permute(0, 3, 1, 2).float() / 255
    return (1 - 2 * PIXEL_MARGIN) * x + PIXEL_MARGIN


def unmap_pixels(pixels: Float32[Tensor, "T 3 H W"]) -> UInt8[Tensor, "T H W 3"]:
    """Undo `map_pixels`, clamped to bytes."""
    x = ((pixels - PIXEL_MARGIN) / (1 - 2 * PIXEL_MARGIN)).clamp(0, 1)
    return (x * 255).round().byte().permute(0, 2, 3, 1).contiguous()


def logit_laplace_nll(
    pixels: Float32[Tensor, "B 3 H W"],
    location: Float32[Tensor, "B 3 H W"],
    log_scale: Float32[Tensor, "B 3 H W"],
) -> Float32[Tensor, "B 3 H W"]:
    """Negative log density of each subpixel, in nats: ln(2 b x (1 - x)) + |logit(x) - m| / b.

    Args:
        pixels: x, mapped into (0, 1).
        location: m, in logits.
        log_scale: ln b.
    """
    distance = (torch.logit(pixels) - location).abs()
    return (
        math.log(2) + log_scale + torch.log(pixels * (1 - pixels)) + distance * (-log_scale).exp()
    )
