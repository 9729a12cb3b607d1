"""How close frames are to frames."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def psnr_db(
    frames: UInt8[Tensor, "T H W 3"], other: UInt8[Tensor, "T H W 3"]
) -> Float[Tensor, " T"]:
    """Peak signal-to-noise ratio of each frame, in dB; equal frames give 108 dB.

    Raises:
        ValueError: if the shapes differ.
    """
    if frames.shape != other.shape:
        raise ValueError(f"frames {tuple(frames.shape)} against {tuple(other.shape)}")
    error = (frames.float() - other.float()).square().mean((1, 2, 3)).clamp_min(1e-6)
    return 10 * torch.log10(255**2 / error)
