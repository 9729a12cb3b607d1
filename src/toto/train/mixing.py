"""Mixup and cutmix: two clips become one, and their labels shares.

Neighbours in a batch are mixed, the first with the second, the third with the fourth. A batch is in
random order already, and a pair never lies on two ranks, so that any number of ranks mixes alike.
What is drawn once for a step follows from (seed, step).

Sources: mixup, Zhang et al., arXiv 1710.09412; cutmix, Yun et al., arXiv 1905.04899; drawing one of
the two for a whole batch, with even chances, is how MAE was fine-tuned.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class MixingConfig:
    """How clips of a batch are mixed; not at all by default."""

    mixup: float = 0.0
    """Both parameters of the Beta distribution of a clip's share; 0 never mixes up."""
    cutmix: float = 0.0
    """The same for the share of the area that a clip keeps. If both are above 0, each is done in
    half of the steps."""

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} must be 0 (never) or more")

    @property
    def changes(self) -> bool:
        """Whether anything is mixed."""
        return bool(self.mixup or self.cutmix)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """How a step mixes.

    Attributes:
        share: what of a clip is its own, in [0, 1].
        box: top, left, bottom and right of what comes from the other clip; None mixes all pixels.
    """

    share: float
    box: tuple[int, int, int, int] | None = None


def draw_mix(config: MixingConfig, height: int, width: int, draw: np.random.Generator) -> Mix:
    """Draw how a step mixes.

    Args:
        config: with at least one kind of mixing.
        height: of a frame, in pixels; so `width`.
        width: of a frame.
        draw: of this step.
    """
    cut = bool(config.cutmix) and (not config.mixup or draw.random() < 0.5)
    alpha = config.cutmix if cut else config.mixup
    share = float(draw.beta(alpha, alpha))
    if not cut:
        return Mix(share=share)
    side = math.sqrt(1 - share)
    rows, columns = int(height * side), int(width * side)
    row, column = int(draw.integers(height)), int(draw.integers(width))
    top, bottom = max(row - rows // 2, 0), min(row + rows // 2, height)
    left, right = max(column - columns // 2, 0), min(column + columns // 2, width)
    # What the frame's edge cut off does not count.
    area = (bottom - top) * (right - left)
    return Mix(share=1 - area / (height * width), box=(top, left, bottom, right))


def mix_frames(frames: UInt8[Tensor, "B T H W 3"], mix: Mix) -> UInt8[Tensor, "B T H W 3"]:
    """Mix each clip with its neighbour; B is even."""
    other = _neighbours(frames)
    if mix.box is None:
        mixed = mix.share * frames.float() + (1 - mix.share) * other.float()
        return mixed.round().byte()
    top, left, bottom, right = mix.box
    mixed = frames.clone()
    mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    return mixed


def mix_targets(targets: Float32[Tensor, "B J"], mix: Mix) -> Float32[Tensor, "B J"]:
    """Mix the classes' shares as the pixels."""
    return mix.share * targets + (1 - mix.share) * _neighbours(targets)


def soft_targets(
    labels: Int64[Tensor, " B"], classes: int, *, smoothing: float
) -> Float32[Tensor, "B J"]:
    """Give each class its share: `smoothing` is divided among all, the label has the rest."""
    return (1 - smoothing) * F.one_hot(labels, classes).float() + smoothing / classes


def _neighbours(pairs: Tensor) -> Tensor:
    return pairs.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
