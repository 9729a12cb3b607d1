"""The tokens that forecasts are made of, on disk: what all of their scores follow from."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import safetensors.torch
import torch
from jaxtyping import Float32, Int32, Int64
from safetensors import SafetensorError
from torch import Tensor

from toto.jobs.progress import Bar
from toto.models.decoding import Weights
from toto.models.sampling import SamplingConfig
from toto.probe.backbone import Backbone
from toto.probe.forecast import WindowConfig, forecast, surprise_nats, window_frames
from toto.runtime import durable

ROWS = 12
"""Futures that are continued at once; bounds the memory of their caches."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GeneratedTokens:
    """Clips in tokens, and how the model went on from their first frames.

    Attributes:
        real: codes of the whole clips.
        forecast: codes of the futures of each clip, behind its prompt.
        real_surprise_nats: -ln p of the real tokens, given the real ones before them.
        forecast_surprise_nats: -ln p of the tokens that were drawn, given those before them.
    """

    real: Int32[Tensor, "N T Y X"]
    forecast: Int32[Tensor, "N R F Y X"]
    real_surprise_nats: Float32[Tensor, "N T Y X"]
    forecast_surprise_nats: Float32[Tensor, "N R F Y X"]

    def save(self, file: Path) -> str:
        """Write them whole or not at all; gives the file's sha256."""
        return save_tensors(file, {field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: if it is something else.
        """
        try:
            return cls(**safetensors.torch.load(file.read_bytes()))
        except (SafetensorError, TypeError) as error:
            raise ValueError(
                f"{file} does not hold the tokens of forecasts ({error}); run `toto generate` again"
            ) from None


def save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors by name, whole or not at all; gives the file's sha256."""
    data = safetensors.torch.save({name: x.contiguous() for name, x in tensors.items()})
    durable.write_bytes(file, data)
    return hashlib.sha256(data).hexdigest()


def generate_tokens(
    backbone: Backbone,
    real: Int32[Tensor, "N T Y X"],
    *,
    prompt_frames: int,
    futures: int,
    sampling: SamplingConfig,
    window: WindowConfig,
    weights: Weights,
    progress: Bar,
) -> GeneratedTokens:
    """Continue clips, and ask how surprising they are.

    Args:
        backbone: the model with its layout.
        real: codes of the whole clips.
        prompt_frames: how many it is shown; it forecasts the rest.
        futures: of each clip.
        sampling: how tokens are drawn.
        window: what stays of a full window.
        weights: what the model's matrices are rounded to.
        progress: moves on by the frames of clips that were forecast.

    Raises:
        ValueError: if the model cannot continue them; see `toto.probe.forecast`.
    """
    frames = real.shape[1] - prompt_frames
    codes, surprises = [], []
    for clips in real[:, :prompt_frames].long().split(max(1, ROWS // futures)):
        steps = []
        for step in forecast(
            backbone,
            clips,
            frames=frames,
            sampling=sampling,
            futures=futures,
            window=window,
            weights=weights,
        ):
            steps.append(step)
            progress.advance(len(clips))
        shape = (len(clips), futures)
        codes.append(torch.stack([s.ids for s in steps], dim=1).unflatten(0, shape))
        told = torch.stack([s.surprise_nats for s in steps], dim=1)
        surprises.append(told.unflatten(0, shape))
    kept = window.kept_of(window_frames(backbone))
    return GeneratedTokens(
        real=real,
        forecast=torch.cat(codes).int(),
        real_surprise_nats=torch.stack([_surprise(backbone, clip.long(), kept) for clip in real]),
        forecast_surprise_nats=torch.cat(surprises),
    )


def _surprise(
    backbone: Backbone, clip: Int64[Tensor, "T Y X"], kept: int
) -> Float32[Tensor, "T Y X"]:
    """Surprise at a clip of any length, by windows that overlap as those of forecasts do."""
    return torch.cat(list(_by_windows(backbone, clip, kept)))


def _by_windows(
    backbone: Backbone, clip: Int64[Tensor, "T Y X"], kept: int
) -> Iterator[Float32[Tensor, "T1 Y X"]]:
    room = window_frames(backbone)
    yield surprise_nats(backbone, clip[:room])
    for start in range(room - kept, len(clip) - kept, room - kept):
        yield surprise_nats(backbone, clip[start : start + room])[kept:]
