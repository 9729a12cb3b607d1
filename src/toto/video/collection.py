"""The data folder: real clips that were checked, and moving digits made over them.

`toto ingest` writes it; tokenizer training, tokenisation, tracking and forecasting read from it.
Real clips are split by time, the end of each held out; the digits' held-out splits play over the
held-out ends, so that neither a handwritten image nor a background frame serves both.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from toto.config import from_dict
from toto.runtime.durable import sha256_file
from toto.runtime.folder import RunFolder
from toto.video.datasets.folder import Folder
from toto.video.datasets.moving_digits import MovingDigits, MovingDigitsConfig, Split
from toto.video.datasets.sample_clips import SampleClips
from toto.video.decode import Decoded, Decoder
from toto.video.manifest import Row, read_manifest

MANIFEST = "manifest.parquet"
Part = Literal["pretrain", "held-out"]
BACKGROUND_FILES, BACKGROUND_FRAMES = 24, 240
"""Bounds on what the digits' backgrounds keep in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DigitClips:
    """How many moving-digit clips each split has."""

    pretrain: int = 2000
    train: int = 600
    selection: int = 200
    test: int = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionConfig:
    """Which videos, and how clips are cut from them."""

    videos: Path | None = None
    """Folder of videos; None takes the real clips that a dependency carries."""
    frames: int = 16
    """Frames of a clip."""
    stride: int = 4
    """Every how many-th frame of a real video is kept."""
    side_px: int = 128
    """Frames are resized and cut to squares of this side."""
    held_out_share: float = 0.25
    """Share of each real video, its end, that is never trained on."""
    digits: MovingDigitsConfig = field(default_factory=lambda: MovingDigitsConfig(side_px=128))
    """Made clips; their `frames` and `side_px` must be those of the real ones."""
    digit_clips: DigitClips = field(default_factory=DigitClips)

    def __post_init__(self) -> None:
        if self.frames < 2 or self.stride < 1:
            raise ValueError(
                f"frames {self.frames} must be at least 2, stride {self.stride} at least 1"
            )
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share {self.held_out_share} must lie in (0, 1)")
        if (self.digits.frames, self.digits.side_px) != (self.frames, self.side_px):
            raise ValueError(
                f"digits of {self.digits.frames} frames and {self.digits.side_px} px do not match "
                f"clips of {self.frames} frames and {self.side_px} px; "
                "set frames and side-px of both --collection and --collection.digits"
            )

    @property
    def frames_needed(self) -> int:
        """Frames that a video must have to give one clip."""
        return (self.frames - 1) * self.stride + 1

    def dataset(self) -> Folder | SampleClips:
        """Where the real videos come from."""
        if self.videos is None:
            return SampleClips()
        return Folder(root=self.videos, name="clips")


class Collection:
    """An ingested data folder.

    Attributes:
        config: how clips are cut.
        rows: one for every file, used or refused.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder that `toto ingest` wrote.

        Raises:
            ValueError: if it is not one, or ingest has not finished there.
        """
        run = RunFolder.open(folder)
        if not run.has_result("ingest"):
            raise ValueError(f"{folder}: ingest has not finished; run `toto ingest` again")
        self.config = from_dict(CollectionConfig, run.result("ingest")["config"])
        self.rows = read_manifest(folder / MANIFEST)
        self._dataset = self.config.dataset()

    @property
    def videos(self) -> list[Row]:
        """Rows of the files that are used."""
        return [row for row in self.rows if row.status == "ok"]

    def path(self, row: Row) -> Path:
        """Say where the file of a row is."""
        return self._dataset.path(row)

    def require_unchanged(self, row: Row) -> None:
        """Refuse a file whose bytes are not those that ingest checked.

        Raises:
            ValueError: if its sha256 is another; the message names the file.
        """
        if sha256_file(self.path(row)) != row.sha256:
            raise ValueError(f"{self.path(row)} has changed since it was ingested; ingest again")

    def read(self, decoder: Decoder, row: Row, *, side_px: int | None = None) -> Decoded:
        """Decode a video's kept frames, every `stride`-th, cut to squares.

        Args:
            decoder: reads it.
            row: which video.
            side_px: side of the squares; None takes the config's.
        """
        return decoder.read(
            self.path(row), stride=self.config.stride, side_px=side_px or self.config.side_px
        )

    def part(self, kept: int, part: Part) -> slice:
        """Which of a video's kept frames belong to a part.

        A video too short to leave a clip on both sides is all for pre-training.
        """
        held_out = max(round(self.config.held_out_share * kept), self.config.frames)
        if kept - held_out < self.config.frames:
            held_out = 0
        cut = kept - held_out
        return slice(0, cut) if part == "pretrain" else slice(cut, kept)

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
        stride = self.config.stride
        for row in self.videos[:BACKGROUND_FILES]:
            # In frames of the file, and cut where the clips are: else one shows the other's part.
            span = self.part(-(-row.frames // stride), part)
            first, last = span.start * stride, min(span.stop * stride, row.frames)
            if first < last:
                yield decoder.read(
                    self.path(row),
                    start=first,
                    frames=min(last - first, BACKGROUND_FRAMES),
                    side_px=side_px,
                ).frames
