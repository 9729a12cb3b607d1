"""The VQGAN of taming transformers: a residual network with attention around a nearest code.

The defaults are the published f16 size with 1024 codes (16 x 16 pixels a token); 16384 codes are
the same network. Modules bear the published names, so that published weights fit as they are
(`toto.tokenizers.vqgan_weights`). The network alone is here; what trains it beside the pixels,
the discriminator, is in `toto.train.adversarial`.

Source: docs/paper.md, section 2.2 (CompVis/taming-transformers: configs, encoder, decoder).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor, nn

from toto.tokenizers.quantised import Quantised

GROUPS = 32
"""Groups of every normalisation; all widths are multiples of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VQGANConfig:
    """Size of the VQGAN; a level is what lies between two halvings, level 0 the finest."""

    vocab_size: int = 1024
    channels: int = 128
    """Width of the first convolution."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Width of each level, in `channels`; a token stands for 2^(levels - 1) pixels a side."""
    blocks_per_level: int = 2
    """Residual blocks of each encoder level; the decoder has one more."""
    attention_levels: tuple[int, ...] = (4,)
    """Levels whose blocks are each followed by attention: published as resolutions of a picture
    of 256 px, 16 being level 4. The middle always has attention."""
    z_channels: int = 256
    """Width that the encoder ends in and the decoder begins with."""
    code_width: int = 256
    unit_codes: bool = False
    """Compare and draw vectors and codes scaled to length 1, as LlamaGen's tokenizers do."""

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size {self.vocab_size} must be at least 2")
        for name in ("blocks_per_level", "z_channels", "code_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.channels < 1 or self.channels % GROUPS:
            raise ValueError(
                f"channels {self.channels} is not a multiple of the {GROUPS} normalisation groups"
            )
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers {self.multipliers} must be one or more, each at least 1")
        if not set(self.attention_levels) <= set(range(len(self.multipliers))):
            raise ValueError(
                f"attention_levels {self.attention_levels} must be among the levels "
                f"0..{len(self.multipliers) - 1}"
            )

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.channels * factor for factor in self.multipliers]

    def build(self) -> "VQGAN":
        """Make the tokenizer these sizes describe, with fresh weights."""
        return VQGAN(self)


def normalisation(channels: int) -> nn.GroupNorm:
    """Normalise in 32 groups, with the published epsilon."""
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


def convolution(channels: int, filters: int) -> nn.Conv2d:
    """Make a 3x3 convolution that keeps the size."""
    return nn.Conv2d(channels, filters, 3, padding=1)


class Residual(nn.Module):
    """Normalise, swish, convolve, twice; a 1x1 convolution where the width changes."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.norm1 = normalisation(channels)
        self.conv1 = convolution(channels, filters)
        self.norm2 = normalisation(filters)
        self.conv2 = convolution(filters, filters)
        self.nin_shortcut = (
            nn.Identity() if channels == filters else nn.Conv2d(channels, filters, 1)
        )

    def forward(self, x: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B C2 H W"]:
        """Add the block's answer to its (widened) input."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return self.nin_shortcut(x) + hidden


