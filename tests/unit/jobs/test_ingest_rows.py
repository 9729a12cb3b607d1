"""Which videos are long enough, and what the summary of an ingest counts."""

from dataclasses import replace

import pytest

from toto.jobs.ingest import Ingest, long_enough
from toto.video.collection import CollectionConfig, DigitClips
from toto.video.manifest import Row

GOOD = Row(source="clips", path="a.mp4", sha256="0" * 64, status="ok", frames=29, duration_s=2.0)


@pytest.mark.parametrize("needed", [1, 28, 29])
def test_a_video_of_enough_frames_stays(needed: int) -> None:
    assert long_enough(GOOD, needed) == GOOD


def test_a_short_video_is_refused_with_both_numbers() -> None:
    row = long_enough(GOOD, 30)
    assert (row.status, row.stage) == ("refused", "limits")
    assert row.reason == "29 frames are too few for a clip, which needs 30"
    assert replace(row, status="ok", stage=None, reason=None) == GOOD


def test_a_refused_video_keeps_its_reason() -> None:
    row = replace(GOOD, status="refused", stage="probe", reason="no stream", frames=0)
    assert long_enough(row, 1000) == row


def test_the_summary_counts_and_lists() -> None:
    damaged = replace(GOOD, path="b.mp4", reason="3 of 29 frames could not be decoded")
    refused = replace(GOOD, path="c.mp4", status="refused", stage="probe", reason="no stream")
    counts = DigitClips(pretrain=5, train=3, selection=2, test=1)
    job = Ingest(collection=CollectionConfig(digit_clips=counts))
    summary = job._summary([GOOD, damaged, refused])
    clips, digits = summary["sources"]
    assert clips == {
        "name": "clips",
        "clips": 2,
        "refused": 1,
        "frames": 58,
        "duration_s": 4.0,
    }
    assert (digits["clips"], digits["frames"]) == (11, 11 * 16)
    assert digits["duration_s"] == pytest.approx(11 * 16 / 12)
    assert summary["refused"] == [{"path": "c.mp4", "stage": "probe", "reason": "no stream"}]
    assert summary["damaged"] == [{"path": "b.mp4", "reason": damaged.reason}]
