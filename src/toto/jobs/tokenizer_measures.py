"""What a tokenizer keeps of frames that its training has not seen."""

from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from toto.metrics.tokens import code_counts, perplexity, used_codes
from toto.metrics.video import psnr_db
from toto.tokenizers import Tokenizer


def measure_tokenizer(tokenizer: Tokenizer, frames: UInt8[Tensor, "N H W 3"]) -> dict[str, Any]:
    """Reconstruction and use of codes.

    PSNR is the mean over frames, in dB; `psnr_db_mean_colour` is what painting each patch in its
    mean colour would reach, with 24 bits a patch.
    """
    ids = tokenizer.encode(frames)
    counts = code_counts(ids, tokenizer.vocab_size)
    painted = mean_colour(frames, tokenizer.patch_px)
    weights = tokenizer.parameters() if isinstance(tokenizer, torch.nn.Module) else ()
    return {
        "name": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "patch_px": tokenizer.patch_px,
        "psnr_db": float(psnr_db(frames, tokenizer.decode(ids)).mean()),
        "psnr_db_mean_colour": float(psnr_db(frames, painted).mean()),
        "perplexity": perplexity(counts),
        "used_codes": used_codes(counts),
        "frames": len(frames),
        "parameters": sum(weight.numel() for weight in weights),
    }


def mean_colour(frames: UInt8[Tensor, "T H W 3"], patch_px: int) -> UInt8[Tensor, "T H W 3"]:
    """Paint every patch in its mean colour."""
    pixels = frames.permute(0, 3, 1, 2).float()
    small = torch.nn.functional.avg_pool2d(pixels, patch_px)
    large = torch.nn.functional.interpolate(small, scale_factor=patch_px)
    return large.round().byte().permute(0, 2, 3, 1)


def side_by_side(
    tokenizer: Tokenizer, frames: UInt8[Tensor, "N H W 3"], count: int = 12
) -> UInt8[np.ndarray, "H W 3"]:
    """Real frames on top, their reconstructions below, enlarged to be seen."""
    chosen = frames[torch.linspace(0, len(frames) - 1, count).long()]
    rows = [
        np.concatenate(list(part.numpy()), axis=1)
        for part in (chosen, tokenizer.decode(tokenizer.encode(chosen)))
    ]
    return np.concatenate(rows).repeat(2, axis=0).repeat(2, axis=1)
