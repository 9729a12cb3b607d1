"""A tokenizer without weights: the mean grey of each patch, in equal steps.

It exists for tests and for trying the pipeline: its ids are exactly predictable by hand.
"""

import json
from dataclasses import dataclass

import torch
from jaxtyping import Int32, UInt8
from torch import Tensor

from toto.config import to_dict
from toto.tokenizers.base import check_frames, check_ids, digest_of

LUMA = (299, 587, 114)
"""Weights of red, green and blue in grey, in thousandths (ITU-R BT.601)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GreyConfig:
    """How coarse the grey is."""

    patch_px: int = 8
    levels: int = 16
    """Steps from black to white: the vocabulary."""

    def __post_init__(self) -> None:
        if self.patch_px < 1:
            raise ValueError(f"patch_px {self.patch_px} must be at least 1")
        if not 2 <= self.levels <= 256:
            raise ValueError(f"levels {self.levels} must lie in 2..256")

    def build(self) -> "Grey":
        """Make the tokenizer."""
        return Grey(self)


class Grey:
    """Mean grey of each patch; a frame of one colour survives to half a step."""

    name = "grey"

    def __init__(self, config: GreyConfig | None = None) -> None:
        self.config = config or GreyConfig()
        self.vocab_size = self.config.levels
        self.patch_px = self.config.patch_px

    def encode(self, frames: UInt8[Tensor, "T H W 3"]) -> Int32[Tensor, "T Y X"]:
        """Average each patch's grey and round it down to a level."""
        check_frames(frames, self.patch_px)
        # In whole numbers: a grey that begins a level must not fall below it by a rounding error.
        grey_THW = (frames.long() * torch.tensor(LUMA, device=frames.device)).sum(-1)
        side = self.patch_px
        sum_TYX = grey_THW.unflatten(2, (-1, side)).unflatten(1, (-1, side)).sum((2, 4))
        return (sum_TYX * self.vocab_size // (256 * sum(LUMA) * side**2)).int()

    def decode(self, ids: Int32[Tensor, "T Y X"]) -> UInt8[Tensor, "T H W 3"]:
        """Fill each patch with the middle of its level."""
        check_ids(ids, self.vocab_size)
        # Halves go down, or at 256 levels a code would be drawn as the next.
        grey_TYX = ((ids.float() + 0.5) * 256 / self.vocab_size - 0.5).ceil().byte()
        grey_THW = grey_TYX.repeat_interleave(self.patch_px, 1).repeat_interleave(self.patch_px, 2)
        return grey_THW[..., None].expand(-1, -1, -1, 3).contiguous()

    def digest(self) -> str:
        """sha256 of the configuration, which is all there is."""
        return digest_of(f"grey {json.dumps(to_dict(self.config), sort_keys=True)}", {})
