"""Members of tar archives, read where they lie: nothing is ever unpacked to disk.

An archive comes from somewhere else, so it is read by few rules: regular files under plain names,
each once, to a proper end. An archive that breaks one is refused whole, with the reason. The
standard library's reader does not serve here: it takes a damaged header for the end of the
archive, in silence, and reads extended headers of any size into memory.
"""

import contextlib
import functools
import gzip
import os
import re
import weakref
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from toto.video.entry import Kind
from toto.video.limits import DecodeLimits
from toto.video.refused import VideoRefusedError
from toto.video.sniff import HEAD_BYTES, container_of, image_of
from toto.video.source_file import regular_file

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")

_MARK = re.compile(r"\.(?:tar|tar\.gz|tgz)#", re.IGNORECASE)
_OCTAL = re.compile(rb"[0-7]+")
_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]{1,256})=")
_BLOCK = 512
_REGULAR, _FOLDER = b"0\0", b"5"
_SPECIAL = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"M": "a part of a file of another archive",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveLimits:
    """What one archive may cost before it is refused."""

    max_members: int = 1_000_000
    max_member_bytes: int = 1 << 30
    """Bytes of one member that are read; a larger one is listed, and refused when it is read."""
    max_bytes: int = 1 << 40
    """Bytes of the archive, unpacked."""
    max_ratio: int = 50
    """Bytes that a compressed byte may unpack to, beyond the first 16 MiB; media hardly shrink."""
    max_header_bytes: int = 1 << 20
    """Bytes of one extended header, which holds a long name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A regular file in an archive."""

    name: str
    offset: int
    """Of its first byte in the unpacked archive."""
    size: int
    """Bytes."""
    kind: Kind | None
    """What its first bytes are; None if neither a video nor a still image that is read."""


class ArchiveError(ValueError):
    """An archive, or a member of one, that is not read; the message is one line."""


def is_archive(name: str) -> bool:
    """Whether a file is an archive by its name."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def member_of(root: Path, path: str) -> tuple[Path, str | None]:
    """Split the path of an entry into a file on disk and a member of it.

    Returns:
        The archive and the member's name for `a.tar#b.jpg`, else the file and None.
    """
    mark = _MARK.search(path)
    if mark is None:
        return root / path, None
    return root / path[: mark.end() - 1], path[mark.end() :]


def list_members(archive: Path, limits: ArchiveLimits | None = None) -> Mapping[str, Member]:
    """List the regular files of an archive by name, in the order they lie in.

    Raises:
        ArchiveError: if the archive cannot be read to its end, is beyond the limits, or has a
            member that is no regular file, leaves the folder, or comes twice.
    """
    return _index(str(archive), _identity(archive), limits or ArchiveLimits())


def read_member(archive: Path, name: str, limits: ArchiveLimits | None = None) -> bytes:
    """Read one member's bytes.

    A compressed archive is unpacked from its start for a member before the last one read, so read
    its members in the order they lie in.

    Raises:
        ArchiveError: if the archive is refused, has no such member, or the member is too large.
    """
    limits = limits or ArchiveLimits()
    identity = _identity(archive)
    member = _index(str(archive), identity, limits).get(name)
    if member is None:
        raise ArchiveError(f"{archive} has no member {name!r}")
    if member.size > limits.max_member_bytes:
        raise ArchiveError(
            f"{archive}: member {name!r} has {member.size} bytes, "
            f"max_member_bytes is {limits.max_member_bytes}"
        )
    if not _is_compressed(archive):
        with _open(archive, limits) as fd:
            return _Plain(archive, fd).read(member.offset, member.size)
    # The process id: after a fork, two processes would move one file position.
    stream = _kept_stream(str(archive), identity, limits, os.getpid())
    return stream.read(member.offset, member.size)


class _Plain:
    """An archive that is not compressed."""

    def __init__(self, archive: Path, fd: int) -> None:
        self.archive, self.fd = archive, fd

    def read(self, offset: int, count: int) -> bytes:
        """Read exactly so many bytes."""
        pieces = []
        while count:
            # Linux reads no more than 2 GiB at once.
            piece = os.pread(self.fd, min(count, 1 << 30), offset)
            if not piece:
                raise ArchiveError(f"{self.archive} is cut off")
            pieces.append(piece)
            offset, count = offset + len(piece), count - len(piece)
        return b"".join(pieces)

    def skip_zeros(self, offset: int) -> bool:
        """Whether only zeros follow."""
        while piece := os.pread(self.fd, 1 << 20, offset):
            if piece.count(0) != len(piece):
                return False
            offset += len(piece)
        return True


class _Compressed:
    """An archive under gzip: read forward, from the start again to go back."""

    def __init__(self, archive: Path, fd: int, limits: ArchiveLimits) -> None:
        self.archive = archive
        file = os.fdopen(os.dup(fd), "rb")
        self._close = weakref.finalize(self, file.close)
        file.seek(0)
        self._stream = gzip.GzipFile(fileobj=file, mode="rb")
        self._most = min(limits.max_bytes, (16 << 20) + limits.max_ratio * os.fstat(fd).st_size)

    def read(self, offset: int, count: int) -> bytes:
        """Read exactly so many bytes."""
        data = self._unpack(offset, count)
        if len(data) < count:
            raise ArchiveError(f"{self.archive} is cut off")
        return data

    def skip_zeros(self, offset: int) -> bool:
        """Whether only zeros follow; gzip's checksum of the whole is compared on the way."""
        while piece := self._unpack(offset, 1 << 16):
            if piece.count(0) != len(piece):
                return False
            offset += len(piece)
        return True

    def _unpack(self, offset: int, count: int) -> bytes:
        """Read so many bytes, fewer at the end."""
        if offset + count > self._most:
            raise ArchiveError(
                f"{self.archive} unpacks to more than {self._most} bytes, the limit for its size"
            )
        try:
            self._stream.seek(offset)
            return self._stream.read(count)
        except EOFError as error:
            raise ArchiveError(f"{self.archive} is cut off") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ArchiveError(f"{self.archive} is damaged: {error}") from error


