"""Token shards: flat little-endian u16, and what the numbers are beside them.

A shard is a folder. `tokens.u16` holds whole token grids, in time order, clip after clip; windows
are cut when they are read, so one tokenisation serves every context length. `clips.parquet` says
where each clip comes from, and `shard.json`, which carries a hash of itself, has the hashes of the
other files. For models that read pixels, `frames.bin` keeps the frames beside their tokens.
docs/decisions/0003-token-shards.md says why the format is ours.
"""

import hashlib
import re
import shutil
import uuid
import zlib
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from toto.config import to_dict
from toto.data.records import ClipRecord, Clips, Description, as_parquet, as_row, require_fit
from toto.data.sealed import pack, seal, unpack
from toto.data.shard_files import (
    FACTS,
    FRAMES,
    RECORDS,
    SCHEMA,
    TOKENS,
    FileFacts,
    ShardFacts,
    check_files,
    map_data,
    read_facts,
    read_records,
    require_frames,
)
from toto.runtime import durable
from toto.types import TokenGrid

LARGEST_ID = 2**16 - 1
"""Of what 16 bits hold."""
_UNFINISHED = re.compile(r"\..+\.tmp-[0-9a-f]{32}|\..+\.[0-9a-f]{32}\.tmp")


class Tokens(Protocol):
    """What `Shard` and `TokenSet` have in common for `require_same`."""

    @property
    def path(self) -> Path | str:
        """Where they lie; for messages."""
        ...

    @property
    def description(self) -> Description:
        """What all clips share."""
        ...


class ShardWriter:
    """Writes one shard clip by clip; it appears under its name only by `commit`.

    A context: leaving it without a commit leaves nothing behind.

    Args:
        folder: the shard's folder.
        description: what all clips share.

    Raises:
        ValueError: if the codes do not fit 16 bits.
        DiskFullError: on any call, if the disk is full.
    """

    def __init__(self, folder: Path, description: Description) -> None:
        if description.vocab_size - 1 > LARGEST_ID:
            raise ValueError(
                f"{description.vocab_size} codes do not fit the shards' 16 bits (65536 at most)"
            )
        durable.make_folder(folder.parent)
        self.folder, self.description = folder, description
        self._temporary = folder.with_name(f".{folder.name}.tmp-{uuid.uuid4().hex}")
        self._files: dict[str, BinaryIO] = {}
        self._sha = {TOKENS: hashlib.sha256(), FRAMES: hashlib.sha256()}
        self._rows: list[dict[str, Any]] = []
        self._histogram = np.zeros(description.vocab_size, dtype=np.int64)

    @property
    def clips(self) -> int:
        """How many clips were added."""
        return len(self._rows)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            # What a full disk has left in the buffer cannot be written here either.
            with suppress(OSError):
                file.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def add(
        self,
        grid: TokenGrid,
        record: ClipRecord,
        frames: UInt8[Tensor, "T H W 3"] | None = None,
    ) -> None:
        """Append one clip, with the frames its tokens stand for if the shard is to keep them.

        Raises:
            ValueError: if grid or frames are not of the description's vocabulary and shape, or
                some clips come with frames and some without.
        """
        require_fit(self.description, record, grid, frames)
        ids = grid.ids.numpy()
        parts = {TOKENS: ids.astype("<u2").tobytes()}
        if frames is not None:
            parts[FRAMES] = frames.numpy().tobytes()
        if self.clips and parts.keys() != self._files.keys():
            raise ValueError(f"{record.name}: a shard keeps the frames of all its clips or none")
        with durable.explain_disk_errors(self._temporary):
            self._temporary.mkdir(exist_ok=True)
            for name, data in parts.items():
                if name not in self._files:
                    self._files[name] = (self._temporary / name).open("xb")
                self._files[name].write(data)
                self._sha[name].update(data)
        self._histogram += np.bincount(ids.reshape(-1), minlength=len(self._histogram))
        crc32 = {name: zlib.crc32(data) for name, data in parts.items()}
        self._rows.append(as_row(record, crc32[TOKENS], crc32.get(FRAMES)))

    def commit(self, *, exists_ok: bool = False) -> None:
        """Give the shard its name, once all of it is on disk.

        Args:
            exists_ok: whether the shard may be there already, written by another process; it is
                verified and stays.

        Raises:
            ValueError: if no clip was added, or there is a shard of that name, and with
                `exists_ok` if it is another one or damaged.
        """
        if not self.clips:
            raise ValueError(f"{self.folder}: there is no clip to write")
        with durable.explain_disk_errors(self._temporary):
            for file in self._files.values():
                file.close()
        files = {
            name: FileFacts(
                bytes=(self._temporary / name).stat().st_size, sha256=self._sha[name].hexdigest()
            )
            for name in self._files
        }
        records = as_parquet(self._rows)
        files[RECORDS] = FileFacts(bytes=len(records), sha256=hashlib.sha256(records).hexdigest())
        facts = ShardFacts(
            schema=SCHEMA,
            description=self.description,
            clips=self.clips,
            frames=sum(row["frames"] for row in self._rows),
            files=files,
            histogram=pack(self._histogram, "<i8"),
        )
        sealed = seal(to_dict(facts))
        durable.write_new(self._temporary / RECORDS, records)
        durable.write_new(self._temporary / FACTS, sealed)
        try:
            durable.commit_folder(self._temporary, self.folder, what="shard")
        except (ValueError, OSError):
            # Whatever came between: what counts is whether the shard that is there is this one.
            if not (exists_ok and self.folder.is_dir()):
                raise
            _require_equal(self.folder, sealed)


