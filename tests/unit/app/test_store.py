"""Files of visitors: where they lie, whose they are, when they go."""

import os
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from toto.app import ownership
from toto.app.ownership import NotYoursError, Ownership
from toto.app.store import PREFIX, Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Store(max_bytes=1000) as store:
        yield store


def test_only_its_user_can_enter(store: Store, tmp_path: Path) -> None:
    path = store.add(BytesIO(b"x"), "a.mp4")
    inside = [*tmp_path.iterdir(), store.files, store.scratch, path.parent]
    assert {folder.stat().st_mode & 0o777 for folder in inside} == {0o700}
    assert len(path.parent.name) == 64
    assert path.parent != store.add(BytesIO(b"x"), "a.mp4").parent


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("a.mp4", "a.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a b.mp4", "a_b.mp4"),
        ("..", "file"),
        ("", "file"),
        (".bashrc", "bashrc"),
        ("a\0b\nc.mp4", "a_b_c.mp4"),
        ("\u202egpj.exe", "_gpj.exe"),
        ("x" * 500 + ".mp4", "x" * 96 + ".mp4"),
        ("/", "file"),
    ],
)
def test_names_are_tamed(said: str, kept: str, store: Store) -> None:
    assert store.add(BytesIO(b"x"), said).name == kept


def test_a_path_is_told_by_its_text(store: Store) -> None:
    path = store.add(BytesIO(b"x"), "a.mp4")
    tag, folder = path.parent.name, str(path.parent)
    assert store.tag_of(str(path)) == tag
    assert store.tag_of(f"{folder}/another") == tag
    for other in (
        *(folder, f"{folder}/", f"{folder}/.", f"{folder}/..", f"{folder}/../x", f"{folder}//x"),
        *(f"{folder}/a/b", f"{folder}/a\\b", f"{folder}/a\0b", f"{store.files}/x/a", "a.mp4", ""),
        *(f"/{path}", f" {path}", str(path).upper(), f"file://{path}", f"{store.scratch}/{tag}/a"),
    ):
        assert store.tag_of(other) is None, other


def test_it_is_full_when_it_is(store: Store) -> None:
    assert not store.full()
    store.add(BytesIO(bytes(999)), "a")
    assert not store.full()
    (store.scratch / "b").write_bytes(b"x")
    assert store.full()


def test_what_nobody_touches_goes(store: Store) -> None:
    old, kept, new = (store.add(BytesIO(b"x"), "a") for _ in range(3))
    (store.scratch / "left").write_text("x")
    long_ago = time.time() - 100
    for path in (old.parent, kept.parent, store.scratch / "left"):
        os.utime(path, (long_ago, long_ago))
    store.sweep(50, but={kept.parent.name})
    assert (old.exists(), kept.exists(), new.exists()) == (False, True, True)
    assert list(store.scratch.iterdir()) == []


def test_folders_of_killed_servers_go_and_no_others(store: Store, tmp_path: Path) -> None:
    dead = tmp_path / f"{PREFIX}dead"
    (dead / "files").mkdir(parents=True)
    (dead / ".lock").touch()
    strange = tmp_path / f"{PREFIX}strange"
    strange.mkdir()
    link = tmp_path / f"{PREFIX}link"
    link.symlink_to(tmp_path / "elsewhere")
    with Store(max_bytes=1):
        assert not dead.exists()
        assert strange.exists()
        assert store.files.exists()


def test_a_file_is_for_who_sent_it_or_was_shown_it(store: Store) -> None:
    public = store.add(BytesIO(b"x"), "page")
    owned = Ownership(store)
    path = store.add(BytesIO(b"x"), "a")
    assert owned.file(str(public), "ann") == public
    for who in ("ann", "bob"):
        with pytest.raises(NotYoursError):
            owned.file(str(path), who)
    owned.give(path.parent.name, "ann")
    assert owned.file(str(path), "ann") == path
    with pytest.raises(NotYoursError):
        owned.file(str(path), "bob")
    with pytest.raises(NotYoursError):
        owned.file("/etc/passwd", "ann")


def test_the_page_s_own_files_stay(store: Store) -> None:
    public = store.add(BytesIO(b"x"), "page")
    owned = Ownership(store)
    path = store.add(BytesIO(b"x"), "a")
    owned.give(path.parent.name, "ann")
    long_ago = time.time() - 100
    for each in (public, path):
        os.utime(each.parent, (long_ago, long_ago))
    owned.sweep(50)
    assert (public.exists(), path.exists()) == (True, False)
    with pytest.raises(NotYoursError):
        owned.file(str(path), "ann")


def test_a_session_is_the_first_s_who_names_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned = Ownership(store)
    owned.claim("abcd", "ann")
    owned.claim("abcd", "ann")
    owned.require("abcd", "ann")
    for refused in (
        lambda: owned.claim("abcd", "bob"),
        lambda: owned.require("abcd", "bob"),
        lambda: owned.require("efgh", "ann"),
        lambda: owned.require(None, "ann"),
        lambda: owned.claim("a b c d", "ann"),
        lambda: owned.claim(["abcd"], "ann"),
    ):
        with pytest.raises(NotYoursError):
            refused()
    monkeypatch.setattr(ownership, "MOST_SESSIONS", 2)
    owned.claim("efgh", "ann")
    owned.claim("abcd", "ann")
    owned.claim("ijkl", "bob")
    owned.require("abcd", "ann")
    with pytest.raises(NotYoursError):
        owned.require("efgh", "ann")
