"""Measure a tokenizer on the held-out frames of a data folder, before anything rests on it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toto.jobs.tokenizer_measures import measure_tokenizer, side_by_side
from toto.jobs.training_frames import TrainingFrames
from toto.runtime.folder import RunFolder
from toto.tokenizers import SHIPPED, load_tokenizer
from toto.video.collection import Collection
from toto.video.decode import Decoder
from toto.video.write import write_png


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerCheck:
    """Say what a tokenizer keeps of frames that it has not seen."""

    data: Path
    """Folder that `toto ingest` wrote."""
    tokenizer: str = SHIPPED
    """Name of a tokenizer, or its folder."""
    clip_frames: int = 300
    """Squares cut from the held-out ends of the real clips."""
    digit_frames: int = 300
    """Frames of held-out moving digits."""
    seed: int = 0

    def run(self, out: Path) -> dict[str, Any]:
        """Write the measures and a picture into `out`.

        Raises:
            ValueError: if the data or the tokenizer cannot be opened.
        """
        with RunFolder.create(out, self, tensorboard=False) as folder, Decoder() as decoder:
            if folder.has_result("tokenizer"):
                return folder.result("tokenizer")
            tokenizer, collection = load_tokenizer(self.tokenizer), Collection(self.data)
            sources = TrainingFrames(
                clips=self.data,
                side_px=collection.config.side_px,
                clip_frames=self.clip_frames,
                digit_frames=self.digit_frames,
            )
            random = np.random.default_rng(self.seed)
            frames = sources.of_clips(decoder, collection, "held-out", random)
            result = measure_tokenizer(tokenizer, frames)
            write_png(out / "reconstructions.png", side_by_side(tokenizer, frames))
            folder.write_result("tokenizer", result)
            return result
