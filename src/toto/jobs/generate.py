"""`toto generate`: continue held-out clips, and set the forecast beside what really came."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toto.jobs.progress import Bar, bar
from toto.metrics.video import psnr_db
from toto.models.sampling import SamplingConfig
from toto.probe.backbone import Backbone, open_backbone
from toto.runtime.devices import device
from toto.runtime.folder import RunFolder
from toto.video.collection import Collection
from toto.video.decode import Decoder
from toto.video.write import write_mp4, write_png

GAP_PX = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate:
    """Continue held-out real clips and held-out moving digits."""

    run_folder: Path
    """Folder of the pre-training run."""
    data: Path
    """Folder that `toto ingest` wrote."""
    prompt_frames: int = 8
    frames: int = 8
    """How many to add."""
    real_clips: int = 2
    digit_clips: int = 4
    pictures: int = 3
    """For how many clips a strip and a video are written, real ones first."""
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(temperature=0.7, top_k=50)
    )

    def __post_init__(self) -> None:
        if self.prompt_frames < 1 or self.frames < 1:
            raise ValueError(
                f"prompt_frames {self.prompt_frames} and frames {self.frames} must be at least 1"
            )

    def run(self, out: Path) -> dict[str, Any]:
        """Write strips (real, reconstruction, forecast), videos, and PSNR for each horizon.

        Raises:
            ValueError: if the run or the data cannot be opened, or the frames do not fit.
        """
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("generate"):
                return folder.result("generate")
            backbone = open_backbone(self.run_folder)
            backbone.model.to(device())
            clips = self._clips(Collection(self.data))
            scores: dict[str, list[Tensor]] = {
                "forecast": [],
                "copy last frame": [],
                "tokenizer limit": [],
            }
            began = time.perf_counter()
            with bar("generate", len(clips) * self.frames) as progress:
                for number, (_, frames) in enumerate(clips):
                    limit, forecast = self._continue(backbone, frames, progress)
                    truth = frames[self.prompt_frames :]
                    last = frames[self.prompt_frames - 1 : self.prompt_frames].expand_as(truth)
                    scores["forecast"].append(psnr_db(truth, forecast[self.prompt_frames :]))
                    scores["copy last frame"].append(psnr_db(truth, last))
                    scores["tokenizer limit"].append(psnr_db(truth, limit[self.prompt_frames :]))
                    if number < self.pictures:
                        self._show(out, number + 1, frames, limit, forecast)
            tokens = len(clips) * self.frames * backbone.layout.frame_tokens
            result = {
                "prompt_frames": self.prompt_frames,
                "frames": self.frames,
                "psnr_db": {k: torch.stack(v).mean(0).tolist() for k, v in scores.items()},
                "psnr_db_by_clip": {k: torch.stack(v).tolist() for k, v in scores.items()},
                "tokens_per_s": tokens / (time.perf_counter() - began),
                "temperature": self.sampling.temperature,
                "top_k": self.sampling.top_k,
                "seed": self.sampling.seed,
                "sources": [source for source, _ in clips],
            }
            folder.write_result("generate", result)
            return result

    def _clips(self, collection: Collection) -> list[tuple[str, Tensor]]:
        """Held-out clips with their names, real ones first."""
        wanted, found = self.prompt_frames + self.frames, []
        with Decoder() as decoder:
            for row in collection.held_out:
                if len(found) == self.real_clips:
                    break
                frames = collection.read(decoder, row).frames
                if len(frames) >= wanted:
                    found.append((row.path, torch.from_numpy(frames[:wanted])))
            if collection.config.digit_clips.test and collection.config.frames >= wanted:
                digits = collection.digits(decoder, "test")
                for index in range(self.digit_clips):
                    clip = digits[index].clip
                    found.append((clip.source, clip.frames[:wanted]))
        if not found:
            raise ValueError(
                f"no held-out clip has {wanted} frames; ask for fewer --prompt-frames or --frames"
            )
        return found

    def _continue(self, backbone: Backbone, frames: Tensor, progress: Bar) -> tuple[Tensor, Tensor]:
        """Reconstruct all frames, and forecast those behind the prompt."""
        ids = backbone.tokenizer.encode(frames)
        prompt = ids[: self.prompt_frames].long()
        new = backbone.forecast(prompt, frames=self.frames, sampling=self.sampling)
        guessed = torch.cat([prompt, torch.stack(list(progress.over(new)))]).int()
        return backbone.tokenizer.decode(ids), backbone.tokenizer.decode(guessed)

    def _show(
        self, out: Path, number: int, frames: Tensor, limit: Tensor, forecast: Tensor
    ) -> None:
        """Write the strip (rows real, reconstruction, forecast), and the same as a video."""
        rows = [part.numpy() for part in (frames, limit, forecast)]
        gap = np.full((frames.shape[1], GAP_PX, 3), 255, dtype=np.uint8)
        lines = []
        for row in rows:
            parts = list(row)
            parts.insert(self.prompt_frames, gap)
            lines.append(np.concatenate(parts, axis=1))
            lines.append(np.full((GAP_PX, lines[0].shape[1], 3), 255, dtype=np.uint8))
        strip = np.concatenate(lines[:-1])
        write_png(out / f"strip-{number}.png", strip.repeat(2, axis=0).repeat(2, axis=1))
        tall = np.broadcast_to(gap[None], (len(frames), *gap.shape))
        film = np.concatenate([rows[0], tall, rows[1], tall, rows[2]], axis=2)
        write_mp4(out / f"forecast-{number}.mp4", film.repeat(3, axis=1).repeat(3, axis=2), fps=6)
