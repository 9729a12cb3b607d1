"""What probes and protocols need of an encoder, whoever trained it."""

from collections.abc import Collection
from typing import Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from toto.data.token_set import TokenSet


@runtime_checkable
class Encoder(Protocol):
    """Frames or codes in, features of any layer out; the weights are not changed.

    `toto.probe.backbone.Backbone` is ours, `toto.probe.transformers_encoder` reads others.
    """

    @property
    def depth(self) -> int:
        """Number of blocks; layers are 0 (what the first block reads) to depth."""
        ...

    @property
    def width(self) -> int:
        """D, channels of a feature."""
        ...

    @property
    def reads_patches(self) -> bool:
        """Whether it reads frames, and not a tokenizer's codes."""
        ...

    def digest(self) -> str:
        """Return the sha256 of configuration and weights, whatever precision it computes in."""
        ...

    def window(
        self, shard: TokenSet, clip: int, start: int, frames: int
    ) -> Int64[Tensor, "T Y X"] | UInt8[Tensor, "T H W 3"]:
        """Cut from a shard what the encoder reads."""
        ...

    def token_features(
        self,
        clips: Int64[Tensor, "B T Y X"] | UInt8[Tensor, "B T H W 3"],
        layers: Collection[int],
    ) -> dict[int, Float[Tensor, "B L D"]]:
        """Read the features at every place of clips, cut by `window`."""
        ...

    def features(
        self, frames: UInt8[Tensor, "T H W 3"], layers: Collection[int]
    ) -> dict[int, Float[Tensor, "T Y X D"]]:
        """Read the features of one clip on their grid."""
        ...

    def untrained(self, seed: int) -> Self:
        """Make the same encoder with fresh weights: the baseline of every probe."""
        ...

    def to(self, place: torch.device) -> Self:
        """Move the weights to a device."""
        ...
