"""What `import toto` offers: a trained model with its tokenizer, and tokenizers alone."""

from collections.abc import Collection
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from toto.models.sampling import SamplingConfig
from toto.probe.backbone import Backbone, open_backbone
from toto.probe.stream import Stream
from toto.tokenizers import Tokenizer, load_tokenizer

__all__ = ["Toto", "load", "load_tokenizer"]


class Toto:
    """A trained model with its tokenizer: features of any layer, and what comes next.

    Attributes:
        backbone: model, tokenizer and layout.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer whose ids the model reads."""
        return self.backbone.tokenizer

    @property
    def depth(self) -> int:
        """Number of blocks; the features' layers are 0 (embedding) to depth."""
        return self.backbone.depth

    def features(
        self, video: UInt8[Tensor, "T H W 3"], layers: Collection[int]
    ) -> dict[int, Float[Tensor, "T Y X D"]]:
        """Read the features of a clip at the layers asked for, in one pass.

        Raises:
            ValueError: if the clip does not fit the context, a side is not a multiple of the
                tokenizer's patch, or a layer does not exist.
        """
        return self.backbone.features(video, layers)

    def stream(
        self, layers: Collection[int] | None = None, *, window_frames: int | None = None
    ) -> Stream:
        """Begin a film that comes frame by frame: `push` each, every one at the same cost.

        Frames within the window have the features that one pass over them gives; what happens when
        it slides is in `toto.probe.stream`.

        Args:
            layers: 0 (embedding) to depth; all if left out.
            window_frames: how many frames a token sees; by default all that the context holds.

        Raises:
            ValueError: if the model attends in both directions, a layer does not exist, or the
                context does not hold the window.
        """
        return Stream(self.backbone, layers, window_frames=window_frames)

    def generate(
        self,
        video: UInt8[Tensor, "T H W 3"],
        frames: int,
        sampling: SamplingConfig | None = None,
    ) -> UInt8[Tensor, "T2 H W 3"]:
        """Continue a video; returns the new frames alone.

        Args:
            video: the frames that came before.
            frames: how many to add.
            sampling: temperature, top-k, top-p and seed.

        Raises:
            ValueError: if old and new frames do not fit the model's context.
        """
        ids = self.tokenizer.encode(video).long()
        new = self.backbone.forecast(ids, frames=frames, sampling=sampling or SamplingConfig())
        return self.tokenizer.decode(torch.stack(list(new)).int())


def load(run: str | Path) -> Toto:
    """Open a pre-training run: its newest good checkpoint and its tokenizer.

    Raises:
        ValueError: if the folder is not such a run, or has no checkpoint yet.
    """
    return Toto(open_backbone(Path(run)))
