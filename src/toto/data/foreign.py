"""Token files that others publish: commaVQ's arrays and LVM's lines of JSON.

They become ordinary token sets: a model can be trained on them. What is missing is the tokenizer
that made them, so nothing can be decoded or tokenised again; `ForeignFormat.origin` says what is
known of it, and its hash stands where the hash of the weights would.

The files come from strangers. Every length is checked before memory is taken for it, and nothing
is unpickled.
"""

import base64
import hashlib
import io
import json
import math
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from gzip import BadGzipFile, GzipFile
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Int32
from torch import Tensor

from toto.data.shards import Description
from toto.types import TokenGrid

RECORD_BYTES = 16 * 2**20
"""Longest member of an archive, and longest array; a minute of commaVQ has 0.3 MB."""
LINE_BYTES = 4 * 2**20
"""Longest line; one of 16 images has 22 kB."""
ARCHIVE_BYTES = 16 * 2**30
"""Longest unpacked archive; commaVQ's have about 1 GB."""
NAME_BYTES = 4096
"""Longest headers of one member of an archive: its name and what else was noted of it."""
BLOCK = tarfile.BLOCKSIZE
_ARRAY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>[<>|][iu][1248])', 'fortran_order': False, "
    rb"'shape': \((?P<shape>[0-9, ]{0,100})\), \} *\n",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ForeignClip:
    """Tokens of one record."""

    source: str
    """`file`, `archive#member` or `file#line`."""
    sha256: str
    """Of the record's bytes."""
    grid: TokenGrid


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedRecord:
    """A record that is not what its format promises, or the end of a file that broke off."""

    source: str
    reason: str


Record: TypeAlias = ForeignClip | RefusedRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignFormat:
    """One kind of token file."""

    name: str
    vocab_size: int
    patch_px: int
    grid: tuple[int, int]
    """Token rows and columns of a frame."""
    fps: float | None
    """Frames a second; None where it is not known."""
    suffixes: tuple[str, ...]
    """How the names of its files end."""
    origin: str
    """What is known of the tokenizer, in one sentence."""
    read: Callable[["ForeignFormat", Path, str], Iterator[Record]]

    @property
    def digest(self) -> str:
        """Hash of `origin`: the weights that made the tokens are not known."""
        return hashlib.sha256(self.origin.encode()).hexdigest()

    def description(self) -> Description:
        """Say of a shard what can be said."""
        times = "counted, not in seconds" if self.fps is None else f"{self.fps:g} a second"
        return Description(
            tokenizer=self.name,
            tokenizer_digest=self.digest,
            vocab_size=self.vocab_size,
            patch_px=self.patch_px,
            grid=self.grid,
            kind="video",
            precision="unknown",
            resize_filter="unknown",
            decoder=f"none: imported tokens, frames {times}",
        )

    def files(self, root: Path) -> list[tuple[Path, str]]:
        """List the files of this format below `root`, with their names there, in order.

        Raises:
            FileNotFoundError: if there is no `root`.
            ValueError: if none is there.
        """
        if not root.exists():
            raise FileNotFoundError(2, "no such file or folder", str(root))
        if root.is_file():
            return [(root, root.name)]
        found = sorted(
            (path.relative_to(root).as_posix(), path)
            for path in root.rglob("*")
            if _is_tokens(path.name, self.suffixes) and path.is_file()
        )
        if not found:
            raise ValueError(
                f"{root} has no {self.name} files (their names end in {', '.join(self.suffixes)})"
            )
        return [(path, name) for name, path in found]

    def records(self, path: Path, name: str) -> Iterator[Record]:
        """Read a file record by record, good ones and bad ones, in the order they are stored.

        Args:
            path: the file.
            name: what records call it.
        """
        return self.read(self, path, name)

    def clip(self, source: str, data: bytes, codes: np.ndarray) -> Record:
        """Make a clip of a record's numbers, if they are codes of whole frames."""
        tokens = math.prod(self.grid)
        shape = tuple(codes.shape)
        if not codes.size or shape[1:] not in {self.grid, (tokens,)}:
            rows, columns = self.grid
            return RefusedRecord(
                source=source,
                reason=f"an array of {shape} is not frames of {rows} x {columns} tokens",
            )
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= self.vocab_size:
            return RefusedRecord(
                source=source,
                reason=f"codes {low}..{high} lie outside the {self.vocab_size} of {self.name}",
            )
        ids: Int32[Tensor, "T Y X"] = torch.from_numpy(
            codes.astype(np.int32).reshape(-1, *self.grid)
        )
        return ForeignClip(
            source=source,
            sha256=hashlib.sha256(data).hexdigest(),
            grid=TokenGrid(ids=ids, vocab_size=self.vocab_size),
        )


