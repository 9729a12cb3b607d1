"""The frames that tokenizers are measured on, and what a result must say of them.

A number without its set cannot be compared: the same reconstructions have another rFID against
another reference. So the frames travel with the name, count and hash of the files they came from.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from toto.jobs.progress import bar
from toto.runtime.durable import sha256_file
from toto.video.datasets.folder import Folder
from toto.video.datasets.image_folder import ImageFolder, read_images
from toto.video.datasets.sample_clips import CLIPS, SampleClips
from toto.video.decode import Decoder, VideoRefusedError
from toto.video.transforms import RESIZE_FILTER

MIN_SIDE_PX = 12
"""Below it neither SSIM's window nor a block of the spectra fits."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MeasuredFrames:
    """Square frames of some files, in memory.

    Attributes:
        name: of the folder, without its path, or of the sample clips.
        frames: all of them; those of one clip follow each other.
        lengths: how many frames each clip has; empty for still images.
        sha256: over the sorted sha256 of all files that were read.
        files: how many were read.
        refused: names and reasons of those that were not.
        cut: how frames were taken from clips; empty for still images.
    """

    name: str
    frames: UInt8[Tensor, "N S S 3"]
    lengths: tuple[int, ...]
    sha256: str
    files: int
    refused: tuple[tuple[str, str], ...]
    cut: dict[str, int]

    def summary(self) -> dict[str, Any]:
        """What every result says of the set it was measured on."""
        return {
            "name": self.name,
            "kind": "videos" if self.lengths else "images",
            "files": self.files,
            "frames": len(self.frames),
            "sha256": self.sha256,
            "side_px": self.frames.shape[1],
            "resize_filter": RESIZE_FILTER,
            **self.cut,
            "refused": [{"file": name, "reason": reason} for name, reason in self.refused],
        }

    def some(self, count: int) -> Tensor:
        """Indices of at most `count` frames, spread evenly over all."""
        count = min(count, len(self.frames))
        return torch.arange(count) * len(self.frames) // count


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredSource:
    """Where the frames come from: images, videos, or both."""

    images: Path | None = None
    """Folder of still images; without one the frames of the clips are measured."""
    clips: Path | None = None
    """Folder of videos; without it and without images, the clips that a dependency carries."""
    side_px: int = 128
    """Frames are resized and cut to squares of this side."""
    limit: int = 1000
    """Images at most, spread evenly over the folder."""
    clip_limit: int = 20
    """Videos at most, spread evenly over the folder."""
    clip_frames: int = 32
    """Kept frames of a video at most, from its start."""
    clip_stride: int = 4
    """Every how many-th frame of a video is kept."""

    def __post_init__(self) -> None:
        for name in ("side_px", "limit", "clip_limit", "clip_frames", "clip_stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.side_px < MIN_SIDE_PX:
            raise ValueError(f"side_px {self.side_px} must be at least {MIN_SIDE_PX}")

    def require_files(self) -> None:
        """List the files and open none: a mistyped folder is found before a run folder is made.

        Raises:
            ValueError: if a folder is none or holds nothing to read.
        """
        if self.images:
            ImageFolder(root=self.images).files(limit=1)
        if self.clips or not self.images:
            self._clip_files()

    def read(self) -> tuple[MeasuredFrames, MeasuredFrames | None]:
        """Decode the frames to measure on, and the clips if there are any (maybe the same).

        Raises:
            ValueError: if a folder holds nothing that can be read, or fewer than 2 frames.
        """
        with Decoder() as decoder:
            clips = self._read_clips(decoder) if self.clips or not self.images else None
            frames = self._read_images(decoder, self.images) if self.images else clips
        assert frames is not None
        if len(frames.frames) < 2:
            raise ValueError(f"{frames.name}: 1 frame is too few to measure on; give at least 2")
        return frames, clips

    def _read_images(self, decoder: Decoder, root: Path) -> MeasuredFrames:
        files = ImageFolder(root=root).files(limit=self.limit)
        with bar("images", len(files)) as progress:
            images, refused = read_images(decoder, files, side_px=self.side_px, over=progress.over)
        name = root.resolve().name
        return _measured(name, root, files, torch.from_numpy(images), (), refused, {})

    def _read_clips(self, decoder: Decoder) -> MeasuredFrames:
        name, root, files = self._clip_files()
        found: list[Tensor] = []
        refused: list[VideoRefusedError] = []
        with bar("clips", len(files)) as progress:
            for file in progress.over(files):
                try:
                    decoded = decoder.read(
                        file,
                        stride=self.clip_stride,
                        frames=self.clip_frames,
                        side_px=self.side_px,
                    )
                    found.append(torch.from_numpy(decoded.frames))
                except VideoRefusedError as refusal:
                    refused.append(refusal)
        if not found:
            raise ValueError(f"none of {len(files)} files is a video; the first, {refused[0]}")
        lengths = tuple(len(frames) for frames in found)
        cut = {"stride": self.clip_stride, "clip_frames": self.clip_frames}
        return _measured(name, root, files, torch.cat(found), lengths, refused, cut)

    def _clip_files(self) -> tuple[str, Path, list[Path]]:
        """Give the set's name, its folder, and the videos to read."""
        if self.clips is None:
            root = SampleClips().root
            return SampleClips().name, root, [root / clip for clip in CLIPS]
        files = Folder(root=self.clips).files()
        count = min(self.clip_limit, len(files))
        chosen = [files[place] for place in np.arange(count) * len(files) // count]
        return self.clips.resolve().name, self.clips, chosen


def _measured(
    name: str,
    root: Path,
    files: Sequence[Path],
    frames: Tensor,
    lengths: tuple[int, ...],
    refused: Sequence[VideoRefusedError],
    cut: dict[str, int],
) -> MeasuredFrames:
    bad = {refusal.path for refusal in refused}
    hashes = sorted(sha256_file(file) for file in files if file not in bad)
    return MeasuredFrames(
        name=name,
        frames=frames,
        lengths=lengths,
        sha256=hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        files=len(hashes),
        refused=tuple((r.path.relative_to(root).as_posix(), r.reason) for r in refused),
        cut=cut,
    )