def _require_equal(folder: Path, sealed: bytes) -> None:
    """Refuse a shard that is not the one that has just been made again."""
    there = folder / FACTS
    if not there.is_file() or there.read_bytes() != sealed:
        raise ValueError(
            f"{folder} exists already and is not what these clips give; remove it or choose "
            "another --out"
        )
    facts = read_facts(folder)
    check_files(folder, facts, read=facts.files)


def write_shard(
    folder: Path,
    description: Description,
    clips: Iterable[
        tuple[TokenGrid, ClipRecord] | tuple[TokenGrid, ClipRecord, UInt8[Tensor, "T H W 3"] | None]
    ],
) -> int:
    """Write one shard; it appears under its name only when it is whole.

    Args:
        folder: the shard's folder; made, and refused if it exists.
        description: what all clips share.
        clips: grids with their records, in the order they are to be stored; with the frames, if
            the shard is to keep them.

    Returns:
        How many clips were written.

    Raises:
        ValueError: if the folder exists, there is no clip, or a grid is not of the description's
            vocabulary and shape.
        DiskFullError: if it does not fit; nothing is left under the shard's name.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already; remove it or choose another --out")
    with ShardWriter(folder, description) as writer:
        for grid, record, *frames in clips:
            writer.add(grid, record, *frames)
        writer.commit()
    return writer.clips


def sweep(out: Path) -> list[str]:
    """Remove what killed writers have left anywhere below a folder of token sets.

    Only for a process that knows that nothing writes there, such as the holder of a run's lock.

    Returns:
        What was removed, by its path below `out`.
    """
    left = sorted(path for path in out.rglob(".*") if _UNFINISHED.fullmatch(path.name))
    for path in left:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return [path.relative_to(out).as_posix() for path in left]


class Shard:
    """A shard opened for reading; the tokens stay on disk until a window is cut.

    Attributes:
        path: its folder.
        facts: what it says of its files.
        description: what all clips share.
        tokens: all grids, u16 [F Y X] on disk.
        frames: the pixels that they stand for, u8 [F H W 3] on disk, where they were asked for.
    """

    def __init__(
        self,
        path: Path,
        *,
        verify: bool = True,
        frames: bool = False,
        sha256: str | None = None,
        whole: bool = True,
    ) -> None:
        """Open a shard.

        Args:
            path: its folder.
            verify: whether to hash what is opened, which reads all of it once.
            frames: whether to open the frames beside the tokens.
            sha256: of its `shard.json`, where an index says which shard this must be.
            whole: whether frames that are not opened must be there all the same; a cache holds
                only what was asked for.

        Raises:
            ValueError: if it is not a shard, a file is not what was written, is missing or too
                many, or it keeps no frames.
        """
        self.path = path
        self.facts = read_facts(path, sha256=sha256)
        self.description = self.facts.description
        if frames:
            require_frames(FRAMES in self.facts.files, str(path))
        read = [TOKENS, FRAMES] if frames else [TOKENS]
        there = None if whole else [*read, RECORDS]
        check_files(path, self.facts, read=read if verify else (), there=there)
        self.tokens, self.frames = map_data(
            path, self.description, self.facts.frames, frames=frames
        )
        if verify:
            _ = self.clips

    @cached_property
    def clips(self) -> Clips:
        """The clips' records; verified whenever they are read.

        Raises:
            ValueError: if they are damaged.
        """
        return read_records(self.path, self.facts)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Frames of each clip, i64 [N]."""
        return self.clips.frames()

    @cached_property
    def _first(self) -> np.ndarray:
        return np.concatenate([[0], self.lengths.cumsum()])

    def window(self, clip: int, start: int, frames: int) -> Int64[Tensor, "T Y X"]:
        """Cut `frames` successive frames of a clip, from its frame `start`.

        Raises:
            ValueError: if the clip has no such frames.
        """
        return torch.from_numpy(self.tokens[self._span(clip, start, frames)].astype(np.int64))

    def pixels(self, clip: int, start: int, frames: int) -> UInt8[Tensor, "T H W 3"]:
        """Cut the same frames as `window`, as sRGB bytes, from a shard opened with `frames`.

        Raises:
            ValueError: if the clip has no such frames.
        """
        assert self.frames is not None, "open the shard with frames=True"
        return torch.from_numpy(np.array(self.frames[self._span(clip, start, frames)]))

    def labels(self, name: str) -> Int64[Tensor, " N"]:
        """Read one label of every clip.

        Raises:
            ValueError: if a clip does not carry it.
        """
        return self.clips.labels(name)

    def histogram(self) -> np.ndarray:
        """Count how often each code occurs, i64 [V]."""
        return unpack(self.facts.histogram, "<i8", where=str(self.path / FACTS))

    def _span(self, clip: int, start: int, frames: int) -> slice:
        if start < 0 or start + frames > self.lengths[clip]:
            raise ValueError(
                f"{self.clips[clip].name}: frames {start}..{start + frames - 1} of "
                f"{self.lengths[clip]}"
            )
        first = self._first[clip] + start
        return slice(first, first + frames)

    def __repr__(self) -> str:
        facts = self.facts
        return f"Shard({str(self.path)!r}, clips={facts.clips}, frames={facts.frames})"


def require_same(shards: Iterable[Tokens]) -> Description:
    """Refuse to mix shards whose tokens do not mean the same.

    A decoder of another version may round a pixel otherwise, as another encoder of the video would;
    another resize filter makes other pixels everywhere, and so other codes.

    Returns:
        What the first says.

    Raises:
        ValueError: if two differ in tokenizer, weights, precision, vocabulary, grid or resize
            filter, naming both.
    """
    first, *others = shards
    for other in others:
        for name in (
            "tokenizer",
            "tokenizer_digest",
            "precision",
            "vocab_size",
            "patch_px",
            "grid",
            "resize_filter",
        ):
            ours, theirs = getattr(first.description, name), getattr(other.description, name)
            if ours != theirs:
                raise ValueError(
                    f"{first.path} and {other.path} cannot be mixed: {name} is {ours} and {theirs}"
                )
    return first.description
