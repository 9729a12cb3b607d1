"""Scores of forecasts: from pixels to a number a frame, and from those to what is reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int32, UInt8
from torch import Tensor

from toto.config import to_dict
from toto.jobs.generated_tokens import GeneratedTokens
from toto.jobs.held_out_clips import HeldOutClip
from toto.metrics.image import ssim
from toto.metrics.perceptual import PerceptualDistance
from toto.metrics.video import psnr_db
from toto.runtime.durable import sha256_file
from toto.tasks.forecasting import COPY, FORECAST, LIMIT, MEASURES, curve, curves, verdict
from toto.tokenizers import Tokenizer
from toto.tokenizers.pickles import read_state

Compute: TypeAlias = Callable[
    [UInt8[Tensor, "T H W 3"], UInt8[Tensor, "T H W 3"]], Float[Tensor, " T"]
]
Values: TypeAlias = dict[str, dict[str, list[list[list[float]]]]]
"""By measure and method: of each clip, future and frame ahead. The forecast's have all futures, the
others one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredClip:
    """Which clip was continued.

    Attributes:
        source: path of the video, and where in it.
        video: that it is from.
        group: real clips, or made ones.
        pixels_sha256: of all its frames.
    """

    source: str
    video: str
    group: str
    pixels_sha256: str

    @classmethod
    def of(cls, clip: HeldOutClip) -> "ScoredClip":
        """Describe a clip."""
        return cls(
            source=clip.source, video=clip.video, group=clip.group, pixels_sha256=clip.sha256()
        )


def computed_measures(perceptual: Sequence[Path]) -> dict[str, Compute]:
    """Say how each measure is computed: PSNR, SSIM and, with weights, LPIPS.

    Args:
        perceptual: files with the weights of LPIPS; read as data, nothing in them is run.

    Raises:
        ValueError: if a file holds something else, or a weight is missing.
    """
    found: dict[str, Compute] = {"psnr_db": psnr_db, "ssim": ssim}
    if perceptual:
        state = {name: value for file in perceptual for name, value in read_state(file).items()}
        distance = PerceptualDistance(state)
        found[f"lpips_{distance.network}"] = distance
    return found


def described_measures(
    measures: Mapping[str, Compute], perceptual: Sequence[Path]
) -> dict[str, dict[str, Any]]:
    """Say what each measure is, and which weights it rests on."""
    weights = {file.name: sha256_file(file) for file in perceptual}
    return {
        name: {
            "label": MEASURES[name].label,
            "unit": MEASURES[name].unit,
            "higher_is_closer": MEASURES[name].higher_is_closer,
            "decimals": MEASURES[name].decimals,
            "weights_sha256": weights if isinstance(compute, PerceptualDistance) else {},
        }
        for name, compute in measures.items()
    }


def forecast_frames(
    tokenizer: Tokenizer, futures: Int32[Tensor, "R F Y X"]
) -> UInt8[Tensor, "R F H W 3"]:
    """Paint the frames of all futures of a clip."""
    return torch.stack([tokenizer.decode(future) for future in futures])


def measured(
    frames: UInt8[Tensor, "T H W 3"],
    reconstruction: UInt8[Tensor, "T H W 3"],
    forecasts: UInt8[Tensor, "R F H W 3"],
    measures: Mapping[str, Compute],
) -> dict[str, dict[str, list[list[float]]]]:
    """Compare every forecast frame with the real one, and do the same for copy and limit."""
    prompt = len(frames) - forecasts.shape[1]
    came, last = frames[prompt:], frames[prompt - 1 : prompt]
    shown = {
        FORECAST: forecasts,
        COPY: last.expand_as(came)[None],
        LIMIT: reconstruction[prompt:][None],
    }
    return {
        name: {
            method: [compute(came, future).double().tolist() for future in futures]
            for method, futures in shown.items()
        }
        for name, compute in measures.items()
    }


def together(of_clips: Sequence[Mapping[str, Mapping[str, list[list[float]]]]]) -> Values:
    """Join the numbers of all clips, in their order."""
    return {
        name: {method: [clip[name][method] for clip in of_clips] for method in methods}
        for name, methods in of_clips[0].items()
    }


def summary(
    clips: Sequence[ScoredClip], values: Values, tokens: GeneratedTokens
) -> dict[str, dict[str, Any]]:
    """Sum up each group: curves and verdicts of every measure, surprise, the means of each clip.

    It is a function of what is on disk, so that it can be computed again.
    """
    return {
        group: _summary(
            [n for n, clip in enumerate(clips) if clip.group == group], clips, values, tokens
        )
        for group in dict.fromkeys(clip.group for clip in clips)
    }


def _summary(
    chosen: list[int], clips: Sequence[ScoredClip], values: Values, tokens: GeneratedTokens
) -> dict[str, Any]:
    arrays = {
        name: {m: np.array([of_clips[n] for n in chosen]) for m, of_clips in methods.items()}
        for name, methods in values.items()
    }
    ahead = tokens.forecast.shape[2]
    surprise = {
        FORECAST: tokens.forecast_surprise_nats[chosen].double().mean((-2, -1)),
        "real": tokens.real_surprise_nats[chosen, -ahead:].double().mean((-2, -1))[:, None],
    }
    return {
        "clips": len(chosen),
        "videos": len({clips[n].video for n in chosen}),
        "curves": {
            name: {m: to_dict(c) for m, c in curves(found, MEASURES[name]).items()}
            for name, found in arrays.items()
        },
        "verdicts": {
            name: to_dict(verdict(found, MEASURES[name])) for name, found in arrays.items()
        },
        "surprise_nats": {name: to_dict(curve(x.numpy())) for name, x in surprise.items()},
        "of_clips": [
            {
                "source": clips[n].source,
                "means": {
                    name: {m: float(values[place].mean()) for m, values in found.items()}
                    for name, found in arrays.items()
                },
            }
            for place, n in enumerate(chosen)
        ],
    }
