"""What the rows of manifests come to: clips, frames and hours by source, losses by reason."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from toto.video.manifest import Row
from toto.video.reading import kept_frames

REASON_LETTERS = 90
"""Longest reason in an account; the manifest has them whole."""


@dataclass(kw_only=True, slots=True)
class Tally:
    """What the clips of one source and split come to."""

    kind: str
    clips: int = 0
    lost: int = 0
    damaged: int = 0
    """Clips that are used and of which something is missing."""
    frames: int = 0
    kept: int = 0
    """Frames that are left at the stride."""
    readable: int = 0
    """Those of clips that are long enough for one sequence."""
    short: int = 0
    """Clips that are not."""
    whole: int = 0
    """Sequences that follow each other within a clip."""
    seconds: float = 0.0
    untimed: int = 0
    """Clips whose length in seconds is not known."""

    def summary(self) -> dict[str, Any]:
        """Give what the result keeps."""
        names = ("kind", "clips", "lost", "damaged", "frames", "short", "seconds", "untimed")
        return {name: getattr(self, name) for name in names} | {"frames_at_stride": self.kept}

    def sequences(self, frames: int) -> int:
        """Sequences without a frame in two; of images those are any that are put together."""
        return self.kept // frames if self.kind == "image" else self.whole


class Account:
    """Counts manifest rows, one after the other.

    Attributes:
        tallies: by `SOURCE/SPLIT`, as `toto tokenize` names them.
        losses: clips by (source, status, stage, reason), with one of them as an example.
        damaged: the same for clips that are used all the same.
    """

    def __init__(self, *, stride: int, frames: int) -> None:
        self._stride, self._frames = stride, frames
        self.tallies: dict[str, Tally] = {}
        self.losses: dict[tuple[str, str, str, str], tuple[int, str]] = {}
        self.damaged: dict[tuple[str, str, str, str], tuple[int, str]] = {}
        self._folders: dict[str, str] = {}

    def add(self, rows: Iterable[Row], *, where: str) -> None:
        """Count the clips of one data folder.

        Raises:
            ValueError: if another folder has given clips of the same source and split.
        """
        for row in rows:
            name = f"{row.source}/{row.split}"
            if self._folders.setdefault(name, where) != where:
                raise ValueError(
                    f"{self._folders[name]} and {where} both hold {name}, which would be counted "
                    "twice; give one of them"
                )
            tally = self.tallies.setdefault(name, Tally(kind=row.kind))
            if row.status == "ok":
                self._count(tally, row)
            else:
                tally.lost += 1
                _note(self.losses, name, row)
            if row.status == "ok" and row.reason:
                tally.damaged += 1
                _note(self.damaged, name, row)

    def _count(self, tally: Tally, row: Row) -> None:
        kept = kept_frames(row, self._stride)
        tally.clips += 1
        tally.frames += row.frames
        tally.kept += kept
        seconds = 0.0 if row.kind == "image" else clip_seconds(row)
        tally.seconds += seconds or 0.0
        tally.untimed += seconds is None
        tally.whole += kept // self._frames
        if row.kind == "image" or kept >= self._frames:
            tally.readable += kept
        else:
            tally.short += 1


def clip_seconds(row: Row) -> float | None:
    """Give how long a clip is shown, in seconds; None if its frames have no times.

    What was lost inside a clip counts: its length is that between the frames that are there.
    """
    if row.end_s is not None and row.duration_s > 0:
        return row.duration_s
    if row.frames > 1 and row.duration_s > 0:
        # The last frame is shown as long as the others on average.
        return row.duration_s * row.frames / (row.frames - 1)
    return row.frames / row.fps if row.fps else None


def short_reason(row: Row) -> str:
    """Give a row's reason without what differs from file to file: its name, and numbers."""
    reason = row.reason or ""
    for name in (row.path, row.path.rpartition("/")[2]):
        reason = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "FILE", reason)
    reason = re.sub(r"\b\d+(\.\d+)?\b", "N", reason)
    return reason if len(reason) <= REASON_LETTERS else reason[: REASON_LETTERS - 3] + "..."


def _note(counts: dict[tuple[str, str, str, str], tuple[int, str]], name: str, row: Row) -> None:
    key = (name, row.status, row.stage or "", short_reason(row))
    number, example = counts.get(key, (0, row.path))
    counts[key] = (number + 1, example)


def reasons(
    counts: Mapping[tuple[str, str, str, str], tuple[int, str]],
) -> list[dict[str, Any]]:
    """List counted reasons, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1][0], item[0]))
    return [
        {
            "source": name,
            "status": status,
            "stage": stage,
            "reason": reason,
            "clips": number,
            "example": example,
        }
        for (name, status, stage, reason), (number, example) in ordered
    ]
