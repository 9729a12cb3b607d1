"""Token sets: folders of shards with an index, here or on an object store, read as one.

The index says which shards there are, by hash, and how long every clip is; opening a set reads
nothing else. A shard is opened when a window of it is first cut, and whatever was damaged, swapped,
lost or added since the index was written is found before that window is handed out.
"""

import hashlib
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from toto.config import from_dict, to_dict
from toto.data.records import ClipRecord, Clips, Description
from toto.data.remote import Mirror, is_address
from toto.data.sealed import pack, seal, unpack, unseal
from toto.data.shard_files import (
    FACTS,
    FRAMES,
    damaged_clips,
    file_state,
    map_data,
    read_facts,
    read_records,
    require_frames,
)
from toto.data.shards import Shard
from toto.runtime.durable import write_bytes

SCHEMA = 1
INDEX = "index.json"
OPEN_SHARDS = 128
"""Shards mapped into memory at a time; each holds one or two of the process's open files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFacts:
    """What `index.json` says."""

    schema: int
    description: Description
    keeps_frames: bool
    numbers: tuple[int, ...]
    """Of the shards: 7 is the folder `00007`. Some may be left out, where all clips were lost."""
    shards: tuple[str, ...]
    """sha256 of each shard's `shard.json`, which has the hashes of the rest."""
    clips: tuple[int, ...]
    """Of each shard."""
    lengths: str
    """Frames of each clip of all shards: u32, packed."""
    histogram: str
    """How often each code occurs in all shards: i64, packed."""


def shard_name(number: int) -> str:
    """Folder of a shard in its set."""
    return f"{number:05d}"


def write_index(folder: Path) -> None:
    """Write the index of the shards in a folder, or replace it.

    Raises:
        ValueError: if the folder has no shard or has a stranger among them, a shard's records are
            damaged, or the shards differ in what they say of themselves.
        DiskFullError: if the disk is full.
    """
    there = sorted(set(os.listdir(folder)) - {INDEX}) if folder.is_dir() else []
    if not there:
        raise ValueError(f"{folder} has no shards; `toto tokenize` makes them")
    # `isdecimal` alone would also take the digits of other scripts.
    numbers = [int(name) for name in there if name.isascii() and name.isdecimal()]
    names = [shard_name(number) for number in sorted(numbers)]
    _require_names(folder, names, there)
    facts = [read_facts(folder / name) for name in names]
    first = facts[0]
    for name, other in zip(names, facts, strict=True):
        ours, theirs = (replace(f.description, device="") for f in (first, other))
        if ours != theirs or (FRAMES in first.files) != (FRAMES in other.files):
            raise ValueError(
                f"{folder / names[0]} and {folder / name} are of one set and differ in how they "
                "were made; tokenise again into another --out"
            )
    lengths = [read_records(folder / n, f).frames() for n, f in zip(names, facts, strict=True)]
    histograms = [unpack(f.histogram, "<i8", where=n) for n, f in zip(names, facts, strict=True)]
    devices = sorted({device for f in facts for device in f.description.device.split(", ")})
    index = IndexFacts(
        schema=SCHEMA,
        description=replace(first.description, device=", ".join(devices)),
        keeps_frames=FRAMES in first.files,
        numbers=tuple(sorted(numbers)),
        shards=tuple(hashlib.sha256((folder / n / FACTS).read_bytes()).hexdigest() for n in names),
        clips=tuple(f.clips for f in facts),
        lengths=pack(np.concatenate(lengths), "<u4"),
        histogram=pack(np.sum(histograms, axis=0), "<i8"),
    )
    write_bytes(folder / INDEX, seal(to_dict(index)))


