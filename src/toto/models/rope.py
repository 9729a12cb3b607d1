"""Rotary positions over the flattened sequence.

One dimension, base 10,000 (50,000 after the move to 32 x 32 tokens): docs/paper.md, M rows. The
first half of a head is rotated against the second, as in the LLaMA weights that transformers reads.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor


def rotary_tables(
    positions: int, head_width: int, base: float, device: torch.device | None = None
) -> tuple[Float32[Tensor, "L K"], Float32[Tensor, "L K"]]:
    """Cosines and sines of every position's angles, in fp32.

    Args:
        positions: how many, from 0.
        head_width: K, even.
        base: wavelengths run from 2 pi to 2 pi x base tokens.
        device: where to make them.
    """
    angle = torch.arange(positions, dtype=torch.float32, device=device)[:, None] * _rates(
        head_width, base, device
    )
    both = torch.cat([angle, angle], dim=-1)
    return both.cos(), both.sin()


def far_tables(
    positions: range, head_width: int, base: float, device: torch.device | None = None
) -> tuple[Float32[Tensor, "L K"], Float32[Tensor, "L K"]]:
    """Cosines and sines of positions however far, such as those of a film that does not end.

    The angles are made in fp64. In fp32 that of position 250,000, a thousand frames of 256 tokens,
    would be off by up to 1/128, and what two tokens are to each other would change with time.

    Args:
        positions: which.
        head_width: K, even.
        base: as in `rotary_tables`.
        device: where to make them.
    """
    place = torch.arange(positions.start, positions.stop, dtype=torch.float64, device=device)
    angle = place[:, None] * _rates(head_width, base, device).double()
    both = torch.cat([angle, angle], dim=-1)
    return both.cos().float(), both.sin().float()


def _rates(head_width: int, base: float, device: torch.device | None) -> Float32[Tensor, " K_2"]:
    channels = torch.arange(0, head_width, 2, dtype=torch.float32, device=device)
    return base ** (-channels / head_width)


def rotate(
    x: Float[Tensor, "B N L K"], cos_LK: Float32[Tensor, "L K"], sin_LK: Float32[Tensor, "L K"]
) -> Float[Tensor, "B N L K"]:
    """Turn queries or keys by their position's angles; computed in fp32, returned as given."""
    first, second = x.float().chunk(2, dim=-1)
    turned = x.float() * cos_LK + torch.cat([-second, first], dim=-1) * sin_LK
    return turned.to(x.dtype)
