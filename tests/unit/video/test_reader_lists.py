"""Plain lists, Kinetics and CATER: clips are what the lists say, present or not."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_datasets import JPEG, K400, MP4, put, tar

from toto.video.datasets.cater import Cater
from toto.video.datasets.files import Files
from toto.video.datasets.kinetics import Kinetics
from toto.video.entry import Entry

TABLE = [
    {"path": "a.mp4", "label": "walk", "start_s": 1.5, "end_s": 2.0, "split": "val"},
    {"path": "b.jpg"},
    {"path": "a.mp4", "start_s": 2.0},
    {"path": "missing.mp4", "clip": "m", "kind": "video"},
]
ENTRIES = [
    Entry(path="a.mp4", clip="a.mp4@1.5-2", start_s=1.5, end_s=2.0, label="walk", split="val"),
    Entry(path="a.mp4", clip="a.mp4@2-", start_s=2.0),
    Entry(path="b.jpg", clip="b.jpg", kind="image"),
    Entry(path="missing.mp4", clip="m"),
]


def write_csv(path: Path) -> None:
    columns = ("path", "label", "start_s", "end_s", "split", "clip", "kind", "other")
    lines = [",".join(str(row.get(column, "")) for column in columns) for row in TABLE]
    path.write_text("\ufeff" + "\n".join([",".join(columns), *lines]), encoding="utf-8")


def write_jsonl(path: Path) -> None:
    path.write_text("\n\n".join(json.dumps(row) for row in TABLE))


def write_parquet(path: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist([{"clip": None, "kind": None, **row} for row in TABLE]), path
    )


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
def test_tables_of_every_form_say_the_same(tmp_path: Path, write: Callable[[Path], None]) -> None:
    put(tmp_path, "a.mp4", MP4)
    put(tmp_path, "b.jpg", JPEG)
    write(tmp_path / f"files.{write.__name__.removeprefix('write_')}")
    entries = list(Files(root=tmp_path).entries())
    assert entries == ENTRIES


def test_a_text_file_has_one_path_a_line(tmp_path: Path) -> None:
    put(tmp_path, "x/a b.mp4", MP4)
    put(tmp_path, "x/c.jpg", JPEG)
    put(tmp_path, "frames/0.jpg", JPEG)
    tar(tmp_path / "t.tar", [("d.png", JPEG)])
    lines = ["x/a b.mp4", "", f"{tmp_path.absolute()}/x/c.jpg", "./frames", "t.tar#d.png"]
    put(tmp_path, "lists/mine.txt", "\n".join(lines))
    dataset = Files(root=tmp_path, listing=Path("lists/mine.txt"), split="test", name="mine")
    assert [(entry.path, entry.kind, entry.split) for entry in dataset.entries()] == [
        ("x/a b.mp4", "video", "test"),
        ("x/c.jpg", "image", "test"),
        ("frames", "frames", "test"),
        ("t.tar#d.png", "image", "test"),
    ]
    listing = tmp_path / "lists" / "mine.txt"
    assert len(list(Files(root=tmp_path, listing=listing).entries())) == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,start_s\na.mp4,soon\n", "line 2: start_s 'soon' is not a number"),
        ("path,start_s\na.mp4,nan\n", "line 2: start_s 'nan' is not a number"),
        ("path,end_s\na.mp4,inf\n", "line 2: end_s 'inf' is not a number"),
        ("path,start_s,end_s\na.mp4,2,1\n", "line 2: a clip from 2.0 s to 1.0 s"),
        ("path,start_s\na.mp4,-1\n", "line 2: a clip from -1.0 s to None s"),
        ("path,split\na.mp4,../up\n", "line 2: split '../up' must be letters, digits"),
        ("path,kind\na.mp4,audio\n", "line 2: kind 'audio' is not one of video, image, frames"),
        ("path,label\na.mp4,x\n../b.mp4,\n", "line 3: '../b.mp4' is not a path below"),
        ("path,label\n/etc/passwd,\n", "line 2: /etc/passwd does not lie below"),
        ("path,label\n,x\n", "line 2 names no path"),
        ("path,label\na.mp4\n", "line 2: expected 2 values"),
        ("path,label\na.mp4,x,y\n", "line 2: expected 2 values"),
        ("path,label\na.mp4,x\n./a.mp4,y\n", "clip 'a.mp4' is that of line 2 again; remove one"),
        ("file,label\na.mp4,x\n", "has no column 'path'; it has file, label"),
        ("path,label\n", "names no file"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(tmp_path: Path, text: str, reason: str) -> None:
    put(tmp_path, "files.csv", text)
    with pytest.raises(ValueError, match=r"files\.csv") as refusal:
        list(Files(root=tmp_path).entries())
    assert reason in str(refusal.value)


def test_lists_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    put(tmp_path, "files.jsonl", '{"path": "a"}\n["a"]\n')
    put(tmp_path, "x.jsonl", '{"path": \n')
    put(tmp_path, "x.parquet", b"PAR1 no")
    put(tmp_path, "x.txt", b"\xff\xfe\xfa")
    put(tmp_path, "x.csv", b"path\n\xff\xfe")
    for listing, reason in [
        (None, r"files\.jsonl line 2 is not a JSON object"),
        ("x.jsonl", r"x\.jsonl line 1 is not JSON"),
        ("x.parquet", r"x\.parquet cannot be read as Parquet"),
        ("x.txt", r"x\.txt cannot be read as text"),
        ("x.csv", r"x\.csv cannot be read as CSV"),
        ("none.csv", r"none\.csv cannot be read as CSV: .*No such file"),
    ]:
        with pytest.raises(ValueError, match=reason):
            list(Files(root=tmp_path, listing=listing and Path(listing)).entries())
    pq.write_table(pa.table({"file": ["a"]}), tmp_path / "y.parquet")
    with pytest.raises(ValueError, match=r"y\.parquet has no column 'path'"):
        list(Files(root=tmp_path, listing=Path("y.parquet")).entries())
    put(tmp_path, "files.txt", "a\n")
    with pytest.raises(ValueError, match=r"has files\.txt and files\.jsonl; name one list"):
        list(Files(root=tmp_path).entries())


TRAIN = K400 + '"air drumming",_dbcJuKJQNs,40,50,train,0\nabseiling,-3B32lodo2M,59,69,train,0\n'
STEMS = ("_dbcJuKJQNs_000040_000050", "-3B32lodo2M_000059_000069")


@pytest.mark.parametrize(
    ("listing", "path"),
    [
        ("annotations/train.csv", "train/{}.mp4"),  # CVDF as it unpacks
        ("annotations/train.csv", "train/air drumming/{}.mp4"),
        ("annotations/train.csv", "videos/train/air drumming/{}.mp4"),  # CVDF by its script
        ("annotations/kinetics_train.csv", "videos_train/air_drumming/{}.mkv"),  # mmaction2
        ("kinetics-400_train.csv", "{}.webm"),
    ],
)
def test_kinetics_in_its_usual_places(tmp_path: Path, listing: str, path: str) -> None:
    put(tmp_path, listing, TRAIN)
    put(tmp_path, path.format(STEMS[0]), MP4)
    drumming, abseiling = Kinetics(root=tmp_path).entries()
    assert drumming == Entry(path=path.format(STEMS[0]), clip=STEMS[0], label="air drumming")
    assert abseiling == Entry(path=f"train/{STEMS[1]}.mp4", clip=STEMS[1], label="abseiling")


def test_kinetics_put_together_of_links(tmp_path: Path) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    put(root, "annotations/train.csv", TRAIN)
    put(disk, f"abseiling/{STEMS[1]}.mp4")
    (root / "videos_train").symlink_to(disk)
    (disk / "up").symlink_to(root)  # leads round, and is not followed
    assert [entry.path for entry in Kinetics(root=root).entries()] == [
        f"train/{STEMS[0]}.mp4",
        f"videos_train/abseiling/{STEMS[1]}.mp4",
    ]


def test_kinetics_splits_and_a_test_list_without_labels(tmp_path: Path) -> None:
    put(tmp_path, "annotations/train.csv", TRAIN)
    put(
        tmp_path,
        "annotations/validate.csv",
        "label,youtube_id,time_start,time_end,split\npassing_American_football,0wR5jVB-WPk,417.0,427.0,validate\n",
    )
    put(
        tmp_path,
        "annotations/test.csv",
        "youtube_id,time_start,time_end,split\n--6bJUbfpnQ,17,27,test\n",
    )
    put(tmp_path, "annotations/readme.csv", "a,b\n1,2\n")
    put(tmp_path, "train/x_000001_000002.mp4")
    put(tmp_path, "val/0wR5jVB-WPk_000417_000427.mp4")
    entries = list(Kinetics(root=tmp_path).entries())
    assert [(entry.split, entry.label) for entry in entries] == [
        ("test", None),
        ("train", "air drumming"),
        ("train", "abseiling"),
        ("val", "passing American football"),
    ]
    only = list(Kinetics(root=tmp_path, splits=("val",)).entries())
    assert only == entries[-1:]
    named = Kinetics(root=tmp_path, lists=(Path("annotations/validate.csv"),))
    assert list(named.entries()) == entries[-1:]


def test_of_two_files_of_a_clip_the_replaced_and_then_the_splits_own_is_taken(
    tmp_path: Path,
) -> None:
    put(tmp_path, "annotations/val.csv", TRAIN.replace("train", "val"))
    put(tmp_path, f"train/{STEMS[0]}.mp4")
    put(tmp_path, f"val/{STEMS[0]}.mp4")
    assert next(Kinetics(root=tmp_path).entries()).path == f"val/{STEMS[0]}.mp4"
    replaced = f"replacement/replacement_for_corrupted_k400/{STEMS[0]}.mp4"
    put(tmp_path, replaced)
    assert next(Kinetics(root=tmp_path).entries()).path == replaced


def test_clips_are_cut_out_of_whole_videos(tmp_path: Path) -> None:
    lines = "b,_dbcJuKJQNs,40,50,train,0\nc,-3B32lodo2M,1,2,train,0\nd,_dbcJuKJQNs,5,9,train,0\n"
    put(tmp_path, "train.csv", K400 + lines)
    put(tmp_path, "_dbcJuKJQNs.mp4")
    entries = list(Kinetics(root=tmp_path, untrimmed=True).entries())
    assert [(entry.path, entry.start_s, entry.end_s, entry.label) for entry in entries] == [
        ("train/-3B32lodo2M.mp4", 1, 2, "c"),
        ("_dbcJuKJQNs.mp4", 40, 50, "b"),
        ("_dbcJuKJQNs.mp4", 5, 9, "d"),
    ]


def test_a_repeated_clip_is_one_and_a_contradicting_one_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "annotations/train.csv", TRAIN + "abseiling,-3B32lodo2M,59,69,train,0\n")
    put(tmp_path, f"train/{STEMS[0]}.mp4")
    assert len(list(Kinetics(root=tmp_path).entries())) == 2
    put(tmp_path, "annotations/val.csv", K400 + "climbing,-3B32lodo2M,59,69,val,0\n")
    reason = (
        r"val\.csv line 2: -3B32lodo2M_000059_000069 is 'climbing' of val, and 'abseiling' of "
        r"train in train\.csv line 3; choose other --dataset\.lists or --dataset\.splits"
    )
    with pytest.raises(ValueError, match=reason):
        list(Kinetics(root=tmp_path).entries())
    first = list(Kinetics(root=tmp_path, repeats="first").entries())
    assert [entry.label for entry in first] == ["air drumming", "abseiling"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (K400 + "a,short,1,2,train,0\n", "line 2: 'short' is not a YouTube id"),
        (K400 + "a,../../../ab,1,2,train,0\n", "is not a YouTube id"),
        (K400 + "a,-3B32lodo2M,x,2,train,0\n", "line 2: time_start 'x' is not a number"),
        (K400 + "a,-3B32lodo2M,3,2,train,0\n", "line 2: a clip from 3.0 s to 2.0 s"),
        (K400 + "a,-3B32lodo2M,1,2,../..,0\n", "line 2: split '../..' must be letters"),
        (K400 + "a,-3B32lodo2M,1,2\n", "line 2: expected 6 values"),
        (K400, "no clip of any split"),
        (TRAIN, "not one of 2 listed clips has a file; expected"),
        ("youtube_id,time_start\n", "has no column 'time_end'"),
    ],
)
def test_a_list_that_is_not_kinetics_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    put(tmp_path, "annotations/train.csv", text)
    with pytest.raises(ValueError, match=r"\w") as refusal:
        list(Kinetics(root=tmp_path).entries())
    assert reason in str(refusal.value)


def test_cater_lists_with_spaces_and_with_commas(tmp_path: Path) -> None:
    put(tmp_path, "videos/CATER_new_000000.avi", MP4)
    put(
        tmp_path,
        "lists/localize/train.txt",
        "CATER_new_000000.avi 14\n/home/author/images/CATER_new_000002.avi 3\n",
    )
    put(tmp_path, "lists/localize/val.txt", "CATER_new_000001.avi, 35\n")
    entries = list(Cater(root=tmp_path).entries())
    assert [(entry.path, entry.clip, entry.label, entry.split) for entry in entries] == [
        ("videos/CATER_new_000000.avi", "CATER_new_000000", "14", "train"),
        ("videos/CATER_new_000002.avi", "CATER_new_000002", "3", "train"),
        ("videos/CATER_new_000001.avi", "CATER_new_000001", "35", "val"),
    ]
    put(tmp_path, "lists/actions_present/train_subsetV.txt", "CATER_new_000000.avi 0,3,12\n")
    several = Cater(root=tmp_path, task="actions_present", lists=("train_subsetV",))
    assert [(entry.label, entry.split) for entry in several.entries()] == [
        ("0,3,12", "train_subsetV")
    ]


def test_cater_refuses_other_layouts(tmp_path: Path) -> None:
    put(tmp_path, "lists/localize/train.txt", "a.avi 1\n")
    with pytest.raises(ValueError, match="has no folder videos; expected"):
        list(Cater(root=tmp_path).entries())
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match=r"localize/val\.txt is missing; expected"):
        list(Cater(root=tmp_path).entries())
    with pytest.raises(ValueError, match="has no task 'tracking'; there are: localize"):
        list(Cater(root=tmp_path, task="tracking").entries())
    with pytest.raises(ValueError, match="lists must name at least one"):
        Cater(root=tmp_path, lists=())
    put(tmp_path, "lists/localize/val.txt", "b.avi 1\na.avi 2\n")
    with pytest.raises(ValueError, match=r"val\.txt line 2: a\.avi is in train already"):
        list(Cater(root=tmp_path).entries())
    put(tmp_path, "lists/localize/val.txt", "b.avi\n")
    with pytest.raises(ValueError, match=r"val\.txt line 1: expected a video and its class"):
        list(Cater(root=tmp_path).entries())
