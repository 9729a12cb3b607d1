"""The private folder of one server: what visitors sent it, and what the page made for them."""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Self

PREFIX = "toto-app-"
_TAG = re.compile(r"[0-9a-f]{64}")
_DULL = re.compile(r"[^A-Za-z0-9._-]+")


class Store:
    """A folder that only this user can enter, and that goes with the server.

    A file lies in a folder of its own, the tag, whose name nobody can guess: 64 hex digits. Gradio
    keeps to the same form for what the page shows, so that one rule holds for both.

    Attributes:
        files: folder of all tags.
        scratch: folder for temporary files of the page.
        max_bytes: what they may take together.
    """

    def __init__(self, *, max_bytes: int) -> None:
        _sweep_dead(Path(tempfile.gettempdir()))
        self.max_bytes = max_bytes
        made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}")).resolve()
        self._lock = _locked(made)
        # Under its name only now, or another server would take it for a dead one's.
        self._root = made.rename(made.with_name(made.name.removeprefix(".")))
        self.files, self.scratch = self._root / "files", self._root / "scratch"
        self.files.mkdir(mode=0o700)
        self.scratch.mkdir(mode=0o700)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete all of it."""
        shutil.rmtree(self._root, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def tags(self) -> set[str]:
        """Say which tags there are."""
        return {entry.name for entry in os.scandir(self.files) if _TAG.fullmatch(entry.name)}

    def tag_of(self, path: str) -> str | None:
        """Say under which tag a path lies; None if it is not that of a file here.

        It is told by its text alone, so a path with a step back in it is none of ours.
        """
        tag, _, name = path.removeprefix(f"{self.files}/").partition("/")
        ours = path.startswith(f"{self.files}/") and _TAG.fullmatch(tag)
        return (
            tag if ours and name not in {"", ".", ".."} and not set(name) & set("/\\\0") else None
        )

    def full(self) -> bool:
        """Whether no more is taken in."""
        return _bytes_below(self._root) >= self.max_bytes

    def add(self, file: IO[bytes], name: str) -> Path:
        """Keep a visitor's file, under a tame form of the name that they gave."""
        folder = self.files / secrets.token_hex(32)
        folder.mkdir(mode=0o700)
        ending = _DULL.sub("_", re.split(r"[/\\]", name)[-1])[-100:].lstrip(".") or "file"
        with open(folder / ending, "xb") as copy:
            shutil.copyfileobj(file, copy)
        return folder / ending

    def sweep(self, keep_s: float, *, but: Iterable[str] = ()) -> None:
        """Delete what has not changed for so many seconds, except some tags."""
        oldest, kept = time.time() - keep_s, set(but)
        for parent in (self.files, self.scratch):
            for entry in os.scandir(parent):
                with contextlib.suppress(FileNotFoundError):
                    if entry.name in kept or entry.stat(follow_symlinks=False).st_mtime > oldest:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        os.unlink(entry.path)


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in _walk(folder):
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total


def _walk(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)


def _locked(folder: Path) -> int | None:
    """Hold a lock in a folder, which ends with the process whatever way that dies."""
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _sweep_dead(parent: Path) -> None:
    """Delete the folders of servers that were killed."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if status.st_uid != os.getuid() or not (folder / ".lock").is_file():
                continue
            lock = _locked(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
