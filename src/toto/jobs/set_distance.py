"""How far the forecast clips as a set are from the real ones, by features of a chosen encoder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from toto.config import to_dict
from toto.metrics.distributions import frechet_of_features
from toto.probe.backbone import Backbone
from toto.probe.transformers_encoder import TransformersEncoder, open_encoder
from toto.runtime.devices import device
from toto.tasks.forecasting import COPY, FORECAST, LIMIT


@dataclass(frozen=True, kw_only=True, slots=True)
class SetDistanceConfig:
    """A Fréchet distance between features of real and of forecast clips."""

    components: int = 0
    """Principal components of the real clips' features that are compared; 0 measures nothing. There
    must be more real clips than components."""
    encoder: Path | None = None
    """Folder of a video encoder that transformers saved; left out, the run's own model."""
    layer: int | None = None
    """Whose features are averaged; the middle one if left out."""
    stretch_frames: int = 16
    """Frames that are one sample; a forecast is measured stretch by stretch."""

    def __post_init__(self) -> None:
        if self.components < 0 or self.stretch_frames < 1:
            raise ValueError(
                f"components {self.components} must be at least 0, stretch_frames "
                f"{self.stretch_frames} at least 1"
            )

    def require(self, *, clips: int, frames: int) -> None:
        """Refuse early what cannot be measured.

        Raises:
            ValueError: if there are too few real clips, or frames for one stretch.
        """
        if self.components and clips <= self.components:
            raise ValueError(
                f"a set distance of {self.components} components needs more than "
                f"{self.components} real clips, got {clips}; give more --real-clips or fewer "
                "--distance.components"
            )
        if self.components and frames < self.stretch_frames:
            raise ValueError(
                f"{frames} forecast frames hold no stretch of {self.stretch_frames}; give more "
                "--frames or fewer --distance.stretch-frames"
            )


class Extractor:
    """One vector a stretch: the mean of a layer's features over all its places.

    Args:
        config: which encoder and layer.
        backbone: the run's own model, which serves where no other is given.
        run: name of the run.

    Attributes:
        name: with encoder, layer and frames; part of the name of every distance.
    """

    def __init__(self, config: SetDistanceConfig, backbone: Backbone, run: str) -> None:
        encoder: Backbone | TransformersEncoder = backbone
        if config.encoder is not None:
            encoder = open_encoder(config.encoder).to(device())
            run = encoder.name
        self._encoder = encoder
        self._frames = config.stretch_frames
        self._layer = encoder.depth // 2 if config.layer is None else config.layer
        self.name = (
            f"{run} {encoder.digest()[:8]}, layer {self._layer} of {encoder.depth}, mean over "
            f"{self._frames} frames"
        )

    def __call__(self, frames: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "P D"]:
        """Read P whole stretches of a clip; frames left over at the end are not read.

        Raises:
            ValueError: if the encoder cannot read such frames, or has no such layer.
        """
        whole = len(frames) // self._frames * self._frames
        parts = [self._mean(part) for part in frames[:whole].split(self._frames)]
        return torch.stack(parts).float().cpu()

    def _mean(self, frames: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, " D"]:
        layers = [self._layer]
        if isinstance(self._encoder, Backbone):
            return self._encoder.features(frames, layers)[self._layer].mean((0, 1, 2))
        return self._encoder.token_features(frames[None], layers)[self._layer].mean((0, 1))


def set_distances(
    features: Mapping[str, Float[Tensor, "N P D"]],
    *,
    extractor: str,
    config: SetDistanceConfig,
) -> list[dict[str, Any]]:
    """Measure each method's clips against the real ones, stretch by stretch.

    The counts are the same for all of them, since a smaller sample looks farther.

    Args:
        features: by method, and of the clips themselves as `real`; of N clips with P stretches
            each.
        extractor: that made them.
        config: how many components and frames.
    """
    return list(_distances(features, extractor, config))


def _distances(
    features: Mapping[str, Tensor], extractor: str, config: SetDistanceConfig
) -> Iterator[dict[str, Any]]:
    real_NPD = features["real"].double().numpy()
    # In an order of their own: a file of tensors keeps none.
    for method in (FORECAST, COPY, LIMIT):
        found_NPD = features[method].double().numpy()
        for stretch in range(real_NPD.shape[1]):
            distance = frechet_of_features(
                real_NPD[:, stretch],
                found_NPD[:, stretch],
                extractor=extractor,
                components=config.components,
            )
            first = stretch * config.stretch_frames
            yield {
                "method": method,
                "first_frame": first + 1,
                "last_frame": first + config.stretch_frames,
                "extractor": extractor,
                **to_dict(distance),
            }


def stacked(of_clips: Sequence[Mapping[str, Tensor]]) -> dict[str, Float[Tensor, "N P D"]]:
    """Join the features of all clips, by method."""
    return {name: torch.stack([clip[name] for clip in of_clips]) for name in of_clips[0]}
