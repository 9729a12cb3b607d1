"""A thousand single faults in the files of a token set: each is found before a batch is made of it.

A fault is found if what would read it is refused with one line that names a file of the set. The
windows of shards that the fault has not hit may be read.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from toto.data.records import ClipRecord, Description
from toto.data.shards import write_shard
from toto.data.token_set import TokenSet, shard_name, write_index
from toto.types import TokenGrid

pytestmark = pytest.mark.faults

LENGTHS = ((300, 70), (370,), (1, 200, 169))  # shards of equally many frames, so that sizes agree
PAGE_BYTES = 4096
FILES = ("shard.json", "clips.parquet", "tokens.u16", "frames.bin")
DESCRIPTION = Description(
    tokenizer="grey",
    tokenizer_digest="0" * 64,
    vocab_size=5000,
    patch_px=4,
    grid=(4, 4),
    kind="video",
    precision="fp32",
    resize_filter="lanczos",
    decoder="none",
)


@dataclass(frozen=True)
class Fault:
    """Something that happens to a set, and the shard that a reader would meet it in."""

    what: str
    hurt: Callable[[], None]
    shard: int | None
    """None where the whole set must be refused."""


def write(folder: Path, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for number, lengths in enumerate(LENGTHS):
        clips = []
        for clip, length in enumerate(lengths):
            ids = torch.randint(5000, (length, 4, 4), generator=draw, dtype=torch.int32)
            record = ClipRecord(
                source="made",
                path=f"{number}/{clip}.mp4",
                clip=f"{seed}-{number}-{clip}",
                source_sha256=f"{clip:064x}",
                frame_indices=tuple(range(0, 4 * length, 4)),
                times_s=tuple(index / 7.5 for index in range(length)),
                side_px=16,
                crop=(0.5, 0.5),
                labels={"digit": clip},
            )
            frames = torch.randint(256, (length, 16, 16, 3), generator=draw).byte()
            clips.append((TokenGrid(ids=ids, vocab_size=5000), record, frames))
        write_shard(folder / shard_name(number), DESCRIPTION, clips)
    write_index(folder)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A set, and another of the same sizes with other content."""
    folder = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(("good", "other")):
        write(folder / name, seed)
    return folder / "good", folder / "other"


