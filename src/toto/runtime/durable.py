"""Files that are whole or absent: a reader never meets a half-written one under a final name.

The order is always the same, since a crash or a power cut may come between any two calls: write
under a temporary name, fsync, rename, fsync the folder that holds the name.
"""

import errno
import hashlib
import json
import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class DiskFullError(OSError):
    """The disk, or the user's quota on it, has no room left; the message has path and bytes."""


@contextmanager
def explain_disk_errors(path: Path, *, needed_bytes: int = 0) -> Iterator[None]:
    """Let an `OSError` inside name its file, and a full disk be a `DiskFullError`.

    Args:
        path: what is being written.
        needed_bytes: its size; 0 where only a name or a few bytes are written.

    Raises:
        DiskFullError: if the disk or the quota is full (ENOSPC, EDQUOT).
        OSError: any other failure, unchanged but for the file's name where it had none.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(path, needed_bytes) from error
        if error.filename is None:
            error.filename = str(path)
        raise


def require_space(folder: Path, *, needed_bytes: int) -> None:
    """Refuse early what would not fit, before anything is written.

    Raises:
        DiskFullError: if the disk of `folder` has fewer free bytes than needed.
    """
    if shutil.disk_usage(folder).free < needed_bytes:
        raise _disk_full(folder, needed_bytes)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, and force its name to disk; one that exists is kept."""
    if not path.is_dir():
        with explain_disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            _sync(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that does not exist yet, without forcing it to disk.

    For the files of a temporary folder: `commit_folder` forces them to disk all together.

    Raises:
        DiskFullError: if the disk is full; the part that was written stays.
        OSError: if the file exists, or the write fails for another reason.
    """
    with explain_disk_errors(path, needed_bytes=len(data)):
        _create(path, data)


def force_to_disk(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, would outlive a power cut.

    Raises:
        DiskFullError: if the disk turns out to be full only now, as on a network it may.
        OSError: if the disk fails.
    """
    with explain_disk_errors(path):
        _sync(path)


def write_bytes(path: Path, data: bytes) -> None:
    """Make or replace a file; afterwards it holds the old content or the new one, never a mix.

    Raises:
        DiskFullError: if the disk is full; the old content stands.
        OSError: if the write fails for another reason; the old content stands.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with explain_disk_errors(path, needed_bytes=len(data)):
            _create(temporary, data)
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Make or replace a JSON file, as `write_bytes` does."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def append(path: Path, data: bytes) -> None:
    """Add to the end of a file: all of it, or, if the write fails, nothing.

    The data has reached the operating system when this returns, so it outlives the process; it is
    not forced to disk, so the last lines may be lost in a power cut.

    Raises:
        DiskFullError: if the disk is full; the file is as before.
        OSError: if the write fails for another reason; the file is as before.
    """
    with explain_disk_errors(path, needed_bytes=len(data)):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
        try:
            before = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, data)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)


def commit_folder(temporary: Path, final: Path, *, what: str = "folder") -> None:
    """Give a finished folder its final name, once all that is in it is on disk.

    Args:
        temporary: the folder, beside `final`; nothing may be writing to it any more.
        final: the name that makes it count.
        what: what kind of folder this is; begins the names of the crash points.

    Raises:
        ValueError: if `final` exists.
        DiskFullError: if the disk is full.
    """
    if os.path.lexists(final):
        raise ValueError(f"{final} exists already; remove it or choose another name")
    with explain_disk_errors(final):
        crash_point(f"{what}.before_fsync")
        for path in sorted(temporary.rglob("*"), reverse=True):
            _sync(path)
        _sync(temporary)
        crash_point(f"{what}.before_rename")
        rename(temporary, final)
        crash_point(f"{what}.after_rename")


def rename(old: Path, new: Path) -> None:
    """Rename within a folder, and force the new name to disk."""
    os.rename(old, new)
    _sync(new.parent)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crash_point(name: str) -> None:
    """Die here if the environment asks for it: the fault tests' way to stop at an exact place.

    `TOTO_CRASH_AT="checkpoint.before_rename:3"` kills the process the third time it passes the
    point of that name, as a power switch would: no cleanup, no `finally`.
    """
    wanted, _, times = os.environ.get("TOTO_CRASH_AT", "").partition(":")
    if wanted != name:
        return
    if int(times or 1) > 1:
        os.environ["TOTO_CRASH_AT"] = f"{name}:{int(times) - 1}"
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def _create(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    # One call may write less than it was given, most of all on a disk that is nearly full.
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_full(path: Path, needed_bytes: int) -> DiskFullError:
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return DiskFullError(
        errno.ENOSPC,
        f"{path}: the disk or the quota is full ({needed_bytes} bytes needed, "
        f"{shutil.disk_usage(there).free} free); free space there or choose another folder",
    )
