"""Plain folders: every file, in one order, by its first bytes and never by its name."""

import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import made_clips
import pytest
from made_datasets import JPEG, MP4, put

from toto.video.datasets.folder import Folder
from toto.video.datasets.listing import files_below
from toto.video.decode import Decoder
from toto.video.entry import Entry
from toto.video.ingest import by_file, rows_of_file
from toto.video.manifest import Row, read_manifest, write_manifest


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything that people's folders hold."""
    root = tmp_path_factory.mktemp("videos")
    good = made_clips.make(root / "good.mp4").read_bytes()
    put(root, "walk/good.mp4", good)
    put(root, ".cache/hidden.mp4", good)
    put(root, ".hidden.mp4", good)
    put(root, "named as text.txt", good)
    put(root, "empty.mp4")
    put(root, "lost index.mp4", good[: len(good) // 2])
    put(root, "picture.mp4", JPEG)
    put(root, "playlist.mp4", "#EXTM3U\n#EXTINF:1,\nwalk/good.mp4\n")
    put(root, "read me.md", "These are videos.\n")
    (root / "gone.mp4").symlink_to("nowhere.mp4")
    (root / "round").symlink_to(".")
    put(root, "line\nbreak.mp4", good)
    os.mkfifo(root / "pipe.mp4")
    damaged = bytearray(good)
    start = damaged.index(b"mdat") + 900
    for at in range(start, start + 300, 3):
        damaged[at] ^= 0x55
    put(root, "damaged.mp4", damaged)
    return root


@pytest.fixture(scope="module")
def rows(root: Path) -> dict[str, Row]:
    with Decoder() as decoder:
        files = by_file(Folder(root=root).entries())
        rows = [rows_of_file(decoder, root, "folder", file)[0] for file in files]
    return {row.path: row for row in rows}


def test_every_file_has_one_row_in_order(root: Path, rows: dict[str, Row]) -> None:
    files = [path for path in root.rglob("*") if not path.is_dir() or path.is_symlink()]
    names = sorted(path.relative_to(root).as_posix() for path in files)
    assert list(rows) == [name for name in names if not name.startswith(".")]
    assert [root / name for name in rows] == Folder(root=root).files()
    assert len(rows) == 13


def test_good_files_are_ok_whatever_their_name(rows: dict[str, Row]) -> None:
    for name in ("good.mp4", "walk/good.mp4", "named as text.txt", "line\nbreak.mp4"):
        assert (rows[name].status, rows[name].reason, rows[name].frames) == ("ok", None, 20)


@pytest.mark.parametrize(
    ("name", "stage", "reason"),
    [
        ("empty.mp4", "sniff", "the file is empty"),
        ("lost index.mp4", "probe", "the mov container cannot be read"),
        ("picture.mp4", "decode", "JPEG"),
        ("playlist.mp4", "sniff", "an HLS playlist, not a video"),
        ("read me.md", "sniff", "a text file, not a video"),
        ("gone.mp4", "open", "No such file or directory"),
        ("round", "open", "it is not a regular file"),
        ("pipe.mp4", "open", "it is not a regular file"),
    ],
)
def test_other_files_are_refused_with_a_reason(
    name: str, stage: str, reason: str, rows: dict[str, Row]
) -> None:
    assert (rows[name].status, rows[name].stage, rows[name].frames) == ("refused", stage, 0)
    assert reason in (rows[name].reason or "")


def test_damage_that_still_decodes_is_written_down(rows: dict[str, Row]) -> None:
    assert rows["damaged.mp4"].status == "ok"
    assert "packets or frames are damaged" in (rows["damaged.mp4"].reason or "")


def test_an_image_is_known_by_its_bytes(root: Path) -> None:
    kinds = {entry.path: entry.kind for entry in Folder(root=root).entries()}
    assert kinds.pop("picture.mp4") == "image"
    assert set(kinds.values()) == {"video"}
    only = Folder(root=root, holds="videos").entries()
    assert {entry.kind for entry in only} == {"video"}


def test_labels_are_the_folders_names(tmp_path: Path) -> None:
    put(tmp_path, "walk/fast/a.mp4", MP4)
    put(tmp_path, "b.mp4", MP4)
    entries = Folder(root=tmp_path, label_is_folder=True, split="test").entries()
    assert [(entry.label, entry.split) for entry in entries] == [(None, "test"), ("fast", "test")]


def test_the_order_is_that_of_whole_paths(tmp_path: Path) -> None:
    names = ["a-b/x", "a.mp4", "a/x", "a/y/z", "a0", "b", "é", "aa"]
    for name in names:
        put(tmp_path, name)
    assert list(files_below(tmp_path)) == sorted(names)


def test_a_tree_deeper_than_pythons_stack_is_walked(tmp_path: Path) -> None:
    put(tmp_path, "d/" * 200 + "a.mp4", MP4)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 120)
    try:
        paths = list(files_below(tmp_path))
    finally:
        sys.setrecursionlimit(limit)
    assert paths == ["d/" * 200 + "a.mp4"]


def test_a_name_that_is_not_utf8_is_listed_as_it_is_and_refused(tmp_path: Path) -> None:
    name = b"\xff.mp4".decode(errors="surrogateescape")
    made_clips.make(tmp_path / "good.mp4")
    put(tmp_path, name, (tmp_path / "good.mp4").read_bytes())
    entries = list(Folder(root=tmp_path).entries())
    assert [entry.path for entry in entries] == ["good.mp4", name]
    with Decoder() as decoder:
        rows = [rows_of_file(decoder, tmp_path, "f", [entry])[0] for entry in entries]
    write_manifest(tmp_path / ".manifest", rows)
    good, bad = read_manifest(tmp_path / ".manifest")
    assert (good.status, bad.status) == ("ok", "refused")
    assert (bad.path, bad.reason) == ("\\udcff.mp4", "its name is not UTF-8; rename it")


def test_entries_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        put(tmp_path, f"{number}/a.mp4", MP4)
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    entries: Iterator[Entry] = Folder(root=tmp_path).entries()
    assert next(entries).path == "0/a.mp4"
    assert len(listed) == 2  # the root and its first folder, nothing ahead


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    put(tmp_path, ".hidden")
    with pytest.raises(ValueError, match="has no file; point to a folder with videos"):
        Folder(root=tmp_path).files()
    with pytest.raises(ValueError, match="nowhere is not a folder; point to a folder with videos"):
        list(Folder(root=tmp_path / "nowhere").entries())
