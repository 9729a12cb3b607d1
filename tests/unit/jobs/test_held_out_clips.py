from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from toto.jobs.held_out_clips import DIGITS, REAL, held_out_clips
from toto.video.collection import CollectionConfig, DigitClips


@dataclass
class Video:
    path: str
    frames: int


class MadeCollection:
    """Videos whose every frame is its own grey level, and digits of 4 frames."""

    def __init__(self, lengths: dict[str, int], *, digits: int = 0) -> None:
        self.held_out = [Video(path, frames) for path, frames in lengths.items()]
        made = CollectionConfig(frames=4, held_out_share=0.5)
        made = replace(made, digits=replace(made.digits, frames=4))
        self.config = replace(made, digit_clips=DigitClips(test=digits))
        self.read_paths: list[str] = []

    def read(self, decoder: object, row: Video) -> Any:
        self.read_paths.append(row.path)
        levels = np.arange(row.frames, dtype=np.uint8)[:, None, None, None]
        return Holder(frames=levels.repeat(8, 1).repeat(8, 2).repeat(3, 3))

    def digits(self, decoder: object, split: str) -> list[Any]:
        frames = self.read(decoder, Video("digits", 4)).frames
        clip = Holder(frames=__import__("torch").from_numpy(frames), source="digit 0")
        return [Holder(clip=clip)] * 9


class Holder:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def read(collection: MadeCollection, **asked: int) -> list[tuple[str, str, list[int]]]:
    asked = {"frames": 4, "real": 9, "digits": 0} | asked
    clips = held_out_clips(collection, **asked)  # type: ignore[arg-type]
    return [(c.source, c.group, c.frames[:, 0, 0, 0].tolist()) for c in clips]


def test_each_video_gives_one_before_any_gives_two() -> None:
    collection = MadeCollection({"a.mp4": 13, "short.mp4": 3, "b.mp4": 8})
    assert read(collection) == [
        ("a.mp4", REAL, [0, 1, 2, 3]),
        ("b.mp4", REAL, [0, 1, 2, 3]),
        ("a.mp4#frame 4", REAL, [4, 5, 6, 7]),
        ("b.mp4#frame 4", REAL, [4, 5, 6, 7]),
        ("a.mp4#frame 8", REAL, [8, 9, 10, 11]),
    ]


def test_no_more_videos_are_read_than_are_needed() -> None:
    collection = MadeCollection({"a.mp4": 8, "b.mp4": 8, "c.mp4": 8})
    assert [source for source, _, _ in read(collection, real=2)] == ["a.mp4", "b.mp4"]
    assert collection.read_paths == ["a.mp4", "b.mp4"]


def test_digits_come_last_and_are_a_group_of_their_own() -> None:
    found = read(MadeCollection({"a.mp4": 4}, digits=5), digits=2)
    assert [(source, group) for source, group, _ in found] == [
        ("a.mp4", REAL),
        ("digit 0", DIGITS),
        ("digit 0", DIGITS),
    ]


def test_a_clip_that_is_too_short_for_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no held-out clip has 90 frames; ask for fewer --prompt"):
        read(MadeCollection({"a.mp4": 13}, digits=5), frames=90, digits=2)


def test_the_hash_is_of_the_pixels() -> None:
    clips = held_out_clips(MadeCollection({"a.mp4": 8}), frames=4, real=9, digits=0)  # type: ignore[arg-type]
    assert len({clip.sha256() for clip in clips}) == 2
    assert clips[0].sha256() == clips[0].sha256()
