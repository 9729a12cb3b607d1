"""`toto generate`: continue held-out clips, and set the forecasts beside what really came."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from toto.config import to_dict
from toto.jobs.generated_scores import (
    Compute,
    ScoredClip,
    Values,
    computed_measures,
    described_measures,
    forecast_frames,
    measured,
    summary,
    together,
)
from toto.jobs.generated_tokens import GeneratedTokens, generate_tokens, save_tensors
from toto.jobs.held_out_clips import REAL, HeldOutClip, held_out_clips
from toto.jobs.progress import bar
from toto.jobs.set_distance import Extractor, SetDistanceConfig, set_distances, stacked
from toto.models.decoding import Weights
from toto.models.sampling import SamplingConfig
from toto.probe.backbone import Backbone, open_backbone
from toto.probe.forecast import WindowConfig, window_frames
from toto.runtime import durable
from toto.runtime.devices import device
from toto.runtime.folder import RunFolder
from toto.tasks.forecast_pictures import film, heat_overlay, shown_frames, strip
from toto.tasks.forecasting import COPY, FORECAST, LIMIT
from toto.video.collection import Collection
from toto.video.write import write_mp4, write_png

TOKENS, FEATURES, MEASURES = "forecasts.safetensors", "features.safetensors", "measures"
"""Files of what was generated, of features for set distances, and the result of every frame."""
_MEASURED = f"results/{MEASURES}.json"
FUTURES_SHOWN = 3
COLUMNS, FRAME_PX = 9, 128
"""Frames of a strip, and the side that small ones are enlarged to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate:
    """Continue held-out real clips and held-out moving digits."""

    run_folder: Path
    """Folder of the pre-training run."""
    data: Path
    """Folder that `toto ingest` wrote."""
    prompt_frames: int = 8
    frames: int = 8
    """How many to add; beyond the context too."""
    futures: int = 3
    """Ways in which each clip is continued."""
    real_clips: int = 2
    digit_clips: int = 4
    pictures: int = 3
    """For how many clips a strip and a video are written, real ones first."""
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(temperature=0.7, top_k=50)
    )
    window: WindowConfig = field(default_factory=WindowConfig)
    weights: Weights = "fp32"
    """What the model's matrices are rounded to while it forecasts."""
    perceptual: tuple[Path, ...] = ()
    """Weights of LPIPS, which is measured if they are given: torchvision's file of AlexNet or
    VGG-16 and the small one of the `lpips` package, or both in one as safetensors."""
    distance: SetDistanceConfig = field(default_factory=SetDistanceConfig)

    def __post_init__(self) -> None:
        if self.prompt_frames < 1 or self.frames < 1:
            raise ValueError(
                f"prompt_frames {self.prompt_frames} and frames {self.frames} must be at least 1"
            )
        if self.futures < 1:
            raise ValueError(f"futures {self.futures} must be at least 1")

    def run(self, out: Path) -> dict[str, Any]:
        """Forecast, measure, draw; every number in the result follows from files beside it.

        Raises:
            ValueError: if the run, the data or weights cannot be opened, no clip is long enough, or
                there are too few for the set distance.
        """
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("generate"):
                return folder.result("generate")
            measures = computed_measures(self.perceptual)
            backbone = open_backbone(self.run_folder)
            backbone.model.to(device())
            clips = self.clips()
            real = sum(clip.group == REAL for clip in clips)
            self.distance.require(clips=real, frames=self.frames)
            extractor = None
            if self.distance.components:
                extractor = Extractor(self.distance, backbone, self.run_folder.resolve().name)
            tokens, tokens_per_s = self._forecast(backbone, clips)
            values, features = self._measure(out, backbone, clips, tokens, measures, extractor)
            scored = [ScoredClip.of(clip) for clip in clips]
            folder.write_result(MEASURES, {"clips": to_dict(scored), "values": values})
            files = {TOKENS: tokens.save(out / TOKENS)}
            files[_MEASURED] = durable.sha256_file(out / _MEASURED)
            if features:
                files[FEATURES] = save_tensors(out / FEATURES, features)
            room = window_frames(backbone)
            result = {
                "prompt_frames": self.prompt_frames,
                "frames": self.frames,
                "futures": self.futures,
                "model_digest": backbone.digest(),
                "window_frames": room,
                "kept_frames": self.window.kept_of(room),
                "weights": self.weights,
                **to_dict(self.sampling),
                "uniform_nats": math.log(backbone.layout.codes),
                "tokens_per_s": tokens_per_s,
                "measures": described_measures(measures, self.perceptual),
                "groups": summary(scored, values, tokens),
                "set_distances": (
                    set_distances(features, extractor=extractor.name, config=self.distance)
                    if extractor is not None
                    else []
                ),
                "sources": [clip.source for clip in clips],
                "files": files,
            }
            folder.write_result("generate", result)
            return result

    def clips(self) -> list[HeldOutClip]:
        """Read the clips that are continued, real ones first.

        Raises:
            ValueError: if no held-out clip is long enough.
        """
        return held_out_clips(
            Collection(self.data),
            frames=self.prompt_frames + self.frames,
            real=self.real_clips,
            digits=self.digit_clips,
        )

    def _forecast(
        self, backbone: Backbone, clips: Sequence[HeldOutClip]
    ) -> tuple[GeneratedTokens, float]:
        """Continue all clips; gives the tokens, and how many were drawn a second."""
        codes = torch.stack([backbone.tokenizer.encode(clip.frames) for clip in clips])
        began = time.perf_counter()
        with bar("generate", len(clips) * self.frames) as progress:
            tokens = generate_tokens(
                backbone,
                codes,
                prompt_frames=self.prompt_frames,
                futures=self.futures,
                sampling=self.sampling,
                window=self.window,
                weights=self.weights,
                progress=progress,
            )
        return tokens, tokens.forecast.numel() / (time.perf_counter() - began)

    def _measure(
        self,
        out: Path,
        backbone: Backbone,
        clips: Sequence[HeldOutClip],
        tokens: GeneratedTokens,
        measures: Mapping[str, Compute],
        extractor: Extractor | None,
    ) -> tuple[Values, dict[str, Tensor]]:
        """Paint the forecasts clip by clip, measure them, draw the first few."""
        values, features = [], []
        with bar("measure", len(clips)) as progress:
            for number, clip in enumerate(progress.over(clips)):
                limit = backbone.tokenizer.decode(tokens.real[number])
                guessed = forecast_frames(backbone.tokenizer, tokens.forecast[number])
                values.append(measured(clip.frames, limit, guessed, measures))
                if extractor is not None and clip.group == REAL:
                    features.append(self._features(extractor, clip.frames, limit, guessed[0]))
                if number < self.pictures:
                    most_nats = math.log(backbone.layout.codes)
                    self._show(out, number, clip.frames, limit, guessed, tokens, most_nats)
        return together(values), stacked(features) if features else {}

    def _features(
        self, extractor: Extractor, frames: Tensor, limit: Tensor, guessed: Tensor
    ) -> dict[str, Tensor]:
        came, last = frames[self.prompt_frames :], frames[self.prompt_frames - 1]
        return {
            "real": extractor(came),
            FORECAST: extractor(guessed),
            COPY: extractor(last.expand_as(came)),
            LIMIT: extractor(limit[self.prompt_frames :]),
        }

    def _show(
        self,
        out: Path,
        number: int,
        frames: UInt8[Tensor, "T H W 3"],
        limit: UInt8[Tensor, "T H W 3"],
        guessed: UInt8[Tensor, "R F H W 3"],
        tokens: GeneratedTokens,
        most_nats: float,
    ) -> None:
        """Write the strip, and its rows without surprise as a video."""
        prompt = self.prompt_frames
        futures = [torch.cat([limit[:prompt], future]) for future in guessed[:FUTURES_SHOWN]]
        surprise = tokens.real_surprise_nats[number]
        drawn = torch.cat([surprise[:prompt], tokens.forecast_surprise_nats[number, 0]])
        rows = {"real": frames, "tokenizer": limit}
        rows |= {f"future {n}": future for n, future in enumerate(futures, start=1)}
        pixels = {name: row.numpy() for name, row in rows.items()}
        films = list(pixels.values())
        for name, row, nats in (
            ("surprise: real", limit, surprise),
            ("surprise: future 1", futures[0], drawn),
        ):
            pixels[name] = heat_overlay(row.numpy(), nats.numpy(), most=most_nats)
        shown = shown_frames(prompt, self.frames, COLUMNS)
        scale = max(1, FRAME_PX // frames.shape[1])
        drawing = strip(pixels, prompt=prompt, shown=shown, most_nats=most_nats, scale=scale)
        write_png(out / f"strip-{number + 1}.png", drawing)
        write_mp4(out / f"forecast-{number + 1}.mp4", film(films, prompt=prompt), fps=6)
