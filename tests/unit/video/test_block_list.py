"""The leak guard: what is blocked, why, and what is not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_pictures import film, jpeg, part, thumbnails

from toto.video.block_list import Blocked, BlockList, blocked_names, blocked_rows, video_id
from toto.video.fingerprint import fingerprint
from toto.video.manifest import Row, write_manifest


def row(clip: str, source: str = "web", path: str | None = None, **changed) -> Row:
    values = {"sha256": None, "status": "ok", "frames": 100, "split": "train", **changed}
    return Row(source=source, clip=clip, path=path or f"files/{clip}.mp4", **values)


def printed(frames: np.ndarray) -> bytes:
    return fingerprint(thumbnails(frames))


EVALUATED = row("--07WQ2iBlw_000001_000011", source="kinetics-600", split="val")
SEEN = row(
    "bear",
    source="davis",
    path="bear",
    split="val",
    sha256="ab" * 32,
    fingerprint=printed(film(3)),
)
LIST = BlockList(blocked_rows([EVALUATED, SEEN]))


def test_another_clip_is_let_through() -> None:
    assert LIST.match(row("--07WQ2iBlx_000001_000011", source="kinetics-700")) is None
    assert LIST.match(row("x", sha256="cd" * 32, fingerprint=printed(film(4)))) is None


def test_a_validation_clip_of_kinetics_600_is_found_in_the_training_set_of_700() -> None:
    reason = LIST.match(row("--07WQ2iBlw_000001_000011", source="kinetics-700"))
    assert reason == (
        "from the video --07WQ2iBlw, as kinetics-600/val/--07WQ2iBlw_000001_000011 of the block "
        "list"
    )


@pytest.mark.parametrize(
    "clip", ["--07WQ2iBlw_000020_000030", "howto/--07WQ2iBlw.webm", "v_--07WQ2iBlw", "--07WQ2iBlw"]
)
def test_other_clips_of_an_evaluated_video_are_blocked(clip: str) -> None:
    assert "from the video --07WQ2iBlw" in (LIST.match(row(clip, source="howto100m")) or "")


def test_a_clip_of_the_same_data_set_is_known_by_its_name() -> None:
    own = row("clip-1", source="robots", split="val", path="a.mp4")
    blocked = BlockList(blocked_rows([own]))
    reason = blocked.match(row("clip-1", source="robots", path="b.mp4"))
    assert reason == "the clip robots/val/clip-1 of the block list"
    assert blocked.match(row("clip-1", source="drones", path="b.mp4")) is None


def test_files_of_one_name_in_two_folders_are_two_clips() -> None:
    # A folder's clips are named after their files, and every folder has a 1.mp4.
    blocked = BlockList(blocked_rows([row("1.mp4", source="folder", path="1.mp4", split="val")]))
    assert blocked.match(row("1.mp4", source="folder", path="1.mp4")) is None


def test_the_same_file_is_found_under_another_name() -> None:
    reason = LIST.match(row("x", sha256="ab" * 32))
    assert reason == "the same file as davis/val/bear of the block list"


def test_other_frames_of_the_same_file_are_another_clip() -> None:
    whole = row("long", sha256="ef" * 32, split="val", first_frame=200, frames=100)
    blocked = BlockList(blocked_rows([whole]))
    found = [
        blocked.match(row("x", sha256="ef" * 32, first_frame=first, frames=100)) is not None
        for first in (0, 100, 101, 299, 300)
    ]
    assert found == [False, False, True, True, False]


def test_a_file_that_could_not_be_decoded_is_blocked_whole() -> None:
    lost = replace(
        SEEN, status="quarantined", stage="crash", reason="died", frames=0, fingerprint=None
    )
    assert BlockList(blocked_rows([lost])).match(row("x", sha256="ab" * 32))


def test_a_copy_is_found_by_what_it_looks_like() -> None:
    copy = jpeg(part(film(3), 10, 0, 80, 80))[:, :, ::-1]
    reason = LIST.match(row("x", fingerprint=printed(copy))) or ""
    assert reason.startswith("looks like davis/val/bear of the block list: flipped copy of a part")
    assert reason.endswith("5 frames agree")


def test_a_written_list_blocks_the_same(tmp_path: Path) -> None:
    path = tmp_path / "lists" / "block.parquet"
    LIST.write(path)
    assert BlockList.open(path).clips == LIST.clips
    assert [one.name for one in path.parent.iterdir()] == ["block.parquet"]


def test_an_empty_list_blocks_nothing(tmp_path: Path) -> None:
    BlockList([]).write(tmp_path / "block.parquet")
    assert BlockList.open(tmp_path / "block.parquet").match(SEEN) is None


def test_a_file_that_is_no_block_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "block.parquet"
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(ValueError, match=r"not a block list: .*; make one with `toto data block`"):
        BlockList.open(path)
    write_manifest(path, [SEEN])
    with pytest.raises(ValueError, match=r"not a block list: its columns are source string"):
        BlockList.open(path)
    pq.write_table(pa.table({"clip": ["a"]}), path)
    with pytest.raises(ValueError, match=r"not a block list: its columns are clip string; make"):
        BlockList.open(path)


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"block\.parquet"):
        BlockList.open(tmp_path / "block.parquet")


def test_a_fingerprint_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="no fingerprint of version 1; ingest the data again"):
        LIST.match(row("x", fingerprint=b"\x09" + bytes(128)))


def test_names_alone_block_in_every_data_set(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("# Kinetics-400, validation\n--07WQ2iBlw\n\nclip-1 \n")
    blocked = BlockList(blocked_names(path))
    assert blocked.clips == (Blocked(clip="--07WQ2iBlw"), Blocked(clip="clip-1"))
    assert "the video --07WQ2iBlw" in (blocked.match(row("--07WQ2iBlw_000001_000011")) or "")
    assert blocked.match(row("clip-1")) == "the clip clip-1 of the block list"
    assert blocked.match(row("clip-2")) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"# nothing\n", "names no clip; write one"), (b"\xff\xfe", "not a text file of one clip")],
)
def test_files_that_name_nothing_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        blocked_names(path)


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ("dQw4w9WgXcQ", "dQw4w9WgXcQ"),
        ("dQw4w9WgXcQ.mp4", "dQw4w9WgXcQ"),
        ("train/abseiling/0wR5jVB-WPk_000417_000427.mp4", "0wR5jVB-WPk"),
        ("-0-0-0-0-0-_000417_000427", "-0-0-0-0-0-"),
        ("v_QOlSCBRmfWY", "QOlSCBRmfWY"),
        ("clip_000123", None),
        ("IMG_1234567", None),
        ("Video000012", None),
        ("12345678901", None),
        ("blackswan", None),
        ("basketballs", None),
        ("dQw4w9WgXcQ2", None),
        ("v_SoccerJuggling_g23_c01", None),
        ("ILSVRC2012_val_00000293", None),
        ("n01440764_10026", None),
    ],
)
def test_the_video_of_a_clip_is_in_its_name(clip: str, expected: str | None) -> None:
    assert video_id(clip) == expected


def test_nearly_all_youtube_ids_are_known_for_what_they_are() -> None:
    draw = np.random.default_rng(0)
    letters = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
    names = ["".join(draw.choice(letters, 11)) for _ in range(2000)]
    assert np.mean([video_id(name) == name for name in names]) > 0.98
    assert all(video_id(f"{name}_000000_000010") == name for name in names)
