"""The files of a shard's folder, and whether they are what was written."""

import hashlib
import math
import os
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toto.config import from_dict
from toto.data.records import ClipRecord, Clips, Description
from toto.data.sealed import unseal
from toto.runtime.durable import sha256_file

SCHEMA = 2
TOKENS, FRAMES, RECORDS, FACTS = "tokens.u16", "frames.bin", "clips.parquet", "shard.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """What a file of a shard was when it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardFacts:
    """What `shard.json` says."""

    schema: int
    description: Description
    clips: int
    frames: int
    files: dict[str, FileFacts]
    histogram: str
    """How often each code occurs: i64, packed."""


def read_facts(folder: Path, *, sha256: str | None = None) -> ShardFacts:
    """Read a shard's `shard.json`.

    Args:
        folder: the shard's.
        sha256: of the file, where an index says which shard this must be.

    Raises:
        ValueError: if it is no shard, is damaged, or is another one than the index says.
    """
    file = folder / FACTS
    if not file.is_file():
        raise ValueError(f"{folder} is not a token shard (no {FACTS}); `toto tokenize` makes them")
    data = file.read_bytes()
    body = unseal(data, where=str(file), schema=SCHEMA)
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{folder} is another shard than the index says; tokenise again")
    facts = from_dict(ShardFacts, body, where=f"{file}: ")
    wrong = facts.files.keys() - {TOKENS, FRAMES, RECORDS} or {TOKENS, RECORDS} - facts.files.keys()
    if wrong or facts.clips < 1 or facts.frames < facts.clips:
        raise ValueError(f"{file} describes no shard; tokenise again")
    return facts


def check_files(
    folder: Path,
    facts: ShardFacts,
    *,
    read: Collection[str],
    there: Collection[str] | None = None,
) -> None:
    """Compare files with what was written.

    Args:
        folder: the shard's.
        facts: what it says of its files.
        read: those whose content is hashed.
        there: those that must be there, and if None all of them and no other.

    Raises:
        ValueError: if a file is missing or damaged, or a stranger lies beside them.
    """
    if there is None:
        strangers = sorted(set(os.listdir(folder)) - {FACTS, *facts.files})
        if strangers:
            raise ValueError(f"{folder / strangers[0]} is no file of this shard; remove it")
    for name in facts.files if there is None else there:
        file, expected = folder / name, facts.files[name].bytes
        size = file.stat().st_size if file.is_file() else 0
        if size != expected:
            raise ValueError(f"{file} has {size} bytes, its sidecar promises {expected}")
    for name in read:
        if sha256_file(folder / name) != facts.files[name].sha256:
            raise ValueError(
                f"{folder / name} is damaged: its sha256 is not the sidecar's; tokenise again"
            )


def read_records(folder: Path, facts: ShardFacts) -> Clips:
    """Verify and read where the clips come from.

    Raises:
        ValueError: if the records are damaged.
    """
    check_files(folder, facts, read=[RECORDS], there=[RECORDS])
    clips = Clips((folder / RECORDS).read_bytes(), where=str(folder / RECORDS))
    found, expected = (len(clips), int(clips.frames().sum())), (facts.clips, facts.frames)
    if found != expected:
        raise ValueError(
            f"{folder / RECORDS} has {found[0]} clips of {found[1]} frames, its sidecar promises "
            f"{expected[0]} of {expected[1]}"
        )
    return clips


def require_frames(keeps: bool, path: Path | str) -> None:
    """Refuse tokens without their frames where a model reads pixels.

    Raises:
        ValueError: if they are not kept.
    """
    if not keeps:
        raise ValueError(
            f"{path} keeps no frames, which a model of patches reads; tokenise again with "
            "--keep-frames"
        )


def map_data(
    folder: Path, description: Description, count: int, *, frames: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Map the tokens, u16 [F Y X], and if asked the frames, u8 [F H W 3], into memory.

    Raises:
        ValueError: if a file is not of the size that the description gives.
    """
    tokens = _map(folder / TOKENS, "<u2", (count, *description.grid))
    if not frames:
        return tokens, None
    return tokens, _map(folder / FRAMES, "u1", (count, *description.frame_px, 3))


def damaged_clips(folder: Path) -> dict[int, ClipRecord]:
    """Find the clips whose tokens or frames are not what was written, by their numbers.

    Reads all of the shard; works also where the hash of a whole file says only that it is damaged.

    Raises:
        ValueError: if what says where the clips lie is damaged itself.
    """
    facts = read_facts(folder)
    clips = read_records(folder, facts)
    damaged: set[int] = set()
    frame_bytes = {
        TOKENS: 2 * math.prod(facts.description.grid),
        FRAMES: 3 * math.prod(facts.description.frame_px),
    }
    for name in facts.files.keys() & frame_bytes.keys():
        sizes = (clips.frames() * frame_bytes[name]).tolist()
        expected = clips.checksums("tokens" if name == TOKENS else "frames").tolist()
        found = _checksums(folder / name, sizes)
        damaged |= {
            number
            for number, pair in enumerate(zip(expected, found, strict=True))
            if pair[0] != pair[1]
        }
    return {number: clips[number] for number in sorted(damaged)}


def file_state(folder: Path) -> tuple[tuple[str, int, int, int, int], ...]:
    """What changes when a file of the folder is written, replaced, added or removed."""
    if not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        return tuple(
            (entry.name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            for entry in sorted(entries, key=lambda entry: entry.name)
            for stat in [entry.stat()]
        )


def _map(file: Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    size = file.stat().st_size if file.is_file() else 0
    if size != expected:
        raise ValueError(f"{file} has {size} bytes, its sidecar promises {expected}")
    # As a plain array: a memmap does work at every cut that costs more than the cut.
    return np.asarray(np.memmap(file, dtype=dtype, mode="r", shape=(math.prod(shape),))).reshape(
        shape
    )


def _checksums(file: Path, sizes: list[int]) -> Iterator[int | None]:
    """Yield the CRC of each part of a file; None where the file is missing or ends early."""
    if not file.is_file():
        yield from (None for _ in sizes)
        return
    with file.open("rb") as data:
        for size in sizes:
            part = data.read(size)
            yield zlib.crc32(part) if len(part) == size else None
