"""Features as colours: the three directions in which a clip's features differ most."""

import torch
from jaxtyping import Float, UInt8
from scipy.linalg import eigh
from torch import Tensor

KEPT_SHARE = 0.98
"""Share of the places whose colour is exact; the rest, at both ends alike, is cut to the limits,
or a few odd places would leave all others grey."""


def principal_colours(features: Float[Tensor, "T Y X D"]) -> UInt8[Tensor, "T Y X 3"]:
    """Colour each place by the first three principal components of all places of the clip.

    Red is the first, green the second, blue the third; each is stretched to the whole range on
    its own. One analysis serves all frames, so that a colour means the same in each of them. A
    component's sign is free: the channel that weighs most is positive, so that the same features
    always have the same colours.

    Raises:
        ValueError: if there are fewer than 3 channels, or a feature is not finite.

    Source:
        The way of showing features of DINOv2 (arXiv 2304.07193, figure 1), without its masks.
    """
    flat_PD = features.detach().flatten(0, 2).double().cpu()
    if flat_PD.shape[1] < 3:
        raise ValueError(f"colours need features of 3 channels or more, got {flat_PD.shape[1]}")
    if not bool(flat_PD.isfinite().all()):
        raise ValueError("a feature is not finite; look at the layer they come from")
    centred_PD = flat_PD - flat_PD.mean(0)
    scatter_DD, width = (centred_PD.T @ centred_PD).numpy(), flat_PD.shape[1]
    # Three directions alone are found four times as fast as all; the largest variance comes last.
    _, vectors = eigh(scatter_DD, subset_by_index=[width - 3, width - 1])
    directions_D3 = torch.from_numpy(vectors).flip(1)
    heaviest = directions_D3.abs().argmax(0)
    directions_D3 = directions_D3 * directions_D3.gather(0, heaviest[None]).sign()
    parts_P3 = centred_PD @ directions_D3
    ends = torch.tensor([(1 - KEPT_SHARE) / 2, (1 + KEPT_SHARE) / 2], dtype=torch.float64)
    low, high = parts_P3.quantile(ends, dim=0)
    shares_P3 = (parts_P3 - low) / (high - low).clamp_min(1e-12)
    colours_P3 = (255 * shares_P3.clamp(0, 1)).round().to(torch.uint8)
    return colours_P3.unflatten(0, features.shape[:3])