def _is_tokens(name: str, suffixes: tuple[str, ...]) -> bool:
    # Beside each minute's tokens commaVQ keeps the camera's poses.
    return name.endswith(suffixes) and not name.endswith("pose.npy")


def _commavq(kind: ForeignFormat, path: Path, name: str) -> Iterator[Record]:
    """Read one array, or an archive of them."""
    with path.open("rb") as file:
        if path.name.endswith(".npy"):
            yield _array(kind, name, file.read(RECORD_BYTES + 1))
            return
        packed = path.name.endswith("gz")
        stream = cast(BinaryIO, GzipFile(fileobj=file) if packed else file)
        found = 0
        try:
            for member, data in _members(stream):
                if _is_tokens(member, (".npy",)):
                    found += 1
                    yield _array(kind, f"{name}#{member}", data)
        except (ValueError, EOFError, BadGzipFile, zlib.error, tarfile.TarError) as error:
            yield RefusedRecord(source=name, reason=f"broken after {found} arrays: {error}")
        else:
            if not found:
                yield RefusedRecord(source=name, reason="an archive without token arrays (.npy)")


def _array(kind: ForeignFormat, source: str, data: bytes) -> Record:
    try:
        return kind.clip(source, data, _parse_array(data))
    except ValueError as error:
        return RefusedRecord(source=source, reason=str(error))


def _parse_array(data: bytes) -> np.ndarray:
    """Read the bytes of a .npy file of whole numbers, as `numpy.save` writes them.

    numpy's own reader evaluates the header as Python and raises what it likes; this takes the one
    spelling that numpy writes.

    Raises:
        ValueError: if it is anything else.
    """
    if len(data) > RECORD_BYTES:
        raise ValueError(f"longer than {RECORD_BYTES} bytes")
    header = _ARRAY_HEADER.match(data)
    if header is None or header.end() != 10 + int.from_bytes(data[8:10], "little"):
        raise ValueError("not an array of whole numbers as numpy.save writes it (.npy, version 1)")
    dtype = np.dtype(header["dtype"].decode())
    shape = tuple(int(size) for size in header["shape"].replace(b",", b" ").split())
    promised, there = math.prod(shape) * dtype.itemsize, len(data) - header.end()
    if promised != there or not there:
        raise ValueError(f"its header promises {promised} bytes of numbers, {there} are there")
    return np.frombuffer(data, dtype, offset=header.end()).reshape(shape)


