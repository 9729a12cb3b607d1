"""`toto data block` and `toto data duplicates`, from manifests to what they write."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toto.jobs.block import Block
from toto.jobs.duplicates import Duplicates
from toto.video.block_list import BlockList
from toto.video.fingerprint import fingerprint
from toto.video.manifest import Row, write_manifest


def frames(seed: int, count: int = 4) -> np.ndarray:
    """Thumbnails of coarse blocks, another picture each."""
    blocks = np.random.default_rng(seed).integers(0, 256, (count, 12, 12)).astype(np.uint8)
    return np.kron(blocks, np.ones((1, 6, 6), np.uint8))[:, 4:68, 4:68]


def row(clip: str, seed: int | None, **changed) -> Row:
    values = {"source": "web", "sha256": clip.ljust(64, "0"), "status": "ok", "frames": 50}
    printed = None if seed is None else fingerprint(frames(seed))
    return Row(**{**values, "path": clip, "clip": clip, "fingerprint": printed, **changed})


def ingested(folder: Path, *rows: Row) -> Path:
    write_manifest(folder / "manifest.parquet", rows)
    return folder


def test_a_block_list_holds_the_evaluation_splits(tmp_path: Path) -> None:
    data = ingested(
        tmp_path / "data",
        *(
            row(split, number, split=split)
            for number, split in enumerate(["train", "val", "pretrain", "held-out", "test"])
        ),
        row("gone", None, split="val", sha256=None, status="missing", stage="list", reason="gone"),
    )
    ids = tmp_path / "ids.txt"
    ids.write_text("dQw4w9WgXcQ\n")
    out = tmp_path / "block.parquet"
    counts = Block(data=(data,), ids=(ids,)).run(out)
    assert counts == {"clips": 4, "files": 2, "fingerprints": 2}
    assert [one.clip for one in BlockList.open(out).clips] == ["val", "test", "gone", "dQw4w9WgXcQ"]


def test_a_block_list_of_named_splits_finds_copies_of_them(tmp_path: Path) -> None:
    data = ingested(tmp_path / "data", row("a", 1), row("b", 2, split="val"))
    Block(data=(data,), splits=("train",)).run(tmp_path / "block.parquet")
    guard = BlockList.open(tmp_path / "block.parquet")
    assert "looks like web/train/a" in (guard.match(row("x", 1)) or "")
    assert guard.match(row("x", 2)) is None


def test_a_set_without_evaluation_splits_is_refused(tmp_path: Path) -> None:
    data = ingested(tmp_path / "data", row("a", 1))
    message = r"data has no split to evaluate on, only train; name those to block with --splits"
    with pytest.raises(ValueError, match=message):
        Block(data=(data,)).run(tmp_path / "block.parquet")
    with pytest.raises(ValueError, match=r"has no split val or test, only train"):
        Block(data=(data,), splits=("val", "test")).run(tmp_path / "block.parquet")
    assert not (tmp_path / "block.parquet").exists()


def test_a_block_list_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nothing to block: give folders of `toto ingest`"):
        Block()


def test_a_block_list_is_one_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder; name a file such as .*block\.parquet"):
        Block(data=(tmp_path,)).run(tmp_path)


@pytest.mark.parametrize("job", [Block, Duplicates])
def test_a_folder_that_was_not_ingested_is_refused(tmp_path: Path, job) -> None:
    with pytest.raises(ValueError, match=r"has no manifest\.parquet; `toto ingest` writes it"):
        job(data=(tmp_path,)).run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """One set, and another that has the first's clips again in four ways, and two of its own."""
    flipped = fingerprint(frames(2)[:, :, ::-1])
    # A part of 50 x 50 of the 64 pixels, drawn at full size again.
    part = frames(3)[:, 7:57, 7:57][:, np.arange(64) * 50 // 64][:, :, np.arange(64) * 50 // 64]
    one = ingested(tmp_path / "one", *(row(f"a{seed}", seed) for seed in range(5)))
    other = ingested(
        tmp_path / "other",
        row("b0", 0, source="copies", sha256="a0".ljust(64, "0")),
        row("b1", 1, source="copies"),
        row("b2", None, source="copies", fingerprint=flipped),
        row("b3", None, source="copies", fingerprint=fingerprint(part)),
        row("b8", 8, source="copies"),
        row("b9", 9, source="copies", split="val"),
    )
    return one, other


def test_duplicates_are_told_apart_by_kind(folders: tuple[Path, Path], tmp_path: Path) -> None:
    result = Duplicates(data=folders).run(tmp_path / "out")
    found = {(pair["clip"], pair["copy_of"], pair["kind"]) for pair in result["pairs"]}
    assert {pair[2] for pair in found} == {"exact", "near", "flipped", "cropped"}
    assert ("copies/train/b0", "web/train/a0", "exact") in found
    assert ("copies/train/b3", "web/train/a3", "cropped") in found
    both_ways = {(frozenset(pair[:2]), pair[2]) for pair in found}
    assert (frozenset(["copies/train/b1", "web/train/a1"]), "near") in both_ways
    assert (frozenset(["copies/train/b2", "web/train/a2"]), "flipped") in both_ways
    assert len(found) == len(both_ways) == 4
    assert (result["clips"], result["compared"]) == (11, 11)


def test_duplicates_are_written_for_programs_and_for_people(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    result = Duplicates(data=folders).run(tmp_path / "out")
    assert (
        json.loads((tmp_path / "out/results/duplicates.json").read_text())["counts"]
        == (result["counts"])
    )
    page = (tmp_path / "out/duplicates.md").read_text()
    assert "11 clips, 11 of them compared by their frames." in page
    assert "| copies/train | web/train | exact | 1 |" in page
    assert "| copies/train/b3 | web/train/a3 | cropped |" in page
    few = Duplicates(data=folders, listed=1).run(tmp_path / "few")
    assert [pair["kind"] for pair in few["pairs"]] == ["exact"]
    assert (
        "3 more; results/duplicates.json names 1." in (tmp_path / "few/duplicates.md").read_text()
    )


def test_cropped_copies_can_be_left_out(folders: tuple[Path, Path], tmp_path: Path) -> None:
    result = Duplicates(data=folders, cropped=False).run(tmp_path / "out")
    assert {row["kind"] for row in result["counts"]} == {"exact", "near", "flipped"}


def test_no_duplicates_are_said_plainly(tmp_path: Path) -> None:
    data = ingested(tmp_path / "data", row("a", 1), row("b", 2), row("c", None))
    result = Duplicates(data=(data,)).run(tmp_path / "out")
    assert (result["pairs"], result["compared"]) == ([], 2)
    assert (tmp_path / "out/duplicates.md").read_text().endswith("None found.\n")


def test_a_second_call_reads_the_data_again(tmp_path: Path) -> None:
    data = ingested(tmp_path / "data", row("a", 1), row("b", 2))
    assert not Duplicates(data=(data,)).run(tmp_path / "out")["pairs"]
    ingested(data, row("a", 1), row("b", 1))
    assert len(Duplicates(data=(data,)).run(tmp_path / "out")["pairs"]) == 1


def test_parts_of_one_file_are_no_duplicates_unless_they_overlap_in_two_splits(
    tmp_path: Path,
) -> None:
    whole = row("a", 1, split="pretrain")
    windows = [
        replace(whole, clip=clip, first_frame=first, split=split)
        for clip, first, split in (("b", 25, "pretrain"), ("c", 50, "val"), ("d", 40, "val"))
    ]
    data = ingested(tmp_path / "data", whole, *windows)
    result = Duplicates(data=(data,)).run(tmp_path / "out")
    names = [(pair["clip"], pair["copy_of"]) for pair in result["pairs"]]
    assert names == [
        ("web/val/c", "web/pretrain/b"),
        ("web/val/d", "web/pretrain/a"),
    ]


@pytest.mark.parametrize(
    ("data", "listed", "message"),
    [
        ((), 1, "give at least one folder"),
        ((Path("a"), Path("b/../a")), 1, "a data folder is given twice"),
        ((Path("a"),), -1, "listed -1 must be at least 0"),
    ],
)
def test_bad_settings_are_refused(data: tuple[Path, ...], listed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Duplicates(data=data, listed=listed)
