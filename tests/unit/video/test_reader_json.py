"""Ego4D and HowTo100M: data sets whose clips are in JSON, one of gigabytes."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from made_datasets import MP4, put

from toto.video.datasets import howto100m
from toto.video.datasets.ego4d import Ego4D
from toto.video.datasets.howto100m import HowTo100M
from toto.video.entry import Entry


def clip(uid: str, video: str, start: Any, end: Any) -> dict[str, Any]:
    return {"clip_uid": uid, "video_uid": video, "video_start_sec": start, "video_end_sec": end}


VIDEOS = [
    {"video_uid": "b-1", "duration_sec": 60.0, "split_em": "val", "split_fho": "multi"},
    {"video_uid": "a-2", "duration_sec": 30.5, "split_em": None, "split_av": None},
    {"video_uid": "c-3", "duration_sec": 9.0, "split_em": "train", "split_av": "test"},
    {"video_uid": "d-4", "duration_sec": 9.0, "split_fho": "multi", "split_em": "train"},
]
CLIPS = [
    clip("k1", "a-2", 0, 8.5),
    clip("k2", "b-1", 8.0, 16.0),
    clip("k3", "a-2", 4.0, 30.5),
    clip("k1", "a-2", 0, 8.5),
]


def ego4d(root: Path, **lists: Any) -> Path:
    put(root, "ego4d.json", json.dumps({"version": "v2", "videos": VIDEOS, **lists}))
    put(root, "v2/full_scale/a-2.mp4", MP4)
    (root / "v2" / "clips").mkdir(exist_ok=True)
    return root


def test_whole_videos_are_of_the_most_careful_split(tmp_path: Path) -> None:
    entries = Ego4D(root=ego4d(tmp_path)).entries()
    assert [(entry.path, entry.clip, entry.split) for entry in entries] == [
        ("v2/full_scale/b-1.mp4", "b-1", "val"),
        ("v2/full_scale/a-2.mp4", "a-2", "train"),
        ("v2/full_scale/c-3.mp4", "c-3", "test"),
        ("v2/full_scale/d-4.mp4", "d-4", "multi"),
    ]


def test_clips_come_video_by_video_as_files_or_as_cuts(tmp_path: Path) -> None:
    root = ego4d(tmp_path, clips=CLIPS)
    assert list(Ego4D(root=root, unit="cuts").entries()) == [
        Entry(path="v2/full_scale/b-1.mp4", clip="k2", start_s=8, end_s=16, split="val"),
        Entry(path="v2/full_scale/a-2.mp4", clip="k1", start_s=0, end_s=8.5),
        Entry(path="v2/full_scale/a-2.mp4", clip="k3", start_s=4, end_s=30.5),
    ]
    files = list(Ego4D(root=root, unit="clips").entries())
    assert [(entry.path, entry.start_s, entry.end_s) for entry in files] == [
        ("v2/clips/k2.mp4", 0, None),
        ("v2/clips/k1.mp4", 0, None),
        ("v2/clips/k3.mp4", 0, None),
    ]


def test_clips_within_their_videos_are_found_too(tmp_path: Path) -> None:
    nested = [{"video_uid": "a-2", "clips": [{**clip("k", "a-2", 1, 2)}]}]
    put(tmp_path, "ego4d.json", json.dumps({"videos": nested}))
    put(tmp_path, "video_540ss/a-2.mp4")
    assert list(Ego4D(root=tmp_path, unit="cuts").entries()) == [
        Entry(path="video_540ss/a-2.mp4", clip="k", start_s=1, end_s=2)
    ]


def test_the_folder_of_the_videos_can_be_chosen(tmp_path: Path) -> None:
    put(tmp_path, "v1/ego4d.json", json.dumps({"videos": VIDEOS[:1]}))
    for folder in ("full_scale", "video_540ss", "short_320"):
        (tmp_path / "v1" / folder).mkdir()
    paths = {
        next(Ego4D(root=tmp_path, folder=folder).entries()).path
        for folder in ("", "video_540ss", "short_320")
    }
    assert paths == {f"v1/{name}/b-1.mp4" for name in ("full_scale", "video_540ss", "short_320")}
    put(tmp_path, "v2/ego4d.json", "{}")
    with pytest.raises(ValueError, match=r"has v1/ego4d\.json and v2/ego4d\.json; point to one"):
        list(Ego4D(root=tmp_path).entries())


@pytest.mark.parametrize(
    ("lists", "unit", "reason"),
    [
        ({"videos": {}}, "videos", "has no list 'videos' of objects; it is not Ego4D's"),
        ({"videos": [{"uid": "a"}]}, "videos", "has an item without video_uid"),
        ({"videos": [{"video_uid": "../a"}]}, "videos", "video_uid '../a' must be letters"),
        ({"videos": [{"video_uid": "a", "split_em": "x"}]}, "videos", "a is of split 'x'"),
        ({}, "cuts", "lists no clip; whole videos are --dataset.unit videos"),
        ({"clips": [clip("k", "z", 1, 2)]}, "cuts", "a clip is of video z, which is not listed"),
        ({"clips": [clip("k", "a-2", 2, 1)]}, "cuts", "clip k is from 2 s to 1 s"),
        ({"clips": [clip("k", "a-2", None, 1)]}, "clips", "clip k is from None s to 1 s"),
    ],
)
def test_a_json_that_is_not_ego4ds_is_refused(
    tmp_path: Path, lists: dict[str, Any], unit: Any, reason: str
) -> None:
    with pytest.raises(ValueError, match=r"ego4d\.json") as refusal:
        list(Ego4D(root=ego4d(tmp_path, **lists), unit=unit).entries())
    assert reason in str(refusal.value)


def test_a_damaged_json_or_no_videos_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no ego4d\.json; expected"):
        list(Ego4D(root=tmp_path).entries())
    put(tmp_path, "ego4d.json", "{")
    with pytest.raises(ValueError, match="has no full_scale or video_540ss; expected"):
        list(Ego4D(root=tmp_path).entries())
    (tmp_path / "full_scale").mkdir()
    with pytest.raises(ValueError, match=r"ego4d\.json cannot be read as JSON"):
        list(Ego4D(root=tmp_path).entries())


HEADER = "video_id,category_1,category_2,rank,task_id\n"
IDS = ("nVbIUDjzWY4", "-T9ioSkC1yY", "_97kyZVWVG0")


def howto(root: Path, captions: Any = None, *, indent: int | None = None) -> Path:
    lines = [
        f"{IDS[0]},Cars & Other Vehicles,Motorcycles,27,52907\n",
        f'{IDS[1]},"Food, Entertaining",,35,1\n',
        f"{IDS[0]},Health,,3,7\n",
        f"{IDS[2]},,,3,7\n",
    ]
    put(root, "HowTo100M_v1.csv", HEADER + "".join(lines))
    put(root, "task_ids.csv", "task_id,name\n1,x\n")
    put(root, f"deep/er/{IDS[1]}.webm", MP4)
    put(root, f"{IDS[0]}.mp4", MP4)
    put(root, "unlisted.mp4", MP4)
    if captions is not None:
        put(root, "caption.json", json.dumps(captions, indent=indent))
    return root


def captions(video: str, *times: tuple[Any, Any]) -> dict[str, Any]:
    texts = ['é: } , " {' for _ in times]
    return {video: {"text": texts, "start": [s for s, _ in times], "end": [e for _, e in times]}}


def test_whole_videos_of_howto100m(tmp_path: Path) -> None:
    entries = HowTo100M(root=howto(tmp_path)).entries()
    assert [(entry.path, entry.clip, entry.label) for entry in entries] == [
        (f"{IDS[0]}.mp4", IDS[0], "Cars & Other Vehicles"),
        (f"deep/er/{IDS[1]}.webm", IDS[1], "Food, Entertaining"),
        (f"{IDS[2]}.mp4", IDS[2], None),
    ]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("chars", [1, 7, 64, 1 << 20])
def test_captions_are_clips(
    tmp_path: Path, indent: int | None, chars: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(howto100m, "READ_CHARS", chars)
    found = {
        **captions("unknown", (0, 1)),
        **captions(IDS[1], (0.5, 2), (1, 4.25), (7, 7), (9, 8), (-1, 3), (3, float("nan"))),
        **captions(IDS[0]),
        **captions(IDS[2], (0, 1)),
    }
    root = howto(tmp_path, found, indent=indent)
    dataset = HowTo100M(root=root, captions=Path("caption.json"))
    assert [
        (entry.path, entry.clip, entry.start_s, entry.end_s) for entry in dataset.entries()
    ] == [
        (f"deep/er/{IDS[1]}.webm", f"{IDS[1]}:0", 0.5, 2.0),
        (f"deep/er/{IDS[1]}.webm", f"{IDS[1]}:1", 1.0, 4.25),
        (f"{IDS[2]}.mp4", f"{IDS[2]}:0", 0.0, 1.0),
    ]


def test_captions_of_millions_of_videos_are_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(howto100m, "READ_CHARS", 1 << 14)
    one = captions("x", *((float(second), second + 2.5) for second in range(100)))["x"]
    text = json.dumps({f"{name:011d}": one for name in range(600)} | captions(IDS[0], (0, 1)))
    assert len(text) > 1 << 20
    dataset = HowTo100M(root=howto(tmp_path), captions=Path("caption.json"))
    put(tmp_path, "caption.json", text)
    del text
    tracemalloc.start()
    assert len(list(dataset.entries())) == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 19


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "it does not begin with '{'"),
        ("", "it does not begin with '{'"),
        ('{"a": {"start": [1], "end": [2]}', "it is cut off"),
        ('{"a": {"start": [1], "end"', "it is cut off"),
        ('{"a" {"start": [1], "end": [2]}}', "it is cut off, or no object of videos"),
        ('{"a": {"start": [1], "end": []}}', "a has no lists 'start' and 'end' of one length"),
        ('{"a": [1]}', "a has no lists 'start' and 'end'"),
        ('{"a": {"start": ["1"], "end": [2]}}', "a has a time that is no number"),
        ('{"a": ' + "[" * 100_000, r"cannot be read as captions"),
    ],
)
def test_captions_that_are_none_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    put(howto(tmp_path), "caption.json", text)
    with pytest.raises(ValueError, match=r"caption\.json cannot be read as captions") as refusal:
        list(HowTo100M(root=tmp_path, captions=Path("caption.json")).entries())
    assert reason in str(refusal.value)


def test_damaged_captions_stop_before_they_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(howto100m, "VIDEO_CHARS", 1 << 10)
    monkeypatch.setattr(howto100m, "READ_CHARS", 1 << 8)
    put(howto(tmp_path), "caption.json", '{"a": ' + "x" * (1 << 20))
    with pytest.raises(ValueError, match="it is damaged, or no object of videos"):
        list(HowTo100M(root=tmp_path, captions=Path("caption.json")).entries())


def test_howto100m_refuses_other_layouts(tmp_path: Path) -> None:
    put(tmp_path, "HowTo100M_v1.csv", HEADER)
    with pytest.raises(ValueError, match=r"HowTo100M_v1\.csv lists no video; expected"):
        list(HowTo100M(root=tmp_path).entries())
    put(tmp_path, "HowTo100M_v1.csv", HEADER + f"{IDS[0]},a,b,1,2\n")
    with pytest.raises(ValueError, match="not one of 1 listed videos has a file; expected"):
        list(HowTo100M(root=tmp_path).entries())
    put(tmp_path, "HowTo100M_v1.csv", HEADER + "../up,a,b,1,2\n")
    with pytest.raises(ValueError, match=r"line 2: '\.\./up' is not a video id"):
        list(HowTo100M(root=tmp_path).entries())
    put(tmp_path, "copy.csv", HEADER)
    with pytest.raises(ValueError, match=r"has HowTo100M_v1\.csv, copy\.csv of HowTo100M, one is"):
        list(HowTo100M(root=tmp_path).entries())
