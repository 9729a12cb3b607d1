"""How close pictures are to pictures: structural similarity, and a distance between whole sets."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8
from scipy.fft import dct
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
"""Width and standard deviation of the Gaussian window of SSIM, in pixels."""
BLOCK_PX = 8
"""Side of the blocks whose cosine transform is compared."""
BATCH = 16
"""Frames computed at once; bounds memory and changes no result beyond rounding."""
# Luma, blue and red difference of ITU-R BT.601, without offsets.
_YCBCR = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]],
    dtype=torch.float64,
)


def ssim(
    frames: UInt8[Tensor, "T H W 3"], other: UInt8[Tensor, "T H W 3"]
) -> Float64[Tensor, " T"]:
    """Structural similarity of each frame's luma, mean over the places where the window fits.

    Window 11 x 11, Gaussian of sigma 1.5; K1 0.01, K2 0.03; variances divide by the window's
    weight and not by one less; luma is that of BT.601, not rounded.

    Returns:
        At most 1, for equal frames.

    Raises:
        ValueError: if the shapes differ or a side is below 11 px.

    Source:
        Wang et al., Image quality assessment: from error visibility to structural similarity, 2004.
    """
    if frames.shape != other.shape:
        raise ValueError(f"frames {tuple(frames.shape)} against {tuple(other.shape)}")
    if min(frames.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM needs sides of at least {WINDOW} px, got {tuple(frames.shape)}")
    pairs = zip(frames.split(BATCH), other.split(BATCH), strict=True)
    return torch.cat([_ssim(_luma(a), _luma(b)) for a, b in pairs])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """Mean and covariance of features, and of how many samples."""

    mean: Float64[np.ndarray, " D"]
    covariance: Float64[np.ndarray, "D D"]
    samples: int


def dct_moments(frames: UInt8[Tensor, "T H W 3"]) -> Moments:
    """Mean and covariance of the log spectra of all 8 x 8 blocks.

    A block's features are ln(1 + |c|) of its 64 orthonormal cosine coefficients c in luma and both
    colour differences, 192 in all, in grey levels. Blocks do not overlap and begin 4 px from the
    top and left, so that the seams of a tokenizer's patches run through their middle.

    Raises:
        ValueError: if a side is below 12 px.
    """
    if min(frames.shape[1:3]) < BLOCK_PX * 3 // 2:
        raise ValueError(f"a block needs sides of {BLOCK_PX * 3 // 2} px, got {frames.shape[1:3]}")
    size = 3 * BLOCK_PX**2
    basis = torch.from_numpy(dct(np.eye(BLOCK_PX), axis=0, norm="ortho"))
    count, total = 0, torch.zeros(size, dtype=torch.float64)
    products = torch.zeros(size, size, dtype=torch.float64)
    inside = slice(BLOCK_PX // 2, None)
    for part in frames[:, inside, inside].split(BATCH):
        colours_TCHW = torch.einsum("thwr,cr->tchw", part.cpu().double(), _YCBCR)
        blocks = colours_TCHW.unfold(2, BLOCK_PX, BLOCK_PX).unfold(3, BLOCK_PX, BLOCK_PX)
        spectra = (basis @ blocks @ basis.T).abs().log1p()
        features_PD = spectra.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
        count += len(features_PD)
        total += features_PD.sum(0)
        products += features_PD.T @ features_PD
    mean = total / count
    covariance = products / count - torch.outer(mean, mean)
    return Moments(mean=mean.numpy(), covariance=covariance.numpy(), samples=count)


def frechet_distance(one: Moments, other: Moments) -> float:
    """Squared Fréchet distance between the Gaussians of these moments; 0 for equal ones.

    |m - n|^2 + tr(C + D - 2 (C^1/2 D C^1/2)^1/2) with means m, n and covariances C, D.

    Raises:
        ValueError: if the features differ in number.
    """
    if one.mean.shape != other.mean.shape:
        raise ValueError(f"{len(one.mean)} features against {len(other.mean)}")
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ other.covariance @ root).clip(min=0)
    spread = np.trace(one.covariance) + np.trace(other.covariance) - 2 * np.sqrt(shared).sum()
    return max(0.0, float(np.square(one.mean - other.mean).sum() + spread))


def frechet_dct(frames: UInt8[Tensor, "T H W 3"], other: UInt8[Tensor, "N H W 3"]) -> float:
    """Fréchet distance between the block spectra of two sets of pictures.

    It needs no trained weights, and tells blur, noise, seams and false colours apart from what is
    in the reference; it knows nothing of content. It is not FID and cannot be set beside one.

    Args:
        frames: the reference set.
        other: the set that is judged, such as its reconstructions; see `dct_moments`.
    """
    return frechet_distance(dct_moments(frames), dct_moments(other))


def _luma(frames: UInt8[Tensor, "T H W 3"]) -> Float64[Tensor, "T 1 H W"]:
    return (frames.double() @ _YCBCR[0].to(frames.device))[:, None]


def _ssim(x: Float64[Tensor, "T 1 H W"], y: Float64[Tensor, "T 1 H W"]) -> Float[Tensor, " T"]:
    mean_x, mean_y = _windowed(x), _windowed(y)
    spread_x, spread_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    together = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    brightness = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * together + c2) / (spread_x + spread_y + c2)
    return (brightness * structure).mean((1, 2, 3))


def _windowed(x: Float64[Tensor, "T 1 H W"]) -> Float64[Tensor, "T 1 H2 W2"]:
    places = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-places.square() / (2 * SIGMA**2))
    weights /= weights.sum()
    return F.conv2d(F.conv2d(x, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