class TokenSet:
    """A set of shards opened for reading; one thread or several may read.

    Attributes:
        path: its folder or address.
        description: what all clips share.
        keeps_frames: whether the frames are stored beside their tokens.
        shards: how many shards there are.
        sha256: of the index, and so of all that the set holds.
        lengths: frames of each clip, i64 [N].
        clips: the clips' records, read when they are asked for.
    """

    def __init__(self, path: str | Path, *, frames: bool = False) -> None:
        """Open a set by its index.

        Args:
            path: its folder, or an address that fsspec reads, such as `s3://bucket/tokens/k/train`.
                `#sha256=` and a hash behind it pin the index, and with it every byte of the set.
            frames: whether to open the frames beside the tokens.

        Raises:
            ValueError: if there is no set, its index is damaged or not the pinned one, a shard is
                missing or one too many, or it keeps no frames.
        """
        self.path, _, pin = str(path).partition("#sha256=")
        self._mirror = Mirror(self.path) if is_address(self.path) else None
        index, where = self._read_index()
        self.sha256 = hashlib.sha256(index).hexdigest()
        if pin and self.sha256 != pin:
            raise ValueError(f"{where} is not the pinned one: its sha256 is not {pin}")
        facts = from_dict(IndexFacts, unseal(index, where=where, schema=SCHEMA), where=f"{where}: ")
        self._facts, self.description = facts, facts.description
        self.keeps_frames, self._with_frames = facts.keeps_frames, frames
        if frames:
            require_frames(facts.keeps_frames, self.path)
        self.shards = len(facts.shards)
        self.lengths = unpack(facts.lengths, "<u4", where=where)
        ends = np.cumsum(facts.clips)
        counts = {self.shards, len(facts.clips), len(set(facts.numbers))}
        if counts != {len(facts.numbers)} or not self.shards or ends[-1] != len(self.lengths):
            raise ValueError(f"{where} describes no shards; tokenise again")
        self._first_clips: list[int] = [0, *ends.tolist()]
        self._first_frames = np.concatenate([[0], self.lengths.cumsum()])
        if self._mirror is None:
            names = list(map(shard_name, facts.numbers))
            _require_names(Path(self.path), names, sorted(set(os.listdir(self.path)) - {INDEX}))
        self.clips = _SetClips(self)
        self._lock = threading.RLock()
        self._open: OrderedDict[int, tuple[np.ndarray, np.ndarray | None]] = OrderedDict()
        self._verified: dict[int, int] = {}
        self._records: tuple[int, Clips] | None = None

    def window(self, clip: int, start: int, frames: int) -> Int64[Tensor, "T Y X"]:
        """Cut `frames` successive frames of a clip, from its frame `start`.

        Raises:
            ValueError: if the clip has no such frames, or its shard is damaged.
        """
        shard, span = self._span(clip, start, frames)
        return torch.from_numpy(self._map(shard)[0][span].astype(np.int64))

    def pixels(self, clip: int, start: int, frames: int) -> UInt8[Tensor, "T H W 3"]:
        """Cut the same frames as `window`, as sRGB bytes, from a set opened with `frames`.

        Raises:
            ValueError: if the clip has no such frames, or its shard is damaged.
        """
        shard, span = self._span(clip, start, frames)
        pixels = self._map(shard)[1]
        assert pixels is not None, "open the set with frames=True"
        return torch.from_numpy(np.array(pixels[span]))

    def labels(self, name: str) -> Int64[Tensor, " N"]:
        """Read one label of every clip.

        Raises:
            ValueError: if a clip does not carry it.
        """
        return torch.cat([self.records(shard).labels(name) for shard in range(self.shards)])

    def names(self) -> list[str]:
        """Source and clip of each clip, as `ClipRecord.name`; far quicker than the records."""
        return [name for shard in range(self.shards) for name in self.records(shard).names()]

    def crops(self) -> list[tuple[float, float]]:
        """Where the square of each clip lies in the free room, x and y in [0, 1]."""
        return [crop for shard in range(self.shards) for crop in self.records(shard).crops()]

    def words(self) -> list[str]:
        """Read the data set's own word for every clip, such as its class.

        Raises:
            ValueError: if a clip has none.
        """
        return [word for shard in range(self.shards) for word in self.records(shard).words()]

    def histogram(self) -> np.ndarray:
        """Count how often each code occurs, i64 [V]; the index knows it."""
        return unpack(self._facts.histogram, "<i8", where=f"{self.path}/{INDEX}")

    def records(self, shard: int) -> Clips:
        """Read the records of one shard's clips.

        Raises:
            ValueError: if the shard is damaged.
        """
        with self._lock:
            if self._records is None or self._records[0] != shard:
                folder = self._verified_folder(shard)
                self._records = shard, Shard(folder, verify=False, whole=False).clips
            return self._records[1]

    def verify(self, shard: int) -> int:
        """Compare one shard with the index again, even if it was opened before.

        Returns:
            How many bytes were read.

        Raises:
            ValueError: if it is damaged.
        """
        with self._lock:
            self._verified.pop(shard, None)
            return sum(size for _, _, size, *_ in file_state(self._verified_folder(shard)))

    def damaged_clips(self, shard: int) -> dict[int, ClipRecord]:
        """Find the clips of a damaged shard that are not what was written, by their numbers.

        Raises:
            ValueError: if what says where its clips lie is damaged itself.
        """
        found = damaged_clips(self._folder(shard))
        return {self._first_clips[shard] + clip: record for clip, record in found.items()}

    def name_of(self, shard: int) -> str:
        """Folder of a shard in the set."""
        return shard_name(self._facts.numbers[shard])

    def shard_of(self, clip: int) -> tuple[int, int]:
        """Say in which shard a clip is, and which of its clips it is there."""
        if not 0 <= clip < len(self.lengths):
            raise ValueError(f"{self.path} has {len(self.lengths)} clips, there is no {clip}")
        shard = bisect_right(self._first_clips, clip) - 1
        return shard, clip - self._first_clips[shard]

    def _span(self, clip: int, start: int, frames: int) -> tuple[int, slice]:
        shard, _ = self.shard_of(clip)
        if start < 0 or start + frames > self.lengths[clip]:
            raise ValueError(
                f"{self.clips[clip].name}: frames {start}..{start + frames - 1} of "
                f"{self.lengths[clip]}"
            )
        before = self._first_frames[self._first_clips[shard]]
        first = int(self._first_frames[clip] - before) + start
        return shard, slice(first, first + frames)

    def _map(self, shard: int) -> tuple[np.ndarray, np.ndarray | None]:
        with self._lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
            folder = self._verified_folder(shard)
            lengths = self._lengths_of(shard)
            maps = map_data(folder, self.description, int(lengths.sum()), frames=self._with_frames)
            self._open[shard] = maps
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
            return maps

    def _verified_folder(self, shard: int) -> Path:
        """Folder of a shard that is what the index says.

        All of it is hashed when it is first opened, and whenever its files have changed since:
        hashing 50 MB at each return to a shard would be most of a loader's time.
        """
        folder = self._folder(shard)
        try:
            self._compare(shard, folder)
        except ValueError:
            if self._mirror is None:
                raise
            self._mirror.forget(self._facts.shards[shard])
            try:
                self._compare(shard, self._folder(shard))
            except ValueError as error:
                raise ValueError(
                    f"{self.path}/{self.name_of(shard)} was fetched twice and is damaged ({error})"
                ) from error
        return folder

    def _folder(self, shard: int) -> Path:
        """Folder of a shard, fetched if it lies elsewhere; nothing is verified."""
        if self._mirror is None:
            return Path(self.path) / self.name_of(shard)
        return self._mirror.shard(
            self.name_of(shard), self._facts.shards[shard], frames=self._with_frames
        )

    def _compare(self, shard: int, folder: Path) -> None:
        # Taken before the files are hashed: what changes meanwhile is hashed again next time.
        state = hash(file_state(folder))
        if self._verified.get(shard) == state:
            return
        opened = Shard(
            folder,
            frames=self._with_frames,
            sha256=self._facts.shards[shard],
            whole=self._mirror is None,
        )
        same = replace(opened.description, device=self.description.device) == self.description
        if not same or not np.array_equal(opened.lengths, self._lengths_of(shard)):
            raise ValueError(f"{folder} has other clips than the index says; tokenise again")
        self._verified[shard] = state

    def _lengths_of(self, shard: int) -> np.ndarray:
        return self.lengths[self._first_clips[shard] : self._first_clips[shard + 1]]

    def _read_index(self) -> tuple[bytes, str]:
        if self._mirror is not None:
            return self._mirror.read(INDEX), f"{self.path}/{INDEX}"
        file = Path(self.path) / INDEX
        if not file.is_file():
            raise ValueError(
                f"{self.path} is not a token set (no {INDEX}); `toto tokenize` makes them"
            )
        return file.read_bytes(), str(file)

    def __repr__(self) -> str:
        return f"TokenSet({self.path!r}, clips={len(self.lengths)}, frames={self.lengths.sum()})"


class _SetClips(Sequence[ClipRecord]):
    """The records of all shards, one shard at a time in memory."""

    def __init__(self, tokens: TokenSet) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens.lengths)

    @overload
    def __getitem__(self, number: int) -> ClipRecord: ...
    @overload
    def __getitem__(self, number: slice) -> list[ClipRecord]: ...
    def __getitem__(self, number: int | slice) -> ClipRecord | list[ClipRecord]:
        if isinstance(number, slice):
            return [self[index] for index in range(*number.indices(len(self)))]
        shard, clip = self._tokens.shard_of(range(len(self))[number])
        return self._tokens.records(shard)[clip]

    def __iter__(self) -> Iterator[ClipRecord]:
        for shard in range(self._tokens.shards):
            yield from self._tokens.records(shard)


def _require_names(folder: Path, expected: list[str], there: list[str]) -> None:
    missing = [name for name in expected if name not in set(there)]
    strangers = [name for name in there if name not in set(expected)]
    if missing:
        raise ValueError(f"{folder / missing[0]} is missing; tokenise again")
    if strangers:
        raise ValueError(
            f"{folder / strangers[0]} is no shard of {folder / INDEX}; remove it or tokenise again"
        )
