"""Kinetics-400, -600 and -700: the official CSV lists, and the files that could be had."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from toto.video.datasets.listing import (
    VIDEO_SUFFIXES,
    csv_columns,
    files_below,
    number_at,
    read_csv,
    require_name,
)
from toto.video.entry import Entry

LAYOUT = (
    "expected ROOT/annotations/train.csv with columns label,youtube_id,time_start,time_end,split "
    "and files such as ROOT/train/abseiling/0wR5jVB-WPk_000417_000427.mp4 (docs/datasets.md)"
)
_COLUMNS = ("youtube_id", "time_start", "time_end")
_SPLITS = {"validate": "val", "validation": "val", "holdout": "test", "holdout_test": "test"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kinetics:
    """Every clip that the lists promise, whether its file is there or not.

    Files are found by their names in any folders below `root`, so the copies of CVDF and of
    mmaction2 both serve, sorted by class or not. Labels have spaces, as in the lists.
    """

    root: Path
    name: str = "kinetics"
    """What manifests and shards call these clips: say kinetics-400, -600 or -700, for they share
    videos and are no one data set."""
    lists: tuple[Path, ...] = ()
    """CSV files below `root` or absolute; empty takes all in `root/annotations` or in `root`."""
    splits: tuple[str, ...] = ()
    """Which of train, val and test are read; empty for all that the lists name."""
    untrimmed: bool = False
    """The files are whole YouTube videos, `<youtube_id>.mp4`: cut the clips out of them."""
    repeats: Literal["refuse", "first"] = "refuse"
    """What to do with a clip that the lists have again with another label or split."""

    def __post_init__(self) -> None:
        require_name(self.name, "name")
        for split in self.splits:
            require_name(split, "split")

    def entries(self) -> Iterator[Entry]:
        """Yield the clips in the order of the lists; those without a file are missing to ingest.

        Raises:
            ValueError: if there are no lists, not one listed file, or a line makes no sense.
        """
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is not a folder; {LAYOUT}")
        lists = self._lists()
        files = _Files(self.root)
        clips = self._clips(lists)
        if not any(files.find(clip, whole=self.untrimmed) for clip in clips):
            raise ValueError(
                f"{self.root}: not one of {len(clips)} listed clips has a file; {LAYOUT}"
            )
        # Clips of one whole video stand together: it is decoded once for all of them.
        order = sorted(clips, key=lambda clip: clip.youtube_id) if self.untrimmed else clips
        for clip in order:
            path = files.find(clip, whole=self.untrimmed)
            stem = clip.youtube_id if self.untrimmed else clip.stem
            yield Entry(
                path=path or f"{clip.split}/{stem}.mp4",
                clip=clip.stem,
                start_s=clip.start_s if self.untrimmed else 0.0,
                end_s=clip.end_s if self.untrimmed else None,
                label=clip.label,
                split=clip.split,
            )

    def _lists(self) -> list[Path]:
        if self.lists:
            return [self.root / path for path in self.lists]
        for folder in (self.root / "annotations", self.root):
            found = sorted(folder.glob("*.csv"))
            found = [path for path in found if "youtube_id" in csv_columns(path)]
            if found:
                return found
        raise ValueError(f"{self.root} has no list of Kinetics; {LAYOUT}")

    def _clips(self, lists: list[Path]) -> list["_Clip"]:
        clips: dict[str, _Clip] = {}
        for path in lists:
            for line, row in read_csv(path, required=_COLUMNS):
                clip = _clip(path, line, row)
                if self.splits and clip.split not in self.splits:
                    continue
                first = clips.setdefault(clip.stem, clip)
                if first != clip and self.repeats == "refuse":
                    raise ValueError(
                        f"{path} line {line}: {clip.stem} is {clip.label!r} of {clip.split}, and "
                        f"{first.label!r} of {first.split} in {first.where}; choose other "
                        "--dataset.lists or --dataset.splits, or keep the first by "
                        "--dataset.repeats first"
                    )
        if not clips:
            names = ", ".join(str(path) for path in lists)
            raise ValueError(f"{names}: no clip of {' or '.join(self.splits) or 'any split'}")
        return list(clips.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Clip:
    """A line of a list; the same line in another list is the same clip."""

    youtube_id: str
    start_s: float
    end_s: float
    label: str | None
    split: str
    where: str = field(compare=False)

    @property
    def stem(self) -> str:
        """What its file is called, and its id."""
        return f"{self.youtube_id}_{int(self.start_s):06d}_{int(self.end_s):06d}"


def _clip(path: Path, line: int, row: dict[str, str]) -> _Clip:
    youtube_id = row["youtube_id"].strip()
    if not re.fullmatch(r"[\w-]{11}", youtube_id, re.ASCII):
        raise ValueError(f"{path} line {line}: {youtube_id!r} is not a YouTube id")
    start_s = number_at(path, line, "time_start", row["time_start"])
    end_s = number_at(path, line, "time_end", row["time_end"])
    if not 0 <= start_s < end_s:
        raise ValueError(f"{path} line {line}: a clip from {start_s} s to {end_s} s")
    split = (row.get("split") or _split_of(path)).strip().lower()
    try:
        split = require_name(_SPLITS.get(split, split), "split")
    except ValueError as error:
        raise ValueError(f"{path} line {line}: {error}") from error
    label = row.get("label", "").strip().strip('"').replace("_", " ")
    return _Clip(
        youtube_id=youtube_id,
        start_s=start_s,
        end_s=end_s,
        label=label or None,
        split=split,
        where=f"{path.name} line {line}",
    )


def _split_of(path: Path) -> str:
    """Take the split from a list's name: train.csv, kinetics-600_val.csv."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    return next((word for word in words if word in ("train", "val", "validate", "test")), "train")


class _Files:
    """The files below a folder, by the name of their clip or of their whole video."""

    def __init__(self, root: Path) -> None:
        self._by_stem: dict[str, list[str]] = {}
        self._replaced: dict[str, str] = {}
        for path in files_below(root, linked_parts=True):
            folders, _, name = path.rpartition("/")
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in VIDEO_SUFFIXES:
                continue
            if "replacement" in folders.split("/"):
                # CVDF's own script tells these by the video alone.
                self._replaced[stem[:11]] = path
            else:
                self._by_stem.setdefault(stem, []).append(path)

    def find(self, clip: _Clip, *, whole: bool) -> str | None:
        """The file of a clip: of several, one in a folder of the clip's split.

        What CVDF issued in place of a damaged file comes before that file.
        """
        if not whole and clip.youtube_id in self._replaced:
            return self._replaced[clip.youtube_id]
        found = self._by_stem.get(clip.youtube_id if whole else clip.stem, [])
        in_split = (path for path in found if clip.split in re.split("[/_]", path)[:-1])
        return next(in_split, found[0] if found else None)
