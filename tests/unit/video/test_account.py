"""What manifest rows come to: every clip counted once, under the name its tokens will have."""

from dataclasses import replace

import pytest

from toto.video.account import Account, clip_seconds, reasons, short_reason
from toto.video.manifest import Row

GOOD = Row(
    source="k600", path="a.mp4", clip="a", sha256="0" * 64, status="ok", frames=61, duration_s=2.0
)
IMAGE = replace(GOOD, source="photos", kind="image", frames=1, duration_s=0.0)
MISSING = replace(GOOD, status="missing", stage="list", reason="not on disk", frames=0)


def account(*rows: Row, stride: int = 4, frames: int = 16) -> Account:
    counted = Account(stride=stride, frames=frames)
    counted.add(rows, where="data")
    return counted


@pytest.mark.parametrize(
    ("frames", "kept", "readable", "whole", "short"),
    [(60, 15, 0, 0, 1), (61, 16, 16, 1, 0), (64, 16, 16, 1, 0), (129, 33, 33, 2, 0)],
)
def test_kept_frames_count_only_where_a_sequence_fits(
    frames: int, kept: int, readable: int, whole: int, short: int
) -> None:
    tally = account(replace(GOOD, frames=frames)).tallies["k600/train"]
    assert (tally.clips, tally.frames, tally.kept) == (1, frames, kept)
    assert (tally.readable, tally.sequences(16), tally.short) == (readable, whole, short)


def test_images_make_sequences_together_and_have_no_length() -> None:
    tally = account(*[IMAGE] * 35).tallies["photos/train"]
    assert (tally.kept, tally.readable, tally.short) == (35, 35, 0)
    assert tally.sequences(16) == 2
    assert (tally.seconds, tally.untimed) == (0.0, 0)


def test_splits_kinds_and_sources_are_told_apart() -> None:
    rows = [GOOD, IMAGE, replace(GOOD, split="val"), replace(GOOD, source="ego4d"), MISSING]
    tallies = account(*rows).tallies
    assert set(tallies) == {"k600/train", "photos/train", "k600/val", "ego4d/train"}
    assert (tallies["k600/train"].clips, tallies["k600/train"].lost) == (1, 1)


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        # 61 frames at 30 a second: 2 s between the first and the last, and a 30th more.
        ({"frames": 61, "duration_s": 2.0}, 61 / 30),
        # A list's interval is as long as the list says.
        ({"frames": 60, "duration_s": 2.0, "start_s": 1.0, "end_s": 3.0}, 2.0),
        ({"frames": 1, "duration_s": 0.0, "fps": 25.0}, 0.04),
        ({"frames": 50, "duration_s": 0.0, "fps": 25.0}, 2.0),
        ({"frames": 50, "duration_s": 0.0, "fps": None}, None),
    ],
)
def test_a_clip_is_shown_until_its_last_frame_ends(
    fields: dict[str, float], seconds: float | None
) -> None:
    row = replace(GOOD, **fields)
    assert clip_seconds(row) == (None if seconds is None else pytest.approx(seconds))
    tally = account(row).tallies["k600/train"]
    assert tally.seconds == pytest.approx(seconds or 0.0)
    assert tally.untimed == (seconds is None)


@pytest.mark.parametrize(
    ("reason", "short"),
    [
        ("29 frames are too few, 61 needed", "N frames are too few, N needed"),
        ("shown from 1.5 s on", "shown from N s on"),
        ("x/a.mp4: codec h264 in a.mp4", "FILE: codec h264 in FILE"),
        ("aa.mp4x is not it", "aa.mp4x is not it"),
        ("long " * 40, ("long " * 40)[:87] + "..."),
    ],
)
def test_a_reason_loses_what_differs_from_file_to_file(reason: str, short: str) -> None:
    row = replace(GOOD, path="x/a.mp4", status="refused", stage="open", reason=reason)
    assert short_reason(row) == short


def test_losses_and_damage_are_counted_by_reason() -> None:
    short = replace(GOOD, status="refused", stage="limits", reason="-", frames=0)
    rows = [
        replace(short, path=f"{number}.mp4", reason=f"{number} frames are too few")
        for number in (7, 8, 9)
    ]
    rows += [MISSING, replace(GOOD, reason="3 of 61 frames could not be decoded"), GOOD]
    counted = account(*rows)
    assert reasons(counted.losses) == [
        {
            "source": "k600/train",
            "status": "refused",
            "stage": "limits",
            "reason": "N frames are too few",
            "clips": 3,
            "example": "7.mp4",
        },
        {
            "source": "k600/train",
            "status": "missing",
            "stage": "list",
            "reason": "not on disk",
            "clips": 1,
            "example": "a.mp4",
        },
    ]
    (damage,) = reasons(counted.damaged)
    assert (damage["reason"], damage["clips"]) == ("N of N frames could not be decoded", 1)
    tally = counted.tallies["k600/train"]
    assert (tally.clips, tally.lost, tally.damaged) == (2, 4, 1)


def test_the_same_clips_in_two_folders_are_refused() -> None:
    counted = account(GOOD, replace(GOOD, split="val"))
    counted.add([replace(GOOD, source="ego4d")], where="more")
    with pytest.raises(ValueError, match="data and again both hold k600/val, which would be"):
        counted.add([replace(GOOD, split="val")], where="again")
