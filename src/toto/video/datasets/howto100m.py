"""HowTo100M: the videos of its CSV, whole or by the captions of its JSON."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toto.video.datasets.listing import (
    VIDEO_SUFFIXES,
    csv_columns,
    files_below,
    read_csv,
    require_name,
)
from toto.video.entry import Entry

LAYOUT = (
    "expected ROOT/HowTo100M_v1.csv with columns video_id,category_1,category_2,rank,task_id and "
    "files <video_id>.mp4, .webm or .mkv anywhere below ROOT (docs/datasets.md)"
)
READ_CHARS = 1 << 20
VIDEO_CHARS = 1 << 26
"""A video whose captions are longer is a fault of the file."""

_DECODER = json.JSONDecoder()
_GAP = re.compile(r"[\s,]*")
_COLON = re.compile(r"\s*:\s*")


@dataclass(frozen=True, kw_only=True, slots=True)
class HowTo100M:
    """Every video that the CSV promises, labelled with its first category; there are no splits.

    A video that was found for several tasks has several lines; the first one labels it.
    """

    root: Path
    name: str = "howto100m"
    """What manifests and shards call these clips."""
    split: str = "train"
    captions: Path | None = None
    """`caption.json` or `raw_caption.json`, below `root` or absolute: each caption's time is a
    clip, and a video without captions has none. None takes whole videos."""

    def __post_init__(self) -> None:
        require_name(self.name, "name")
        require_name(self.split, "split")

    def entries(self) -> Iterator[Entry]:
        """Yield whole videos in the order of the CSV, or captions in the order of the JSON.

        Raises:
            ValueError: if there is no CSV, not one file, or the captions make no sense.
        """
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is not a folder; {LAYOUT}")
        labels = self._labels()
        files = {}
        for path in files_below(self.root, linked_parts=True):
            stem, suffix = os.path.splitext(path.rpartition("/")[2])
            if suffix.lower() in VIDEO_SUFFIXES and stem in labels:
                files.setdefault(stem, path)
        if not files:
            raise ValueError(
                f"{self.root}: not one of {len(labels)} listed videos has a file; {LAYOUT}"
            )
        if self.captions is None:
            for video, label in labels.items():
                path = files.get(video, f"{video}.mp4")
                yield Entry(path=path, clip=video, label=label, split=self.split)
            return
        captions = self.root / self.captions
        for video, times_s in _captions(captions):
            if video not in labels:
                continue
            for number, (start_s, end_s) in enumerate(times_s):
                # Speech recognition writes some captions that last no time.
                if 0 <= start_s < end_s < float("inf"):
                    yield Entry(
                        path=files.get(video, f"{video}.mp4"),
                        clip=f"{video}:{number}",
                        start_s=start_s,
                        end_s=end_s,
                        label=labels[video],
                        split=self.split,
                    )

    def _labels(self) -> dict[str, str | None]:
        lists = [path for path in sorted(self.root.glob("*.csv")) if "rank" in csv_columns(path)]
        if len(lists) != 1:
            found = ", ".join(path.name for path in lists) or "no list"
            raise ValueError(f"{self.root} has {found} of HowTo100M, one is read; {LAYOUT}")
        labels: dict[str, str | None] = {}
        for line, row in read_csv(lists[0], required=("video_id", "category_1", "rank")):
            video = row["video_id"].strip()
            if not video or "/" in video or "\0" in video or video in (".", ".."):
                raise ValueError(f"{lists[0]} line {line}: {video!r} is not a video id")
            labels.setdefault(video, row["category_1"].strip() or None)
        if not labels:
            raise ValueError(f"{lists[0]} lists no video; {LAYOUT}")
        return labels


def _captions(path: Path) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Read a JSON object of millions of videos one video at a time: whole it needs tens of GB.

    Yields:
        A video's id and the start and end of its captions, in seconds.

    Raises:
        ValueError: if the file is not such an object.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text, at = file.read(READ_CHARS).lstrip(), 1
            if not text.startswith("{"):
                raise ValueError("it does not begin with '{'")
            while True:
                pair = _pair(text, at)
                if pair is None:
                    more = file.read(max(READ_CHARS, len(text) - at))
                    if not more:
                        break
                    text, at = text[at:] + more, 0
                    if len(text) > VIDEO_CHARS:
                        raise ValueError("it is damaged, or no object of videos")
                    continue
                video, value, at = pair
                yield video, _times(video, value)
            if text[at:].strip(" \t\r\n,") != "}":
                raise ValueError("it is cut off, or no object of videos")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as captions: {error}") from error


def _pair(text: str, at: int) -> tuple[str, Any, int] | None:
    """Read `"key": value` and its end; None if the text ends before that."""
    try:
        key, end = _DECODER.raw_decode(text, _skip(_GAP, text, at))
        value, end = _DECODER.raw_decode(text, _skip(_COLON, text, end))
    except ValueError:
        return None
    return str(key), value, end


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else len(text)


def _times(video: str, value: Any) -> list[tuple[float, float]]:
    found = value if isinstance(value, dict) else {}
    starts, ends = found.get("start"), found.get("end")
    if not isinstance(starts, list) or not isinstance(ends, list) or len(starts) != len(ends):
        raise ValueError(f"{video} has no lists 'start' and 'end' of one length")
    if not all(isinstance(time_s, int | float) for time_s in (*starts, *ends)):
        raise ValueError(f"{video} has a time that is no number")
    return [(float(start), float(end)) for start, end in zip(starts, ends, strict=True)]
