"""What the tokenizers with a codebook share: the nearest code of each feature vector, and back.

A subclass says how pixels become vectors (`hidden`) and vectors pixels (`draw`), and where its
codes are; VQ-VAE and VQGAN differ in nothing else once they are trained.
"""

import json
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float32, Int32, Int64, UInt8
from torch import Tensor, nn

from toto.config import to_dict
from toto.tokenizers.base import check_frames, check_ids, digest_of
from toto.tokenizers.batch import frames_at_once

NEAREST_ROWS = 256
"""Vectors compared with the codes at once: 8 MB of distances at 8,192 codes stay in a CPU's cache,
which takes 0.37 s where 4,096 rows take 0.5 to 0.6 (16,384 vectors)."""


class Quantised(nn.Module, ABC):
    """A tokenizer whose ids name the nearest code, by Euclidean distance.

    Attributes:
        name: its key in `toto.tokenizers.TOKENIZERS`.
        config: what it was built from.
        vocab_size: how many codes it has.
        patch_px: side of the square of pixels that one code stands for.
    """

    name: str
    config: Any
    vocab_size: int
    patch_px: int

    @property
    @abstractmethod
    def codes(self) -> Float32[Tensor, "V C"]:
        """The codebook."""

    @property
    @abstractmethod
    def last_weight(self) -> Tensor:
        """Weight of the decoder's last layer, where an adversarial term is balanced."""

    @abstractmethod
    def hidden(self, pixels: Float32[Tensor, "B 3 H W"]) -> Float32[Tensor, "B C Y X"]:
        """Turn pixels in [-1, 1] into the vectors that are compared with the codes."""

    @abstractmethod
    def draw(self, vectors: Float32[Tensor, "B C Y X"]) -> Float32[Tensor, "B 3 H W"]:
        """Turn codes, or vectors on their way to one, into pixels, about in [-1, 1]."""

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "T H W 3"]) -> Int32[Tensor, "T Y X"]:
        """Name the nearest code at each place."""
        check_frames(frames, self.patch_px)
        place = self.codes.device
        parts = []
        for part in frames.split(frames_at_once(*frames.shape[1:3])):
            vectors_BYXC = self.hidden(signed(part.to(place))).permute(0, 2, 3, 1)
            ids_P = nearest(vectors_BYXC.flatten(0, 2).float(), self.codes.float())
            parts.append(ids_P.view(vectors_BYXC.shape[:3]).int().to(frames.device))
        return torch.cat(parts)

    @torch.no_grad()
    def decode(self, ids: Int32[Tensor, "T Y X"]) -> UInt8[Tensor, "T H W 3"]:
        """Draw the frames that the codes stand for."""
        check_ids(ids, self.vocab_size)
        parts = []
        height, width = ids.shape[1:]
        for part in ids.split(frames_at_once(height * self.patch_px, width * self.patch_px)):
            vectors_BYXC = self.codes[part.long().to(self.codes.device)]
            parts.append(unsigned(self.draw(vectors_BYXC.permute(0, 3, 1, 2))).to(ids.device))
        return torch.cat(parts)

    def digest(self) -> str:
        """sha256 of the configuration and all weights."""
        config = json.dumps(to_dict(self.config), sort_keys=True)
        return digest_of(f"{self.name} {config}", self.state_dict())


def nearest(vectors: Float32[Tensor, "P C"], codes: Float32[Tensor, "V C"]) -> Int64[Tensor, " P"]:
    """Index of the nearest code of each vector, by Euclidean distance; the first of equals.

    |v|^2 is the same for all codes and left out, which also keeps more of fp32's digits.
    """
    lengths_V = codes.square().sum(1)
    return torch.cat(
        [
            torch.addmm(lengths_V, part, codes.T, alpha=-2).argmin(1)
            for part in vectors.split(NEAREST_ROWS)
        ]
    )


def signed(frames: UInt8[Tensor, "T H W 3"]) -> Float32[Tensor, "T 3 H W"]:
    """Bring bytes into [-1, 1], channels in front (and last in memory)."""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1


def unsigned(pixels: Float32[Tensor, "T 3 H W"]) -> UInt8[Tensor, "T H W 3"]:
    """Undo `signed`, clamped to bytes."""
    bytes_ = ((pixels.float() + 1) * 127.5).clamp(0, 255).round().byte()
    return bytes_.permute(0, 2, 3, 1).contiguous()
