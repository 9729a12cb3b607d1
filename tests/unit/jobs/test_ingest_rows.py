"""Which videos are long enough, what is held out, and what the summary of an ingest counts."""

from dataclasses import replace
from pathlib import Path

import pytest

from toto.jobs.ingest import Ingest, Workers
from toto.video.collection import CollectionConfig, DigitClips
from toto.video.datasets.folder import Folder
from toto.video.ingest import held_out, long_enough
from toto.video.manifest import Row

GOOD = Row(
    source="clips",
    path="a.mp4",
    clip="a",
    sha256="0" * 64,
    status="ok",
    frames=29,
    duration_s=2.0,
)


@pytest.mark.parametrize("needed", [1, 28, 29])
def test_a_video_of_enough_frames_stays(needed: int) -> None:
    assert long_enough(GOOD, needed) == GOOD


def test_a_short_video_is_refused_with_both_numbers() -> None:
    row = long_enough(GOOD, 30)
    assert (row.status, row.stage) == ("refused", "limits")
    assert row.reason == "29 frames are too few for a clip, which needs 30"
    assert replace(row, status="ok", stage=None, reason=None) == GOOD


def test_an_image_is_never_too_short() -> None:
    image = replace(GOOD, kind="image", frames=1)
    assert long_enough(image, 30) == image


def test_a_refused_video_keeps_its_reason() -> None:
    row = replace(GOOD, status="refused", stage="probe", reason="no stream", frames=0)
    assert long_enough(row, 1000) == row


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("stride", [1, 3])
def test_parts_never_overlap_and_leave_nothing_out(share: float, stride: int) -> None:
    for frames in range(1, 200):
        rows = held_out(replace(GOOD, frames=frames, first_frame=7), share, stride, 4)
        assert [row.split for row in rows] == ["pretrain", "held-out"][: len(rows)]
        assert rows[0].first_frame == 7
        assert sum(row.frames for row in rows) == frames
        assert sum(row.duration_s for row in rows) == pytest.approx(2.0)
        if len(rows) == 2:
            train, held = rows
            assert held.first_frame == 7 + train.frames
            assert train.frames % stride == 0  # the held-out part begins at a kept frame
            assert -(-held.frames // stride) >= max(4, int(share * -(-frames // stride)))
            assert train.frames // stride >= 4
            assert train.clip != held.clip
        else:
            # Both sides would not hold a clip.
            assert -(-frames // stride) < 8 or share > 0.5


def test_the_summary_counts_and_lists() -> None:
    damaged = replace(GOOD, path="b.mp4", clip="b", reason="3 of 29 frames could not be decoded")
    refused = replace(
        GOOD, path="c.mp4", clip="c", status="refused", stage="probe", reason="no stream"
    )
    counts = DigitClips(pretrain=5, train=3, selection=2, test=1)
    dataset = Folder(root=Path("x"), name="clips")
    job = Ingest(
        dataset=dataset, collection=CollectionConfig(held_out_share=0.2, digit_clips=counts)
    )
    summary = job._summary(dataset, [GOOD, damaged, refused])
    clips, *digits = summary["sources"]
    assert clips == {
        "name": "clips/train",
        "clips": 2,
        "lost": 1,
        "frames": 58,
        "duration_s": 4.0,
    }
    assert [(made["name"], made["clips"], made["frames"]) for made in digits] == [
        ("moving-digits/pretrain", 5, 80),
        ("moving-digits/train", 3, 48),
        ("moving-digits/selection", 2, 32),
        ("moving-digits/test", 1, 16),
    ]
    assert digits[0]["duration_s"] == pytest.approx(80 / 12)
    assert summary["lost"] == [
        {"path": "c.mp4", "status": "refused", "stage": "probe", "reason": "no stream"}
    ]
    assert summary["losses"] == {"refused (probe)": 1}
    assert summary["damaged"] == [{"path": "b.mp4", "reason": damaged.reason}]
    assert summary["damaged_clips"] == 1
    assert summary["reader"] == "folder"


def test_workers() -> None:
    assert Workers().count >= 1
    assert Workers(workers=3).count == 3
    with pytest.raises(ValueError, match="workers -1 must be at least 0"):
        Workers(workers=-1)
