"""Which clips go into which shard is a function of manifests and config, and of nothing else."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toto.jobs.shard_tasks import DigitRange, ShardTask, plan_shards
from toto.video.collection import CollectionConfig, DigitClips
from toto.video.datasets.moving_digits import MovingDigitsConfig
from toto.video.ingest import images_apart
from toto.video.manifest import Row


def row(clip: str, **fields: Any) -> Row:
    plain: dict[str, Any] = {"path": f"{clip}.mp4", "frames": 100, "split": "train"}
    plain |= fields
    return Row(source="set", clip=clip, sha256="0" * 64, status="ok", **plain)


def collection(rows: list[Row], **fields: Any) -> Any:
    """What the plan reads of a data folder."""
    config = CollectionConfig(**fields)
    return SimpleNamespace(rows=rows, config=config, folder=Path())


def plan(*collections: Any, **fields: Any) -> list[ShardTask]:
    plain: dict[str, Any] = {
        "crops": 1,
        "test_crops": 1,
        "stride": None,
        "side_px": None,
        "shard_frames": 60,
    }
    return plan_shards(collections, (), seed=0, **(plain | fields))


def test_shards_are_filled_in_the_order_of_the_manifest() -> None:
    tasks = plan(collection([row(name) for name in "abcde"]))  # 25 kept frames each
    assert [task.name for task in tasks] == [f"set/train/{n:05d}" for n in range(3)]
    assert [[c.row.clip for c in task.clips] for task in tasks] == [["a", "b"], ["c", "d"], ["e"]]
    assert {task.side_px for task in tasks} == {128}
    assert {c.cut.stride for task in tasks for c in task.clips} == {4}


def test_a_clip_larger_than_a_shard_has_one_alone() -> None:
    tasks = plan(collection([row("a"), row("long", frames=4000), row("b")]))
    assert [[c.row.clip for c in task.clips] for task in tasks] == [["a"], ["long"], ["b"]]


def test_images_among_videos_become_a_source_of_their_own() -> None:
    rows = [row("a"), row("b", split="val"), row("c", kind="image", frames=1, path="c.jpg")]
    tasks = plan(collection(images_apart(rows)))
    assert [(task.source, task.kind) for task in tasks] == [
        ("set/train", "video"),
        ("set/val", "video"),
        ("set-images/train", "images"),
    ]
    assert images_apart(rows[2:]) == rows[2:]


def test_training_clips_are_cropped_at_random_others_in_the_middle() -> None:
    train, val = plan(collection([row("a"), row("b", split="val")]), crops=3, shard_frames=999)
    crops = [clip.cut.crop for clip in train.clips]
    assert len(set(crops)) == 3
    assert all(0 <= share < 1 for crop in crops for share in crop)
    assert [clip.cut.crop for clip in val.clips] == [(0.5, 0.5)]


def test_test_clips_can_be_cut_along_their_longer_side() -> None:
    rows = [
        row("train", width=300, height=200),
        row("wide", split="val", width=300, height=200),
        row("upright", split="val", width=200, height=300),
    ]
    train, val = plan(collection(rows), crops=2, test_crops=3, shard_frames=999)
    assert len(train.clips) == 2
    crops = [(clip.row.clip, clip.cut.crop) for clip in val.clips]
    assert crops == [
        *(("wide", (share, 0.5)) for share in (0.0, 0.5, 1.0)),
        *(("upright", (0.5, share)) for share in (0.0, 0.5, 1.0)),
    ]


def test_a_clips_crops_are_its_own() -> None:
    """Other clips beside it, or another order, change none of them; another seed does."""
    alone = plan(collection([row("a")]), crops=2)[0].clips
    among = plan(collection([row("z"), row("a")]), crops=2, shard_frames=999)[0].clips
    assert [c.cut for c in among if c.row.clip == "a"] == [c.cut for c in alone]
    other = plan_shards(
        [collection([row("a")])],
        (),
        crops=2,
        test_crops=1,
        stride=None,
        side_px=None,
        shard_frames=60,
        seed=1,
    )
    assert [c.cut.crop for c in other[0].clips] != [c.cut.crop for c in alone]


def test_lost_and_left_out_clips_are_not_planned() -> None:
    lost = replace(row("lost"), status="missing", stage="list", reason="gone", frames=0)
    tasks = plan_shards(
        [collection([row("a"), lost, row("b")])],
        {(0, 2)},
        crops=1,
        test_crops=1,
        stride=2,
        side_px=64,
        shard_frames=60,
        seed=0,
    )
    assert [c.row.clip for task in tasks for c in task.clips] == ["a"]
    assert (tasks[0].clips[0].cut.stride, tasks[0].side_px) == (2, 64)


def test_made_clips_are_shared_out_too() -> None:
    made = collection(
        [],
        held_out_share=0.2,
        digits=MovingDigitsConfig(side_px=128),
        digit_clips=DigitClips(pretrain=7, test=2),
    )
    tasks = plan(made)  # 16 frames each, 3 clips a shard
    assert [(task.name, task.digits) for task in tasks] == [
        ("moving-digits/pretrain/00000", DigitRange(split="pretrain", first=0, end=3)),
        ("moving-digits/pretrain/00001", DigitRange(split="pretrain", first=3, end=6)),
        ("moving-digits/pretrain/00002", DigitRange(split="pretrain", first=6, end=7)),
        ("moving-digits/test/00000", DigitRange(split="test", first=0, end=2)),
    ]


def test_two_folders_with_the_same_source_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two data folders hold set/train; tokenise them into tw"):
        plan(collection([row("a")]), collection([row("b")]))


def test_clips_of_one_file_are_read_together() -> None:
    rows = [row("a1", path="a.mp4"), row("a2", path="a.mp4", first_frame=100), row("b")]
    (task,) = plan(collection(rows), shard_frames=999)
    assert [[(n, c.row.clip) for n, c in group] for group in task.files()] == [
        [(0, "a1"), (1, "a2")],
        [(2, "b")],
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"crops": 2},
        {"stride": 2},
        {"side_px": 64},
    ],
)
def test_the_digest_tells_tasks_apart(change: dict[str, int]) -> None:
    one, other = plan(collection([row("a")])), plan(collection([row("a")]), **change)
    assert one[0].digest() == plan(collection([row("a")]))[0].digest()
    assert one[0].digest() != other[0].digest()


def test_the_digest_changes_with_the_files_bytes() -> None:
    changed = replace(row("a"), sha256="1" * 64)
    assert plan(collection([row("a")]))[0].digest() != plan(collection([changed]))[0].digest()
