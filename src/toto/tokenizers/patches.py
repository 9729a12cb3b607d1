"""Continuous patches: the pixels of each place as numbers, without a code.

Not among `TOKENIZERS`, since a patch has no id. What the paper calls patch embeddings is a linear
map of these numbers, which is the model's; here is what goes in and, for regression, what should
come out.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from toto.tokenizers.base import check_frames

BYTE = 255.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchNormalisation:
    """How the values of a patch are scaled, as input and as target.

    The paper regresses "normalized-patch targets" and says no more. The rest is MAE's practice:
    channels scaled by ImageNet's statistics going in, each patch by its own coming out.

    Source: docs/paper.md, T3e and K17; MAE (He et al., 2022), its normalised-pixel loss.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of red, green and blue in [0, 1], taken from the input."""
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """What the channels are then divided by."""
    target: Literal["patch", "input"] = "patch"
    """`patch`: each target patch has its own mean 0 and variance 1 over all its values, so that
    texture counts and not brightness. `input`: targets are scaled as the input is."""
    eps: float = 1e-6
    """Added to a target patch's variance, which is 0 where all is of one colour."""

    def __post_init__(self) -> None:
        if not min(self.deviation) > 0:
            raise ValueError(f"deviation {self.deviation} must be above 0 in every channel")
        if not self.eps > 0:
            raise ValueError(f"eps {self.eps} must be above 0")


def patch_side_px(values: int) -> int:
    """Side of the square patch that has so many values, three a pixel.

    Raises:
        ValueError: if no square has.
    """
    side_px = math.isqrt(values // 3)
    if values < 3 or 3 * side_px**2 != values:
        raise ValueError(
            f"a patch of {values} values is no square of 3 a pixel; "
            f"the nearest is {3 * max(side_px, 1) ** 2}, {max(side_px, 1)} px a side"
        )
    return side_px


def cut(frames: UInt8[Tensor, "*B T H W 3"], patch_px: int) -> UInt8[Tensor, "*B T Y X P"]:
    """Cut frames into squares; a patch's values go row by row, red, green and blue together.

    Raises:
        ValueError: if the frames are not bytes of three channels, or the patches do not cover
            them.
    """
    check_frames(frames.flatten(end_dim=-4) if frames.ndim > 4 else frames, patch_px)
    parts = frames.unflatten(-3, (-1, patch_px)).unflatten(-2, (-1, patch_px))
    return parts.transpose(-4, -3).flatten(-3)


def patchify(
    frames: UInt8[Tensor, "*B T H W 3"], patch_px: int, normalisation: PatchNormalisation
) -> Float32[Tensor, "*B T Y X P"]:
    """Turn frames into the values that a model reads, P = 3 patch_px^2 at each place.

    Raises:
        ValueError: if the patches do not cover the frames.
    """
    mean, deviation = _scale(normalisation, frames.device)
    values = cut(frames, patch_px).float().unflatten(-1, (-1, 3))
    return ((values / BYTE - mean) / deviation).flatten(-2)


def unpatchify(
    patches: Float[Tensor, "*B T Y X P"], normalisation: PatchNormalisation
) -> UInt8[Tensor, "*B T H W 3"]:
    """Draw the frames that normalised patches stand for; what leaves the bytes is clamped.

    Raises:
        ValueError: if P values are no square patch.
    """
    side_px = patch_side_px(patches.shape[-1])
    mean, deviation = _scale(normalisation, patches.device)
    values = patches.float().unflatten(-1, (side_px, side_px, 3)) * deviation + mean
    frames = values.transpose(-4, -3).flatten(-5, -4).flatten(-3, -2)
    return (frames * BYTE).clamp(0, BYTE).round().byte()


def targets(
    patches: Float32[Tensor, "*places P"], normalisation: PatchNormalisation
) -> Float32[Tensor, "*places P"]:
    """Turn patches, scaled as the input, into what regression is asked for."""
    if normalisation.target == "input":
        return patches
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + normalisation.eps).sqrt()


def _scale(normalisation: PatchNormalisation, place: torch.device) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor(normalisation.mean, device=place),
        torch.tensor(normalisation.deviation, device=place),
    )
