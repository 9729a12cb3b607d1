"""What is measured of a tokenizer on given frames; `tokenizer stats` and `bench` choose from it."""

import io
import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32, UInt8
from PIL import Image
from torch import Tensor, nn

from toto.jobs.measured_frames import MeasuredFrames
from toto.jobs.progress import Bar
from toto.metrics.image import frechet_dct, ssim
from toto.metrics.ngrams import count_ngrams
from toto.metrics.tokens import equal_share, flip_rate
from toto.metrics.video import psnr_db
from toto.runtime.devices import device
from toto.tokenizers import Tokenizer

BATCH = 16
"""Frames encoded at once, but for the measure of what the batch size changes."""
NOISE_SIGMAS = (0.0, 1.0, 2.0)
"""Standard deviations of the noise on a still clip, in grey levels of 255."""
STILL_IMAGES, STILL_FRAMES = 16, 8
"""How many still clips, of how many frames."""
JPEG_QUALITIES = (95, 75, 50)
STABILITY_FRAMES = 64
NOISE_SEED = 0


class Counted:
    """A tokenizer on this run's device; every frame it encodes or draws moves the bar on."""

    def __init__(self, tokenizer: Tokenizer, progress: Bar) -> None:
        self.tokenizer = tokenizer.to(device()) if isinstance(tokenizer, nn.Module) else tokenizer
        self._progress = progress

    def encode(
        self, frames: UInt8[Tensor, "T H W 3"], *, batch: int = BATCH, bf16: bool = False
    ) -> Int32[Tensor, "T Y X"]:
        """Encode `batch` frames at a time, under bf16 autocast if asked."""
        parts = []
        kind = torch.autocast(device().type, torch.bfloat16) if bf16 else nullcontext()
        for part in frames.split(batch):
            with kind:
                parts.append(self.tokenizer.encode(part))
            self._progress.advance(len(part))
        return torch.cat(parts)

    def decode(self, ids: Int32[Tensor, "T Y X"]) -> UInt8[Tensor, "T H W 3"]:
        """Draw frames, a batch at a time."""
        parts = []
        for part in ids.split(BATCH):
            parts.append(self.tokenizer.decode(part))
            self._progress.advance(len(part))
        return torch.cat(parts)


def require_fit(tokenizer: Tokenizer, side_px: int) -> None:
    """Refuse frames that do not divide into patches, or are too small to be shifted within.

    Raises:
        ValueError: if so.
    """
    if side_px % tokenizer.patch_px or side_px < 2 * tokenizer.patch_px:
        raise ValueError(
            f"frames of {side_px} px do not divide into at least 2 x 2 patches of "
            f"{tokenizer.patch_px} px, the tokenizer's; choose another --side-px"
        )


def describe(tokenizer: Tokenizer) -> dict[str, Any]:
    """Which tokenizer it is and what a token costs; bits are those of equally likely codes."""
    weights = list(tokenizer.parameters()) if isinstance(tokenizer, nn.Module) else []
    return {
        "name": tokenizer.name,
        "digest": tokenizer.digest(),
        "vocab_size": tokenizer.vocab_size,
        "patch_px": tokenizer.patch_px,
        "bits_per_pixel": math.log2(tokenizer.vocab_size) / tokenizer.patch_px**2,
        "parameters": sum(weight.numel() for weight in weights),
    }


def ngram_counts(ids: Int32[Tensor, "T Y X"], vocab_size: int) -> list[dict[str, Any]]:
    """Counts of 1-, 2- and 3-grams in raster order within frames, see `Ngrams.summary`."""
    grids = ids.cpu().numpy()
    return [count_ngrams(grids, n=n, vocab_size=vocab_size).summary() for n in (1, 2, 3)]


def draws(tokenizer: Tokenizer) -> bool:
    """Whether it can draw frames; an encoder that was published alone cannot."""
    return getattr(tokenizer, "decoder", tokenizer) is not None


def halves_distance(frames: MeasuredFrames) -> float:
    """`frechet_dct` between every other original and the rest: less than that says nothing."""
    return frechet_dct(frames.frames[0::2], frames.frames[1::2])