class Attention(nn.Module):
    """Every place looks at all places of its picture, with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = normalisation(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B C H W"]:
        """Add what each place read to it."""
        h = self.norm(x)
        q_BLC, k_BLC, v_BLC = (
            layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        read_BLC = F.scaled_dot_product_attention(q_BLC, k_BLC, v_BLC)
        return x + self.proj_out(read_BLC.transpose(1, 2).unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Halve the size by a convolution; the border of zeros is at the right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B C H2 W2"]:
        """Halve the size."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the size by repeating, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = convolution(channels, channels)

    def forward(self, x: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B C H2 W2"]:
        """Double the size."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where the level has it."""

    def __init__(
        self, channels: int, filters: int, blocks: int, *, attention: bool, resize: str | None
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            Residual(filters if number else channels, filters) for number in range(blocks)
        )
        self.attn = nn.ModuleList(
            Attention(filters) if attention else nn.Identity() for _ in range(blocks)
        )
        self.downsample = Downsample(filters) if resize == "down" else nn.Identity()
        self.upsample = Upsample(filters) if resize == "up" else nn.Identity()

    def forward(self, x: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B C2 H2 W2"]:
        """Run the blocks, then change the size if that is how the level ends."""
        for block, attend in zip(self.block, self.attn, strict=True):
            x = attend(block(x))
        return self.upsample(self.downsample(x))


class Middle(nn.Module):
    """Two residual blocks with attention between them, at the coarsest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = Residual(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = Residual(channels, channels)

    def forward(self, x: Float32[Tensor, "B C Y X"]) -> Float32[Tensor, "B C Y X"]:
        """Block, attention, block."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Pixels to one vector a token, the levels from fine to coarse."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = config.widths
        coarsest = len(widths) - 1
        self.conv_in = convolution(3, config.channels)
        self.down = nn.ModuleList(
            Level(
                widths[level - 1] if level else config.channels,
                widths[level],
                config.blocks_per_level,
                attention=level in config.attention_levels,
                resize="down" if level < coarsest else None,
            )
            for level in range(len(widths))
        )
        self.mid = Middle(widths[-1])
        self.norm_out = normalisation(widths[-1])
        self.conv_out = convolution(widths[-1], config.z_channels)

    def forward(self, pixels: Float32[Tensor, "B 3 H W"]) -> Float32[Tensor, "B C Y X"]:
        """Turn pixels into vectors."""
        x = self.conv_in(pixels)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Vectors to pixels, the levels from coarse to fine; `up` counts them as the encoder does."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = config.widths
        coarsest = len(widths) - 1
        self.conv_in = convolution(config.z_channels, widths[-1])
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(
            Level(
                widths[min(level + 1, coarsest)],
                widths[level],
                config.blocks_per_level + 1,
                attention=level in config.attention_levels,
                resize="up" if level else None,
            )
            for level in range(len(widths))
        )
        self.norm_out = normalisation(widths[0])
        self.conv_out = convolution(widths[0], 3)

    def forward(self, vectors: Float32[Tensor, "B C Y X"]) -> Float32[Tensor, "B 3 H W"]:
        """Turn vectors into pixels."""
        x = self.mid(self.conv_in(vectors))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Codebook(nn.Module):
    """The codes; a module of its own only to bear the published name."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.uniform_(self.embedding.weight, -1 / vocab_size, 1 / vocab_size)


class VQGAN(Quantised):
    """Encoder, codebook and decoder; the nearest code by Euclidean distance is the token."""

    name = "vqgan"

    def __init__(self, config: VQGANConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VQGANConfig()
        self.vocab_size = config.vocab_size
        self.patch_px = 2 ** (len(config.multipliers) - 1)
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.code_width, 1)
        self.quantize = Codebook(config.vocab_size, config.code_width)
        self.post_quant_conv = nn.Conv2d(config.code_width, config.z_channels, 1)
        self.decoder = Decoder(config)
        # The same vectors, 1.1 to 1.3 times faster on one thread of a CPU at the published size.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def codes(self) -> Float32[Tensor, "V C"]:
        """The codebook, scaled to length 1 if the codes are."""
        weight_VC = self.quantize.embedding.weight
        return F.normalize(weight_VC, dim=1) if self.config.unit_codes else weight_VC

    @property
    def last_weight(self) -> Float32[Tensor, "3 C 3 3"]:
        """Weight of the decoder's last layer, where the adversarial term is balanced."""
        return self.decoder.conv_out.weight

    def hidden(self, pixels: Float32[Tensor, "B 3 H W"]) -> Float32[Tensor, "B C Y X"]:
        """Turn pixels in [-1, 1] into the vectors that are compared with the codes."""
        vectors = self.quant_conv(self.encoder(pixels))
        return F.normalize(vectors, dim=1) if self.config.unit_codes else vectors

    def draw(self, vectors: Float32[Tensor, "B C Y X"]) -> Float32[Tensor, "B 3 H W"]:
        """Turn codes, or vectors on their way to one, into pixels, about in [-1, 1]."""
        return self.decoder(self.post_quant_conv(vectors))
