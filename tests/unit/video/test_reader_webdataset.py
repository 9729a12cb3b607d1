"""WebDataset: samples of tar archives by their first bytes, labels beside them."""

from pathlib import Path

import pytest
from made_datasets import JPEG, MP4, put, tar

from toto.video.datasets.webdataset import WebDataset
from toto.video.decode import Decoder
from toto.video.entry import Entry
from toto.video.ingest import by_file, rows_of_file

SAMPLES = [
    ("a/000.json", b'{"label": 3, "class": "x"}'),
    ("a/000.jpg", JPEG),
    ("a/000.seg.png", JPEG),  # sniffed: what it is called does not matter
    ("a/001.cls", b" 12\n"),
    ("a/001.mp4", MP4),
    ("a/001.json", b'{"label": "believed after .cls"}'),
    ("a/001.txt", b"a caption"),
    ("b/001.mkv", b"no video at all"),
    ("b/._001.mkv", b"what macOS adds"),
    ("b/002.npy", b"\x93NUMPY"),
    ("003.jpg", JPEG),
    ("003.json", b"{"),
    ("004", MP4),
    ("005.webp", b"RIFF\0\0\0\0WEBP" + bytes(20)),
    ("005.cls", b""),
    ("005.json", b"[1]"),
]
MEMBERS = [
    ("a/000.jpg", "image", "3"),
    ("a/000.seg.png", "image", "3"),
    ("a/001.mp4", "video", "12"),
    ("b/001.mkv", "video", None),
    ("003.jpg", "image", None),
    ("004", "video", None),
    ("005.webp", "image", None),
]


@pytest.mark.parametrize("name", ["x/train-0.tar", "x/train-0.tar.gz", "x/train-0.tgz"])
def test_samples_and_their_labels(tmp_path: Path, name: str) -> None:
    tar(tmp_path / name, SAMPLES, "w" if name.endswith(".tar") else "w:gz")
    put(tmp_path, "x/train-0.jpg", JPEG)
    entries = WebDataset(root=tmp_path).entries()
    assert list(entries) == [
        Entry(path=f"{name}#{member}", clip=f"{name}#{member}", kind=kind, label=label)  # pyright: ignore
        for member, kind, label in MEMBERS
    ]


def test_other_labels(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", SAMPLES)
    by_key = [entry.label for entry in WebDataset(root=tmp_path, label_key="class").entries()]
    assert by_key == ["x", "x", "12", None, None, None, None]
    folders = WebDataset(root=tmp_path, label_is_folder=True, split="val").entries()
    assert [(entry.label, entry.split) for entry in folders] == [
        (label, "val") for label in ("a", "a", "a", "b", None, None, None)
    ]


def test_archives_are_chosen_by_a_pattern_and_come_in_order(tmp_path: Path) -> None:
    for name in ("val-0.tar", "deep/train-1.tar", "train-0.tar", "train-0.zip"):
        tar(tmp_path / name, [("a.jpg", JPEG)])
    paths = [entry.path for entry in WebDataset(root=tmp_path, pattern="train-*.tar").entries()]
    assert paths == ["deep/train-1.tar#a.jpg", "train-0.tar#a.jpg"]
    with pytest.raises(ValueError, match=r"has no archive test-\* \(\.tar, \.tar\.gz or \.tgz\)"):
        list(WebDataset(root=tmp_path, pattern="test-*").entries())


def test_an_archive_that_is_refused_costs_itself_alone(tmp_path: Path) -> None:
    whole = tar(tmp_path / "0.tar", [("a.jpg", JPEG), ("b.jpg", JPEG * 20)]).read_bytes()
    put(tmp_path, "1.tar", whole[:1200])
    tar(tmp_path / "2.tar", [("../../a.jpg", JPEG)])
    tar(tmp_path / "3.tar", [("c.jpg", JPEG)])
    entries = list(WebDataset(root=tmp_path).entries())
    assert [entry.path for entry in entries] == [
        "0.tar#a.jpg",
        "0.tar#b.jpg",
        "1.tar#",
        "2.tar#",
        "3.tar#c.jpg",
    ]
    with Decoder() as decoder:
        rows = [rows_of_file(decoder, tmp_path, "w", file)[0] for file in by_file(entries)]
    reasons = {row.path: row.reason or "" for row in rows if row.status == "refused"}
    assert "1.tar is cut off" in reasons["1.tar#"]
    assert "member '../../a.jpg' would lie outside of its folder" in reasons["2.tar#"]


def test_names_that_are_not_utf8_are_refused_one_by_one(tmp_path: Path) -> None:
    name = b"\xff.jpg".decode(errors="surrogateescape")
    tar(tmp_path / "0.tar", [(name, JPEG), ("b.jpg", JPEG)])
    entries = list(WebDataset(root=tmp_path).entries())
    assert [entry.path for entry in entries] == [f"0.tar#{name}", "0.tar#b.jpg"]
    with Decoder() as decoder:
        row = rows_of_file(decoder, tmp_path, "w", entries[:1])[0]
    assert (row.status, row.reason) == ("refused", "its name is not UTF-8; rename it")
