"""Token sets on object stores: fetched shard by shard into a local cache.

Any address that fsspec knows will do, such as `s3://bucket/folder`; fsspec comes with the extra
`scale` and is imported only here. Objects are read whole and never listed or written, except where
a caller asks what there is. The cache is keyed by what a shard is (the hash of its `shard.json`)
and not by where it came from, so that an address whose content changes never meets an old copy.
Nothing in it is trusted: `TokenSet` verifies a copy as it does any other shard.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toto.data.shard_files import FACTS, FRAMES, RECORDS, TOKENS
from toto.runtime import durable


def is_address(path: str) -> bool:
    """Whether this is an address for fsspec, and no local path."""
    return "://" in path


def join(shards: str | Path, name: str) -> str:
    """Name what lies below a folder or an address; an empty name is the folder itself."""
    return f"{str(shards).rstrip('/')}/{name}".rstrip("/")


def cache_folder() -> Path:
    """Folder of fetched shards: below $TOTO_CACHE, or ~/.cache/toto."""
    chosen = os.environ.get("TOTO_CACHE")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "toto") / "shards"


class Mirror:
    """One token set's address, and the copies of its shards on this machine.

    Raises:
        ValueError: if fsspec, or what it needs for this kind of address, is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._files, self._root = open_address(self.address)
        self._cache = cache_folder()

    def read(self, name: str) -> bytes:
        """Read one object below the address, afresh.

        Raises:
            ValueError: if it cannot be read.
        """
        with _explain(f"{self.address}/{name}"):
            return self._files.cat_file(f"{self._root}/{name}")

    def shard(self, name: str, sha256: str, *, frames: bool) -> Path:
        """Fetch what is not there yet of a shard; nothing is verified.

        Args:
            name: of the shard below the address.
            sha256: of its `shard.json`.
            frames: whether its frames are wanted too.

        Returns:
            Its folder in the cache.

        Raises:
            ValueError: if an object cannot be read.
            DiskFullError: if the disk of the cache is full.
        """
        folder = self._folder(sha256)
        for file in (FACTS, RECORDS, TOKENS, FRAMES) if frames else (FACTS, RECORDS, TOKENS):
            if not (folder / file).exists():
                self._fetch(f"{name}/{file}", folder / file)
        return folder

    def forget(self, sha256: str) -> None:
        """Remove a shard's copy, so that it is fetched again."""
        shutil.rmtree(self._folder(sha256), ignore_errors=True)

    def _folder(self, sha256: str) -> Path:
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise ValueError(f"{self.address}: {sha256!r} in its index is no sha256")
        return self._cache / sha256

    def _fetch(self, name: str, to: Path) -> None:
        durable.make_folder(to.parent)
        temporary = self._cache / f".{to.parent.name}.tmp-{uuid.uuid4().hex}"
        try:
            with durable.explain_disk_errors(temporary), temporary.open("xb") as local:
                for part in self._parts(name):
                    local.write(part)
                local.flush()
                os.fsync(local.fileno())
            durable.make_folder(to.parent)  # another process may have forgotten it meanwhile
            os.replace(temporary, to)
        finally:
            temporary.unlink(missing_ok=True)

    def _parts(self, name: str) -> Iterator[bytes]:
        # Apart from the writing, so that a lost connection is not taken for a disk's failure.
        with _explain(f"{self.address}/{name}"):
            remote = self._files.open(f"{self._root}/{name}", "rb")
        with remote:
            while True:
                with _explain(f"{self.address}/{name}"):
                    part = remote.read(2**22)
                if not part:
                    return
                yield part


def open_address(address: str) -> tuple[Any, str]:
    """Open the file system of an address.

    Returns:
        fsspec's file system, and the path of the address on it.

    Raises:
        ValueError: if fsspec, or what it needs for this kind of address, is not installed.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ValueError(
            f"{address} is read with fsspec; pip install 'toto-video[scale]'"
        ) from error
    if "::" in address:
        raise ValueError(f"{address}: chained addresses are not read; name the store itself")
    try:
        files, root = url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{address} cannot be opened: {error}") from error
    return files, str(root).rstrip("/")


def names_below(shards: str | Path, file: str) -> list[str]:
    """List the folders below a folder or an address that hold a file of this name.

    They are names for `join`; that of the folder itself is empty.

    Raises:
        ValueError: if the address cannot be listed.
    """
    if not is_address(str(shards)):
        names = [path.parent.relative_to(shards).as_posix() for path in Path(shards).rglob(file)]
        return sorted("" if name == "." else name for name in names)
    files, root = open_address(str(shards).rstrip("/"))
    with _explain(str(shards)):
        found = [path for path in files.find(root) if path.rpartition("/")[2] == file]
    return sorted(path.removeprefix(root).strip("/").rpartition("/")[0] for path in found)


def copy_folder(shards: str | Path, name: str, to: Path) -> None:
    """Copy a small folder from below a folder or an address, such as the tokenizer of the shards.

    Nothing says what its content must be: the caller compares it with what the shards name.

    Raises:
        ValueError: if it is not there or cannot be read.
    """
    source = join(shards, name)
    if not is_address(source):
        if not Path(source).is_dir():
            raise ValueError(f"{source} is missing: shards go with their {name}")
        shutil.copytree(source, to, dirs_exist_ok=True)
        return
    files, root = open_address(source)
    with _explain(source):
        found = sorted(files.find(root))
    if not found:
        raise ValueError(f"{source} is missing: shards go with their {name}")
    for path in found:
        below = Path(path.removeprefix(root).strip("/"))
        if ".." in below.parts:
            raise ValueError(f"{source} holds {below}, which leads out of it")
        with _explain(f"{source}/{below}"):
            data = files.cat_file(path)
        durable.make_folder((to / below).parent)
        durable.write_bytes(to / below, data)


@contextmanager
def _explain(address: str) -> Iterator[None]:
    """Let a failed read of a remote object be one line that names it."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{address} cannot be read: {error!r}") from error
