"""Token sets behind an address, here in fsspec's memory."""

import builtins
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_shards
import pytest
import torch

from toto.data import remote
from toto.data.sealed import seal, unseal
from toto.data.token_set import TokenSet
from toto.runtime.durable import DiskFullError

fsspec = pytest.importorskip("fsspec", reason="the extra `scale` is not installed")
LENGTHS = [[5, 1], [8]]
ADDRESS = "memory://bucket/tokens/made/train"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """fsspec's memory with a token set of two shards that keep frames; the cache is empty."""
    monkeypatch.setenv("TOTO_CACHE", str(tmp_path / "cache"))
    made_shards.token_set(tmp_path / "tokens/made/train", LENGTHS, frames=True)
    files = fsspec.filesystem("memory")
    files.put(str(tmp_path / "tokens"), "/bucket/tokens", recursive=True)
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture
def read(store: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the objects that are read, as they are."""
    names: list[str] = []

    def cat_file(path: str, *args: Any, **options: Any) -> bytes:
        names.append(path.removeprefix("/bucket/tokens/made/train/"))
        return type(store).cat_file(store, path, *args, **options)

    def opened(path: str, *args: Any, **options: Any) -> Any:
        names.append(path.removeprefix("/bucket/tokens/made/train/"))
        return type(store).open(store, path, *args, **options)

    monkeypatch.setattr(store, "cat_file", cat_file)
    monkeypatch.setattr(store, "open", opened)
    return names


def cached(name: str) -> list[Path]:
    return sorted(remote.cache_folder().glob(f"*/{name}"))


def flip(store: Any, name: str) -> None:
    path = f"/bucket/tokens/made/train/{name}"
    data = bytearray(store.cat_file(path))
    data[-1] ^= 1
    store.pipe_file(path, bytes(data))


def test_a_set_reads_the_same_from_afar(store: Any, tmp_path: Path) -> None:
    here = TokenSet(tmp_path / "tokens/made/train", frames=True)
    there = TokenSet(ADDRESS, frames=True)
    assert there.path == ADDRESS
    assert list(there.clips) == list(here.clips)
    assert there.labels("digit").tolist() == here.labels("digit").tolist()
    for clip in range(3):
        length = int(here.lengths[clip])
        assert torch.equal(there.window(clip, 0, length), here.window(clip, 0, length))
        assert torch.equal(there.pixels(clip, 0, length), here.pixels(clip, 0, length))


def test_only_what_is_needed_is_read_and_only_once(read: list[str]) -> None:
    tokens = TokenSet(ADDRESS)
    assert read == ["index.json"]
    tokens.window(2, 0, 1)
    shard = ["00001/shard.json", "00001/clips.parquet", "00001/tokens.u16"]
    assert read == ["index.json", *shard]
    TokenSet(ADDRESS).window(2, 1, 1)
    assert read == ["index.json", *shard, "index.json"]
    TokenSet(ADDRESS, frames=True).pixels(2, 1, 1)
    assert read[len(shard) + 2 :] == ["index.json", "00001/frames.bin"]


def test_nothing_else_is_left_in_the_cache(read: list[str]) -> None:
    TokenSet(ADDRESS).window(0, 0, 1)
    (folder,) = remote.cache_folder().iterdir()
    assert sorted(os.listdir(folder)) == ["clips.parquet", "shard.json", "tokens.u16"]


@pytest.mark.parametrize("name", ["shard.json", "clips.parquet", "tokens.u16"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_copy_is_fetched_again(read: list[str], name: str, how: str) -> None:
    expected = TokenSet(ADDRESS).window(0, 0, 5)
    (file,) = cached(name)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(data if how == "flipped" else data[:-1])
    read.clear()
    assert torch.equal(TokenSet(ADDRESS).window(0, 0, 5), expected)
    fetched = {f"00000/{name}"} if how == "gone" else {path for path in read if "00000" in path}
    assert set(read) == {"index.json", *fetched}
    assert f"00000/{name}" in fetched


@pytest.mark.parametrize("name", ["shard.json", "clips.parquet", "tokens.u16", "frames.bin"])
def test_damage_at_the_address_is_refused(store: Any, name: str) -> None:
    flip(store, f"00000/{name}")
    tokens = TokenSet(ADDRESS, frames=True)
    with pytest.raises(
        ValueError, match=rf"{ADDRESS}/00000 was fetched twice and is damaged \(\S*cache/shards/"
    ):
        tokens.window(0, 0, 1)
    assert tokens.window(2, 0, 1).shape == (1, *made_shards.GRID)


def test_a_changed_set_does_not_meet_its_old_copies(store: Any, tmp_path: Path) -> None:
    TokenSet(ADDRESS).window(0, 0, 5)
    other = made_shards.token_set(tmp_path / "other", [[3], [5, 1]])
    store.rm("/bucket/tokens/made/train", recursive=True)
    store.put(other.path, "/bucket/tokens/made/train", recursive=True)
    assert torch.equal(TokenSet(ADDRESS).window(0, 0, 3), other.window(0, 0, 3))


def test_an_index_at_an_address_can_be_pinned(store: Any) -> None:
    sha256 = hashlib.sha256(store.cat_file("/bucket/tokens/made/train/index.json")).hexdigest()
    assert TokenSet(f"{ADDRESS}#sha256={sha256}").path == ADDRESS
    with pytest.raises(ValueError, match=rf"{ADDRESS}/index\.json is not the pinned one"):
        TokenSet(f"{ADDRESS}#sha256={'0' * 64}")
    flip(store, "index.json")
    with pytest.raises(ValueError, match=rf"{ADDRESS}/index\.json is damaged"):
        TokenSet(ADDRESS)


def test_an_index_cannot_lead_out_of_the_cache(store: Any, tmp_path: Path) -> None:
    path = "/bucket/tokens/made/train/index.json"
    facts = unseal(store.cat_file(path), where="", schema=1)
    store.pipe_file(path, seal({**facts, "shards": ["../../../escaped", "/etc"]}))
    with pytest.raises(ValueError, match=r"train: '\.\./\.\./\.\./escaped' in its index is no sha"):
        TokenSet(ADDRESS).window(0, 0, 1)
    assert not (tmp_path / "cache").exists()


def test_an_address_with_nothing_is_named(store: Any) -> None:
    with pytest.raises(
        ValueError, match=r"memory://bucket/none/index\.json cannot be read: FileNo"
    ):
        TokenSet("memory://bucket/none")
    store.rm("/bucket/tokens/made/train/00001/tokens.u16")
    with pytest.raises(
        ValueError, match=r"train/00001/tokens\.u16 cannot be read: FileNotFoundErr"
    ):
        TokenSet(ADDRESS).window(2, 0, 1)


def test_a_lost_connection_leaves_no_half_file(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = TokenSet(ADDRESS)

    class Broken:
        def __enter__(self) -> "Broken":
            return self

        def __exit__(self, *_: object) -> None: ...
        def read(self, _: int) -> bytes:
            if self.first:
                self.first = False
                return b"half"
            raise ConnectionResetError(errno.ECONNRESET, "reset by peer")

        first = True

    with monkeypatch.context() as patch:
        patch.setattr(store, "open", lambda *_, **__: Broken())
        with pytest.raises(ValueError, match=r"shard\.json cannot be read: ConnectionResetError"):
            tokens.window(0, 0, 1)
    assert [path for path in remote.cache_folder().rglob("*") if path.is_file()] == []
    assert tokens.window(0, 0, 1).shape == (1, *made_shards.GRID)


def test_a_full_disk_of_the_cache_is_named(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tokens = TokenSet(ADDRESS)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"cache.*: the disk or the quota is full"):
        tokens.window(0, 0, 1)


def test_chains_and_unknown_stores_are_refused() -> None:
    with pytest.raises(ValueError, match="simplecache::memory://x: chained addresses are not read"):
        TokenSet("simplecache::memory://x")
    with pytest.raises(
        ValueError, match="nostore://x/y cannot be opened: Protocol not known: nost"
    ):
        TokenSet("nostore://x/y")


def test_fsspec_is_needed_for_addresses_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("fsspec"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ValueError, match=r"s3://x/y is read with fsspec; pip install .toto-video\["
    ):
        TokenSet("s3://x/y")
    tokens = made_shards.token_set(tmp_path / "set", [[2]])
    assert tokens.window(0, 0, 1).shape == (1, *made_shards.GRID)


def test_what_lies_below_is_listed_and_copied(store: Any, tmp_path: Path) -> None:
    for shards in ("memory://bucket/tokens", tmp_path / "tokens"):
        assert remote.names_below(shards, "index.json") == ["made/train"]
        assert remote.names_below(remote.join(shards, "made/train"), "index.json") == [""]
        remote.copy_folder(shards, "made", tmp_path / "copy" / str(type(shards)))
        with pytest.raises(ValueError, match="tokens/tokenizer is missing: shards go with their t"):
            remote.copy_folder(shards, "tokenizer", tmp_path / "copy")
    one, other = sorted((tmp_path / "copy").iterdir())
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) == 9
    for file in files:
        assert (one / file).read_bytes() == (other / file).read_bytes()