@functools.lru_cache(maxsize=2)
def _index(archive: str, identity: tuple[int, ...], limits: ArchiveLimits) -> Mapping[str, Member]:
    """Read an archive's headers once; `identity` makes a changed archive another one."""
    found: dict[str, Member] = {}
    path = Path(archive)
    with _open(path, limits) as fd:
        source = _Compressed(path, fd, limits) if _is_compressed(path) else _Plain(path, fd)
        for member in _members(source, limits):
            if member.name in found:
                raise ArchiveError(f"{archive} has member {member.name!r} twice")
            if len(found) == limits.max_members:
                raise ArchiveError(f"{archive} has more than {limits.max_members} members")
            found[member.name] = member
    return MappingProxyType(found)


@functools.lru_cache(maxsize=1)
def _kept_stream(
    archive: str, identity: tuple[int, ...], limits: ArchiveLimits, pid: int
) -> _Compressed:
    with _open(Path(archive), limits) as fd:
        return _Compressed(Path(archive), fd, limits)


def _members(source: _Plain | _Compressed, limits: ArchiveLimits) -> Iterator[Member]:
    """Walk the headers of an archive to its end mark.

    Source:
        POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar, "Basic
        Tar Format", for long names and large numbers.
    """
    archive = source.archive
    offset = 0
    long_name: str | None = None
    long_size: int | None = None
    while True:
        if offset + _BLOCK > limits.max_bytes:
            raise ArchiveError(f"{archive} has more than {limits.max_bytes} bytes")
        try:
            header = source.read(offset, _BLOCK)
        except ArchiveError as error:
            if not offset:
                raise ArchiveError(f"{archive} is not a tar archive: {error}") from error
            raise
        if not any(header):
            if not source.skip_zeros(offset):
                raise ArchiveError(f"{archive} goes on after its end mark; what follows is lost")
            return
        _require_checksum(archive, header, offset)
        size = _number(archive, header[124:136])
        kind = header[156:157]
        data = offset + _BLOCK
        if kind in b"LxgKX" and size > limits.max_header_bytes:
            raise ArchiveError(f"{archive} has a header of {size} bytes at byte {offset}")
        if kind == b"L":
            long_name = _text(source.read(data, size))
        elif kind in b"xX":
            path, extended = _extended(archive, source.read(data, size))
            long_name, long_size = path or long_name, extended
        elif kind not in b"gK":
            size = size if long_size is None else long_size
            name = _plain_name(archive, long_name or _ustar_name(header))
            long_name = long_size = None
            folder = kind == _FOLDER or (kind == b"\0" and header[:100].rstrip(b"\0")[-1:] == b"/")
            if kind not in _REGULAR and not folder:
                what = _SPECIAL.get(kind, f"of unknown type {kind!r}")
                raise ArchiveError(f"{archive}: member {name!r} is {what}, not a regular file")
            if folder:
                size = 0
            elif not name:
                raise ArchiveError(f"{archive} has a member without a name")
            elif data + size > limits.max_bytes:
                raise ArchiveError(f"{archive} has more than {limits.max_bytes} bytes")
            else:
                head = source.read(data, min(size, HEAD_BYTES))
                yield Member(name=name, offset=data, size=size, kind=_kind(head))
        offset = data + -(-size // _BLOCK) * _BLOCK


def _require_checksum(archive: Path, header: bytes, offset: int) -> None:
    blanked = header[:148] + b" " * 8 + header[156:]
    found = header[148:156].strip(b" \0")
    # Some old writers summed signed bytes.
    sums = (total := sum(blanked), total - 256 * sum(byte > 127 for byte in blanked))
    if not _OCTAL.fullmatch(found) or int(found, 8) not in sums:
        what = "is not a tar archive" if not offset else f"has a damaged header at byte {offset}"
        raise ArchiveError(f"{archive} {what}")


def _number(archive: Path, field: bytes) -> int:
    """Read a size: octal digits, or GNU's base 256 for large ones."""
    if field[0] & 0x80:
        # A negative number comes out as one beyond any limit.
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    if not _OCTAL.fullmatch(digits):
        raise ArchiveError(f"{archive} has a member whose size cannot be read")
    return int(digits, 8)


def _extended(archive: Path, data: bytes) -> tuple[str | None, int | None]:
    """Read path and size from the records of an extended header, `length key=value` each."""
    path, size = None, None
    start, end = 0, len(data.rstrip(b"\0"))
    while start < end:
        match = _RECORD.match(data, start)
        stop = start + int(match[1]) if match else 0
        if match is None or stop <= match.end() or data[stop - 1 : stop] != b"\n":
            raise ArchiveError(f"{archive} has a damaged extended header")
        key, value, start = match[2], data[match.end() : stop - 1], stop
        if key == b"path":
            path = _text(value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise ArchiveError(f"{archive} has a member whose size cannot be read")
            size = int(value)
        elif key.startswith(b"GNU.sparse."):
            raise ArchiveError(f"{archive} has a sparse file, which is not read")
    return path, size


def _ustar_name(header: bytes) -> str:
    prefix = header[345:500] if header[257:263] == b"ustar\0" else b""
    return "/".join(part for part in (_text(prefix), _text(header[:100])) if part)


def _plain_name(archive: Path, name: str) -> str:
    """Take `./` and doubled slashes out of a name.

    Raises:
        ArchiveError: if it is absolute or leaves the folder.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise ArchiveError(f"{archive}: member {name!r} would lie outside of its folder")
    return "/".join(parts)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="surrogateescape")


def _kind(head: bytes) -> Kind | None:
    if image_of(head):
        return "image"
    return "video" if container_of(head) else None


def _is_compressed(archive: Path) -> bool:
    return not archive.name.lower().endswith(".tar")


def _identity(archive: Path) -> tuple[int, ...]:
    try:
        found = archive.stat()
    except OSError as error:
        raise ArchiveError(f"{archive}: {error.strerror or repr(error)}") from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def _open(archive: Path, limits: ArchiveLimits) -> Iterator[int]:
    try:
        with regular_file(archive, DecodeLimits(max_file_bytes=limits.max_bytes)) as fd:
            yield fd
    except VideoRefusedError as refused:
        raise ArchiveError(str(refused)) from refused
