"""The data folder: clips of a data set that were checked, and moving digits made over them.

`toto ingest` writes it; tokenisation, tokenizer training, tracking and forecasting read from it.
Of a plain folder of videos the end of each can be held out; the digits' held-out splits play over
the held-out ends, so that neither a handwritten image nor a background frame serves both.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from toto.config import from_dict
from toto.runtime.folder import RunFolder
from toto.video.datasets import DATASETS
from toto.video.datasets.moving_digits import MovingDigits, MovingDigitsConfig, Split
from toto.video.decode import Decoded, Decoder, VideoRefusedError
from toto.video.manifest import Row, read_manifest
from toto.video.reading import Cut, read_clip, source_sha256

MANIFEST = "manifest.parquet"
Part = Literal["pretrain", "held-out"]
TRAINING_SPLITS = frozenset({"train", "pretrain"})
BACKGROUND_FILES, BACKGROUND_FRAMES = 24, 240
"""Bounds on what the digits' backgrounds keep in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DigitClips:
    """How many moving-digit clips each split has; 0 makes none."""

    pretrain: int = 0
    train: int = 0
    selection: int = 0
    test: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionConfig:
    """How clips are cut from videos, and which are made."""

    frames: int = 16
    """Frames of a clip; a video too short for one is refused."""
    stride: int = 4
    """Every how many-th frame of a real video is kept, unless `toto tokenize` is told otherwise."""
    side_px: int = 128
    """Side of the squares that frames are cut to, unless `toto tokenize` is told otherwise."""
    held_out_share: float = 0.0
    """Share of each training video, its end, that is held out as a split of its own; 0 holds out
    nothing, for data sets that come with splits."""
    digits: MovingDigitsConfig = field(default_factory=lambda: MovingDigitsConfig(side_px=128))
    """How made clips look, if there are any; `frames` and `side_px` must be those of the real
    ones."""
    digit_clips: DigitClips = field(default_factory=DigitClips)

    def __post_init__(self) -> None:
        if self.frames < 2 or self.stride < 1:
            raise ValueError(
                f"frames {self.frames} must be at least 2, stride {self.stride} at least 1"
            )
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share {self.held_out_share} must lie in [0, 1)")
        if self.has_digits and not self.held_out_share:
            raise ValueError(
                "moving digits play over held-out ends of the videos; give a --held-out-share "
                "above 0, or no --digit-clips"
            )
        if self.has_digits and (self.digits.frames, self.digits.side_px) != (
            self.frames,
            self.side_px,
        ):
            raise ValueError(
                f"digits of {self.digits.frames} frames and {self.digits.side_px} px do not match "
                f"clips of {self.frames} frames and {self.side_px} px; "
                "set frames and side-px of both --collection and --collection.digits"
            )

    @property
    def has_digits(self) -> bool:
        """Whether any split has made clips."""
        return self.digit_clips != DigitClips()

    @property
    def frames_needed(self) -> int:
        """Frames that a video must have to give one clip."""
        return (self.frames - 1) * self.stride + 1


class Collection:
    """An ingested data folder.

    Attributes:
        config: how clips are cut.
        dataset: where they come from.
        rows: one for every clip, usable or lost.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder that `toto ingest` wrote.

        Raises:
            ValueError: if it is not one, or ingest has not finished there.
        """
        run = RunFolder.open(folder)
        if not run.has_result("ingest"):
            raise ValueError(f"{folder}: ingest has not finished; run `toto ingest` again")
        result = run.result("ingest")
        self.config = from_dict(CollectionConfig, result["collection"])
        self.dataset = from_dict(DATASETS[result["reader"]], result["dataset"])
        self.rows = read_manifest(folder / MANIFEST)

    @property
    def clips(self) -> list[Row]:
        """Rows of the clips that can be used."""
        return [row for row in self.rows if row.status == "ok"]

    def split(self, name: str) -> list[Row]:
        """Usable clips of one split."""
        return [row for row in self.clips if row.split == name]

    @property
    def held_out(self) -> list[Row]:
        """Usable clips of every split that is not trained on."""
        return [row for row in self.clips if row.split not in TRAINING_SPLITS]

    def path(self, row: Row) -> Path:
        """Say where the file of a row is."""
        return self.dataset.root / row.path

    def require_unchanged(self, decoder: Decoder, row: Row) -> None:
        """Refuse a file whose bytes are not those that ingest checked.

        Raises:
            VideoRefusedError: at stage `changed` if its sha256 is another.
        """
        sha256, _ = source_sha256(decoder, self.dataset.root, row.path, row.kind)
        if sha256 != row.sha256:
            reason = "it has changed since it was ingested; ingest again"
            raise VideoRefusedError(self.path(row), "changed", reason)

    def read(self, decoder: Decoder, row: Row, *, side_px: int | None = None) -> Decoded:
        """Decode a clip's kept frames, every `stride`-th, cut to the squares in the middle.

        Args:
            decoder: reads it.
            row: which clip.
            side_px: side of the squares; None takes the config's.
        """
        cut = Cut(stride=self.config.stride, side_px=side_px or self.config.side_px)
        return read_clip(decoder, self.dataset.root, row, cut)

    def backgrounds(self, decoder: Decoder, part: Part) -> list[np.ndarray]:
        """Real frames for the digits to move over, u8 [T H W 3], larger than the clip.

        Videos that leave nothing to hold out serve as background of pre-training only; if none
        leaves any, the held-out digits play over the same frames, for want of others.
        """
        side_px = self.config.side_px * 7 // 4
        found = list(self._background_parts(decoder, side_px, part))
        if not found and part == "held-out":
            return list(self._background_parts(decoder, side_px, "pretrain"))
        return found

    def digits(self, decoder: Decoder, split: Split) -> MovingDigits:
        """Make the moving digits of one split."""
        part: Part = "pretrain" if split in ("pretrain", "train") else "held-out"
        return MovingDigits(self.config.digits, self.backgrounds(decoder, part), split)

    def _background_parts(self, decoder: Decoder, side_px: int, part: Part) -> Iterator[np.ndarray]:
        for row in self.split(part)[:BACKGROUND_FILES]:
            frames = min(row.frames, BACKGROUND_FRAMES)
            yield decoder.read(
                self.path(row), start=row.first_frame, frames=frames, side_px=side_px
            ).frames