def _members(stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Read the files of a tar archive one after the other, in bounded memory.

    `tarfile` reads headers of any length into memory and takes a damaged one for the end of the
    archive; so it only gets to see the few blocks that name one member.

    Raises:
        ValueError: if the archive is damaged, cut short, or holds what is neither file nor folder.
        tarfile.TarError: if a header makes no sense.
    """
    taken, headers = 0, b""
    while True:
        block = _exactly(stream, BLOCK)
        if not headers and not any(block):
            return _require_end(stream, ARCHIVE_BYTES - taken)
        headers += block
        size = tarfile.TarInfo.frombuf(block, "utf-8", "replace").size
        if block[156:157] in b"xgLK":
            # A name too long for its block, times with fractions: they belong to the next header.
            if len(headers) + size > NAME_BYTES:
                raise ValueError(f"headers of more than {NAME_BYTES} bytes")
            content = _exactly(stream, size + -size % BLOCK)
            headers = b"" if block[156:157] == b"g" else headers + content
            continue
        with tarfile.open(fileobj=io.BytesIO(headers), mode="r:", errors="replace") as archive:
            member = archive.next()
        headers = b""
        if member is None or member.issparse() or not (member.isreg() or member.isdir()):
            raise ValueError(f"member {member and member.name!r} is neither a file nor a folder")
        size = member.size if member.isreg() else 0
        if size > RECORD_BYTES:
            raise ValueError(f"member {member.name!r} has {size} bytes, {RECORD_BYTES} at most")
        taken += BLOCK + size
        if taken > ARCHIVE_BYTES:
            raise ValueError(f"more than {ARCHIVE_BYTES} bytes in one archive")
        content = _exactly(stream, size + -size % BLOCK)[:size]
        if member.isreg():
            yield member.name, content


def _exactly(stream: BinaryIO, count: int) -> bytes:
    if count < 0:
        # `read` would take it for all there is.
        raise ValueError(f"a member of {count} bytes")
    data = stream.read(count)
    if len(data) < count:
        raise ValueError("it is cut short")
    return data


def _require_end(stream: BinaryIO, limit: int) -> None:
    """Read what pads an archive, which also lets gzip check its sum."""
    while piece := stream.read(2**16):
        limit -= len(piece)
        if any(piece) or limit < 0:
            raise ValueError("more bytes follow its end")


def _lvm(kind: ForeignFormat, path: Path, name: str) -> Iterator[Record]:
    """Read lines of {"tokens": base64 of little-endian 32-bit codes}."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            source = f"{name}#{number}"
            if len(line) > LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(LINE_BYTES)
                yield RefusedRecord(source=source, reason=f"longer than {LINE_BYTES} bytes")
            elif line.strip():
                try:
                    yield kind.clip(source, line, _parse_line(line, math.prod(kind.grid)))
                except ValueError as error:
                    yield RefusedRecord(source=source, reason=str(error))


def _parse_line(line: bytes, frame_tokens: int) -> np.ndarray:
    try:
        data = base64.b64decode(json.loads(line)["tokens"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f'not a line of {{"tokens": base64}}: {reason}') from error
    if not data or len(data) % (4 * frame_tokens):
        raise ValueError(
            f"{len(data)} bytes are not whole images of {frame_tokens} codes of 32 bits"
        )
    codes = np.frombuffer(data, "<i4")
    if not codes[1::2].any() and codes.any():
        raise ValueError("every second code is 0: the numbers seem to have 64 bits, not 32")
    return codes.reshape(-1, frame_tokens)


FORMATS = {
    "commavq": ForeignFormat(
        name="commavq",
        vocab_size=1024,
        patch_px=16,
        grid=(8, 16),
        fps=20.0,
        suffixes=(".tar.gz", ".tgz", ".tar", ".npy"),
        origin=(
            "The VQ-VAE of commaai/commavq: 1024 codes, 8 x 16 of them a frame of 256 x 128 px, "
            "20 frames a second; published as tokens, so which weights made them is not checked."
        ),
        read=_commavq,
    ),
    "lvm": ForeignFormat(
        name="lvm",
        vocab_size=8192,
        patch_px=16,
        grid=(16, 16),
        fps=None,
        suffixes=(".jsonl",),
        origin=(
            "The VQGAN of ytongbai/LVM: 8192 codes, 16 x 16 of them an image of 256 x 256 px; "
            "published as tokens, so which weights made them is not checked."
        ),
        read=_lvm,
    ),
}
"""Formats by the name that `toto data import` takes."""
