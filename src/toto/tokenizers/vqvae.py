"""The VQ-VAE: convolutions and a few residual blocks around a nearest code.

Two ways in and out. `convolutions` halves the sides with strided 4x4 convolutions, as published
(and as the public weights that `from_published` reads). `patches` cuts whole patches at once, so
that all of the network runs at the tokens' resolution: on a CPU the way to train one in an hour
(docs/log.md, 2026-11-20). The tokenizer that ships is of that kind.

Source: van den Oord et al. 2017; swasun/VQ-VAE-Images (MIT) for the names of the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor, nn

from toto.tokenizers.quantised import Quantised


@dataclass(frozen=True, kw_only=True, slots=True)
class VQVAEConfig:
    """Size of the VQ-VAE; the defaults are those of the tokenizer that ships."""

    vocab_size: int = 8192
    code_width: int = 16
    """Channels of a code."""
    width: int = 256
    """Channels at the tokens' resolution."""
    residual_width: int = 128
    """Channels inside a residual block."""
    encoder_blocks: int = 4
    decoder_blocks: int = 4
    halvings: int = 3
    """How often the sides are halved; a token stands for 2^halvings pixels a side."""
    resample: Literal["patches", "convolutions"] = "patches"
    """Whole patches at once, or one 4x4 convolution of stride 2 a halving."""
    rectified_skip: bool = False
    """Whether a block adds to the rectified input, as the public weights want, or the input."""

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size {self.vocab_size} must be at least 2")
        for name in ("code_width", "width", "residual_width", "halvings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if min(self.encoder_blocks, self.decoder_blocks) < 0:
            raise ValueError(
                f"encoder_blocks {self.encoder_blocks} and decoder_blocks {self.decoder_blocks} "
                "must not be negative"
            )
        if self.resample == "convolutions" and self.width % 2 ** (self.halvings - 1):
            raise ValueError(
                f"width {self.width} cannot be halved {self.halvings - 1} times, once for each "
                "finer convolution"
            )

    @property
    def patch_px(self) -> int:
        """Side of the square of pixels that a token stands for."""
        return 2**self.halvings

    @property
    def widths(self) -> list[int]:
        """Channels after each strided convolution, the finest first."""
        return [self.width // 2**level for level in range(self.halvings - 1, -1, -1)]

    def build(self) -> "VQVAE":
        """Make the tokenizer these sizes describe, with fresh weights."""
        return VQVAE(self)


class Block(nn.Module):
    """Pre-activation residual block: 3x3 into the narrow width, 1x1 back; no biases."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.rectified_skip = config.rectified_skip
        self.narrow = nn.Conv2d(config.width, config.residual_width, 3, padding=1, bias=False)
        self.widen = nn.Conv2d(config.residual_width, config.width, 1, bias=False)
        # A block begins as the identity.
        nn.init.zeros_(self.widen.weight)

    def forward(self, x: Float32[Tensor, "B C Y X"]) -> Float32[Tensor, "B C Y X"]:
        """Add what the block finds to its input."""
        rectified = F.relu(x)
        skip = rectified if self.rectified_skip else x
        return skip + self.widen(F.relu(self.narrow(rectified)))


class VQVAE(Quantised):
    """Encoder, nearest of the codes, decoder; each code is drawn together with its neighbours."""

    name = "vqvae"

    def __init__(self, config: VQVAEConfig | None = None) -> None:
        super().__init__()
        self.config: VQVAEConfig = config or VQVAEConfig()
        config = self.config
        self.vocab_size, self.patch_px = config.vocab_size, config.patch_px
        self.encoder = nn.Sequential(
            *_inwards(config),
            *[Block(config) for _ in range(config.encoder_blocks)],
            nn.ReLU(),
            nn.Conv2d(config.width, config.code_width, 1),
        )
        self.codebook = nn.Embedding(config.vocab_size, config.code_width)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_width, config.width, 3, padding=1),
            *[Block(config) for _ in range(config.decoder_blocks)],
            nn.ReLU(),
            *_outwards(config),
        )
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def codes(self) -> Float32[Tensor, "V C"]:
        """The codebook."""
        return self.codebook.weight

    @property
    def last_weight(self) -> Tensor:
        """Weight of the decoder's last convolution, where an adversarial term is balanced."""
        convolutions = (nn.Conv2d, nn.ConvTranspose2d)
        return [part for part in self.decoder if isinstance(part, convolutions)][-1].weight

    def hidden(self, pixels: Float32[Tensor, "B 3 H W"]) -> Float32[Tensor, "B C Y X"]:
        """Turn pixels in [-1, 1] into the vectors that are compared with the codes."""
        return self.encoder(pixels.contiguous(memory_format=torch.channels_last))

    def draw(self, vectors: Float32[Tensor, "B C Y X"]) -> Float32[Tensor, "B 3 H W"]:
        """Turn codes into pixels, about in [-1, 1]."""
        return self.decoder(vectors.contiguous(memory_format=torch.channels_last))


def _inwards(config: VQVAEConfig) -> list[nn.Module]:
    if config.resample == "patches":
        return [
            nn.PixelUnshuffle(config.patch_px),
            nn.Conv2d(3 * config.patch_px**2, config.width, 3, padding=1),
        ]
    parts: list[nn.Module] = []
    for channels, filters in pairwise([3, *config.widths]):
        parts += [nn.Conv2d(channels, filters, 4, stride=2, padding=1), nn.ReLU()]
    return [*parts, nn.Conv2d(config.width, config.width, 3, padding=1)]


def _outwards(config: VQVAEConfig) -> list[nn.Module]:
    if config.resample == "patches":
        return [
            nn.Conv2d(config.width, 3 * config.patch_px**2, 3, padding=1),
            nn.PixelShuffle(config.patch_px),
        ]
    parts: list[nn.Module] = []
    widths = [*config.widths[::-1], 3]
    for channels, filters in pairwise(widths):
        parts += [nn.ConvTranspose2d(channels, filters, 4, stride=2, padding=1), nn.ReLU()]
    return parts[:-1]


def from_published(state: Mapping[str, Tensor]) -> tuple[VQVAEConfig, dict[str, Tensor]]:
    """Read the weights of swasun/VQ-VAE-Images: the sizes they have, and our names for them.

    The running sums of the codebook's training are dropped.

    Raises:
        ValueError: if a weight is missing, unknown or of another shape; the message names it.
    """
    try:
        vocab_size, code_width = state["_vq_vae._embedding.weight"].shape
        narrow = state["_encoder._residual_stack._layers.0._block.1.weight"]
    except KeyError as missing:
        raise ValueError(f"not a VQ-VAE's weights: {missing} is missing") from missing
    blocks = {
        side: sum(
            name.startswith(f"_{side}._residual_stack.") and "_block.1." in name for name in state
        )
        for side in ("encoder", "decoder")
    }
    halvings = sum(name.startswith("_decoder._conv_trans_") for name in state) // 2
    config = VQVAEConfig(
        vocab_size=vocab_size,
        code_width=code_width,
        width=narrow.shape[1],
        residual_width=narrow.shape[0],
        encoder_blocks=blocks["encoder"],
        decoder_blocks=blocks["decoder"],
        halvings=halvings,
        resample="convolutions",
        rectified_skip=True,
    )
    names = _published_names(config)
    dropped = {"_vq_vae._ema_w", "_vq_vae._ema_cluster_size"}
    missing = sorted(set(names) - set(state))
    unknown = sorted(set(state) - set(names) - dropped)
    if missing or unknown:
        raise ValueError(
            f"not a VQ-VAE's weights: missing {missing[:3] or 'none'}, unknown {unknown[:3]}"
        )
    return config, {ours: state[published] for published, ours in names.items()}


def _published_names(config: VQVAEConfig) -> dict[str, str]:
    """Published name of each weight to ours."""
    layers: list[tuple[str, str]] = [("_vq_vae._embedding", "codebook")]
    # In the encoder each convolution is followed by a ReLU, as are the transposed ones.
    for level in range(config.halvings):
        layers.append((f"_encoder._conv_{level + 1}", f"encoder.{2 * level}"))
    stem = 2 * config.halvings
    layers.append((f"_encoder._conv_{config.halvings + 1}", f"encoder.{stem}"))
    layers.append(("_pre_vq_conv", f"encoder.{stem + config.encoder_blocks + 2}"))
    layers.append(("_decoder._conv_1", "decoder.0"))
    for level in range(config.halvings):
        place = config.decoder_blocks + 2 + 2 * level
        layers.append((f"_decoder._conv_trans_{level + 1}", f"decoder.{place}"))
    names = {
        f"{published}.{kind}": f"{ours}.{kind}"
        for published, ours in layers
        for kind in ("weight", "bias")
    }
    del names["_vq_vae._embedding.bias"]
    for side, first, count in (
        ("encoder", stem + 1, config.encoder_blocks),
        ("decoder", 1, config.decoder_blocks),
    ):
        for number in range(count):
            published = f"_{side}._residual_stack._layers.{number}._block"
            names[f"{published}.1.weight"] = f"{side}.{first + number}.narrow.weight"
            names[f"{published}.3.weight"] = f"{side}.{first + number}.widen.weight"
    return names
