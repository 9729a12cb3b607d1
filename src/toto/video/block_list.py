"""The leak guard: what no training set may hold, by id, by bytes and by what it looks like.

Kinetics-700's training clips include validation clips of Kinetics-400 and -600, and crawled video
includes everything. A clip that is a copy of an evaluation clip is blocked before it is tokenised.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from toto.runtime.durable import make_folder, write_bytes
from toto.video.copies import CopyIndex
from toto.video.manifest import Row

_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("split", pa.string()),
        pa.field("path", pa.string()),
        pa.field("clip", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("first_frame", pa.int64(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.binary()),
    ]
)
# With the times of a clip behind it, as Kinetics has them; or alone, where only one that cannot be
# a word or a counter (`clip_000123`) counts: that takes 99.3 % of random ids.
_TIMED_ID = re.compile(r"(?:v_)?([\w-]{11})_\d{6}_\d{6}", re.ASCII)
_LONE_ID = re.compile(r"(?:v_)?((?=.{0,10}[A-Z])(?=.{0,10}[a-z])(?!.{7}\d{4})[\w-]{11})", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocked:
    """One clip that training must not see; what is None is not compared."""

    clip: str
    source: str | None = None
    """Data set that has it; None for a name that counts in every data set."""
    split: str | None = None
    path: str | None = None
    """Of its file; a clip that is named after its file has no name of its own to be found by."""
    sha256: str | None = None
    """Of its whole file."""
    first_frame: int = 0
    """Which frames of the file these are, as two parts of one file are two clips; no frames mean
    all of it."""
    frames: int = 0
    fingerprint: bytes | None = None

    @property
    def name(self) -> str:
        """How messages call it."""
        return "/".join(part for part in (self.source, self.split, self.clip) if part)


class BlockList:
    """Clips that training must not see, searched by id, by bytes and by fingerprint."""

    def __init__(self, clips: Sequence[Blocked]) -> None:
        """Hold these clips; the index of fingerprints is made at the first search."""
        self.clips = tuple(clips)
        named = [one for one in self.clips if one.clip != one.path]
        self._names = {(one.source, one.clip): one for one in reversed(named)}
        self._videos = {video: one for one in reversed(self.clips) if (video := video_id(one.clip))}
        self._files: dict[str, list[Blocked]] = {}
        for one in self.clips:
            if one.sha256:
                self._files.setdefault(one.sha256, []).append(one)

    def match(self, row: Row) -> str | None:
        """Say of which evaluation clip a clip is a copy, and how that was seen; None if of none.

        Meant for the rows of training splits alone: an evaluation clip is a copy of itself.

        Raises:
            ValueError: if the row's fingerprint is of another version.
        """
        named = self._names.get((row.source, row.clip)) or self._names.get((None, row.clip))
        if named:
            return f"the clip {named.name} of the block list"
        for one in self._files.get(row.sha256 or "", ()):
            if overlap(row, one):
                return f"the same file as {one.name} of the block list"
        video = video_id(row.clip)
        if video and video in self._videos:
            return f"from the video {video}, as {self._videos[video].name} of the block list"
        for copy in self._copies.find(row.fingerprint):
            return f"looks like {self.clips[copy.clip].name} of the block list: {copy}"
        return None

    @cached_property
    def _copies(self) -> CopyIndex:
        return CopyIndex([one.fingerprint for one in self.clips])

    def write(self, path: Path) -> None:
        """Write the list as Parquet, whole or not at all."""
        names = _SCHEMA.names
        table = pa.Table.from_pylist(
            [{name: getattr(one, name) for name in names} for one in self.clips], schema=_SCHEMA
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        make_folder(path.parent)
        write_bytes(path, sink.getvalue().to_pybytes())

    @classmethod
    def open(cls, path: Path) -> "BlockList":
        """Read what `write` wrote.

        Raises:
            ValueError: if the file is no block list, or its columns are not those of this version.
        """
        remedy = "make one with `toto data block`"
        try:
            # Through a file object: given a path, pyarrow would read names like `a=b/` as columns.
            # Without its threads: beside torch's they may abort the process when it ends.
            with path.open("rb") as file:
                table = pq.ParquetFile(file, pre_buffer=False).read(use_threads=False)
        except pa.ArrowInvalid as error:
            first = str(error).splitlines()[0]
            raise ValueError(f"{path} is not a block list: {first}; {remedy}") from error
        if not table.schema.equals(_SCHEMA):
            found = ", ".join(f"{field.name} {field.type}" for field in table.schema)
            raise ValueError(f"{path} is not a block list: its columns are {found}; {remedy}")
        return cls([Blocked(**values) for values in table.to_pylist()])


def blocked_rows(rows: Iterable[Row]) -> list[Blocked]:
    """Entries that keep training away from these clips, those without readable media too."""
    return [
        Blocked(
            clip=row.clip,
            source=row.source,
            split=row.split,
            path=row.path,
            sha256=row.sha256,
            first_frame=row.first_frame,
            frames=row.frames,
            fingerprint=row.fingerprint,
        )
        for row in rows
    ]


def blocked_names(path: Path) -> list[Blocked]:
    """Entries from a text file of clip names or video ids, one a line; `#` begins a comment.

    For evaluation sets of which only the lists are at hand.

    Raises:
        ValueError: if the file is not UTF-8 text, or names nothing.
    """
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file of one clip name a line: {error}") from error
    lines = (line.strip() for line in text.splitlines())
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise ValueError(f"{path} names no clip; write one clip name or video id a line")
    return [Blocked(clip=name) for name in names]


def video_id(clip: str) -> str | None:
    """YouTube id of the video that a clip is from, if its name says so.

    Clips of one video are of one scene, so a whole video counts as seen when one clip of it does.
    """
    stem = re.sub(r"\.(?:mp4|mkv|webm|avi|mov)$", "", clip.rsplit("/", 1)[-1], flags=re.IGNORECASE)
    found = _TIMED_ID.fullmatch(stem) or _LONE_ID.fullmatch(stem)
    return found[1] if found else None


def overlap(one: Row | Blocked, other: Row | Blocked) -> bool:
    """Whether two clips of one file have frames in common."""
    if not (one.frames and other.frames):
        return True
    return (
        one.first_frame < other.first_frame + other.frames
        and other.first_frame < one.first_frame + one.frames
    )