def faults(good: Path, other: Path, draw: random.Random) -> Iterator[Fault]:
    files = [(good / shard_name(shard) / name, shard) for shard in range(3) for name in FILES]
    for file, shard in [(good / "index.json", None), *files]:
        where = file.relative_to(good)
        size = file.stat().st_size
        for _ in range(60):
            at, bit = draw.randrange(size), draw.randrange(8)
            yield Fault(f"bit {bit} of byte {at} of {where}", flipped(file, at, bit), shard)
        for kept in [0, size - 1, *(draw.randrange(size) for _ in range(10))]:
            yield Fault(f"{where} ends at {kept}", cut(file, kept), shard)
        for _ in range(6):
            page = draw.randrange(-(-size // PAGE_BYTES))
            yield Fault(f"page {page} of {where} is zero", zeroed(file, page), shard)
        yield Fault(f"{where} is missing", file.unlink, shard)
        yield Fault(f"{where} is a folder", made_a_folder(file), shard)
        yield Fault(f"{where} goes on", longer(file), shard)
        # Another set's index fits as a whole; that its shards are others shows at the first.
        yield Fault(f"{where} is the other set's", copied(other / where, file), shard or 0)
    for file, shard in files:
        for beside in range(3):
            if beside != shard:
                source = good / shard_name(beside) / file.name
                yield Fault(f"{file.name} of {beside} in {shard}", copied(source, file), shard)
                yield Fault(f"{file.name} of {beside}, {shard}", swapped(source, file), shard)
    for shard in range(3):
        folder = good / shard_name(shard)
        yield Fault(f"shard {shard} is missing", lambda folder=folder: shutil.rmtree(folder), None)
        yield Fault(f"shard {shard} is empty", emptied(folder), shard)
        source = other / folder.name
        yield Fault(f"shard {shard} is the other set's", replaced(source, folder), shard)
        for beside in range(3):
            if beside != shard:
                source = good / shard_name(beside)
                yield Fault(f"shard {shard} is {beside}", replaced(source, folder), shard)
        for name in ("notes.txt", ".hidden", "tokens.u16.bak", "frames.bin.tmp"):
            yield Fault(f"{name} in {shard}", lambda file=folder / name: file.touch(), shard)
    for name in ("notes.txt", ".hidden", "index.json.bak", ".00003.tmp-1", "00003", "3"):
        yield Fault(f"{name} in the set", lambda file=good / name: file.touch(), None)
    yield Fault(
        "a shard was added after the index",
        lambda: shutil.copytree(other / "00000", good / "00003"),
        None,
    )


def test_each_of_a_thousand_single_faults_is_found(sets: tuple[Path, Path], tmp_path: Path) -> None:
    good, other = sets
    spare = shutil.copytree(good, tmp_path / "spare")
    count, missed = 0, []
    for fault in faults(good, other, random.Random(0)):
        fault.hurt()
        count += 1
        try:
            tokens = TokenSet(good, frames=True)
            if fault.shard is not None:
                first = tokens._first_clips[fault.shard]
                tokens.pixels(first, 0, 1)
                tokens.window(first, 0, 1)
            missed.append(fault.what)
        except ValueError as error:
            if str(good) not in str(error):
                missed.append(f"{fault.what}: {error}")
        restore(spare, good)
    assert missed == []
    assert count >= 1000
    for clip, length in enumerate(length for lengths in LENGTHS for length in lengths):
        assert TokenSet(good, frames=True).window(clip, 0, length).shape == (length, 4, 4)


def test_a_fault_hides_no_other_shard(sets: tuple[Path, Path], tmp_path: Path) -> None:
    good, _ = sets
    hurt = shutil.copytree(good, tmp_path / "hurt")
    expected = TokenSet(good, frames=True)
    flipped(hurt / "00001/tokens.u16", 5, 1)()
    tokens = TokenSet(hurt, frames=True)
    for clip in (0, 1, 3, 4, 5):
        assert torch.equal(tokens.window(clip, 0, 1), expected.window(clip, 0, 1))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"00001/tokens\.u16 is damaged"):
            tokens.window(2, 0, 1)


def restore(spare: Path, good: Path) -> None:
    """Put back what differs; the times of files are compared, as a copy keeps them."""
    wanted = {path.relative_to(spare): path for path in spare.rglob("*")}
    for path in sorted(good.rglob("*"), reverse=True):
        source = wanted.get(path.relative_to(good))
        if source is None or path.is_dir() != source.is_dir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, source in sorted(wanted.items()):
        if source.is_dir():
            (good / name).mkdir(exist_ok=True)
        elif not (good / name).exists() or stamp(source) != stamp(good / name):
            shutil.copy2(source, good / name)


def stamp(file: Path) -> tuple[int, int]:
    return file.stat().st_size, file.stat().st_mtime_ns


@contextmanager
def content(file: Path) -> Iterator[bytearray]:
    data = bytearray(file.read_bytes())
    yield data
    file.write_bytes(data)


def flipped(file: Path, at: int, bit: int) -> Callable[[], None]:
    def hurt() -> None:
        with content(file) as data:
            data[at] ^= 1 << bit

    return hurt


def cut(file: Path, size: int) -> Callable[[], None]:
    return lambda: os.truncate(file, size)


def zeroed(file: Path, page: int) -> Callable[[], None]:
    def hurt() -> None:
        with content(file) as data:
            rest = len(data) - page * PAGE_BYTES
            data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes(min(rest, PAGE_BYTES))

    return hurt


def longer(file: Path) -> Callable[[], None]:
    def hurt() -> None:
        with content(file) as data:
            data += b"\0"

    return hurt


def copied(source: Path, file: Path) -> Callable[[], None]:
    return lambda: file.write_bytes(source.read_bytes()) and None


def swapped(one: Path, other: Path) -> Callable[[], None]:
    def hurt() -> None:
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)

    return hurt


def made_a_folder(file: Path) -> Callable[[], None]:
    def hurt() -> None:
        file.unlink()
        file.mkdir()

    return hurt


def emptied(folder: Path) -> Callable[[], None]:
    def hurt() -> None:
        shutil.rmtree(folder)
        folder.mkdir()

    return hurt


def replaced(source: Path, folder: Path) -> Callable[[], None]:
    def hurt() -> None:
        shutil.rmtree(folder)
        shutil.copytree(source, folder)

    return hurt