def reconstruction(frames: MeasuredFrames, drawn: UInt8[Tensor, "N S S 3"]) -> dict[str, Any]:
    """How close reconstructions are to their originals.

    PSNR (dB) and SSIM are means over frames. The reference set of `frechet_dct` is the originals
    themselves, named by their sha256.
    """
    return {
        "psnr_db": float(psnr_db(frames.frames, drawn).mean()),
        "ssim": float(ssim(frames.frames, drawn).mean()),
        "frechet_dct": frechet_dct(frames.frames, drawn),
        "frechet_dct_reference": {
            "name": frames.name,
            "frames": len(frames.frames),
            "sha256": frames.sha256,
        },
    }


def still_flips(counted: Counted, frames: MeasuredFrames, sigma: float) -> float:
    """Share of tokens that change from frame to frame though nothing in the scene does.

    Each clip is one image shown `STILL_FRAMES` times, every time with other noise: Gaussian, on
    every subpixel for itself, rounded to bytes and clipped.
    """
    generator = torch.Generator().manual_seed(NOISE_SEED)
    rates = []
    for image in frames.frames[frames.some(STILL_IMAGES)]:
        noise = sigma * torch.randn(STILL_FRAMES, *image.shape, generator=generator)
        clip = (image + noise).round().clamp(0, 255).byte()
        rates.append(flip_rate(counted.encode(clip)))
    return float(np.mean(rates))


def clip_flips(ids: Int32[Tensor, "N Y X"], lengths: tuple[int, ...]) -> float | None:
    """Share of tokens that change between successive kept frames of real clips, over all pairs.

    Returns:
        None if no clip has two frames.
    """
    clips = [clip for clip in ids.split(lengths) if len(clip) > 1]
    pairs = [len(clip) - 1 for clip in clips]
    return float(np.average([flip_rate(clip) for clip in clips], weights=pairs)) if clips else None


def stability(
    counted: Counted, frames: UInt8[Tensor, "N S S 3"], ids: Int32[Tensor, "N Y X"]
) -> dict[str, float | None]:
    """Share of tokens that stay the same under changes that a viewer hardly sees, if at all.

    `jpeg Q`: written as JPEG of that quality (colour at half resolution) and read again.
    `shift 1 px`: a window of the frame, one patch narrower, against the same moved by a pixel.
    `bf16 autocast`: encoded under autocast instead of in fp32; None for tokenizers without weights.
    `batch of 1`: encoded one by one instead of `BATCH` at a time.

    Args:
        counted: encodes.
        frames: what is changed.
        ids: its tokens, encoded in batches of `BATCH`.
    """
    kept: dict[str, float | None] = {}
    for quality in JPEG_QUALITIES:
        again = torch.stack([_through_jpeg(frame, quality) for frame in frames])
        kept[f"jpeg {quality}"] = equal_share(counted.encode(again), ids)
    width = frames.shape[2] - counted.tokenizer.patch_px
    here, moved = (counted.encode(frames[:, :, left : left + width]) for left in (0, 1))
    kept["shift 1 px"] = equal_share(here, moved)
    kept["bf16 autocast"] = (
        equal_share(counted.encode(frames, bf16=True), ids)
        if isinstance(counted.tokenizer, nn.Module)
        else None
    )
    kept["batch of 1"] = equal_share(counted.encode(frames, batch=1), ids)
    return kept


def stability_cost(tokenizer: Tokenizer, frames: int) -> int:
    """How many frames `stability` encodes."""
    return frames * (len(JPEG_QUALITIES) + 3 + isinstance(tokenizer, nn.Module))


def _through_jpeg(frame: UInt8[Tensor, "H W 3"], quality: int) -> UInt8[Tensor, "H W 3"]:
    data = io.BytesIO()
    # Named, because Pillow's default follows the quality from some version on.
    Image.fromarray(frame.numpy()).save(data, format="JPEG", quality=quality, subsampling="4:2:0")
    return torch.from_numpy(np.array(Image.open(data)))
