"""Which clips go into which shard: a pure function of manifests and config.

Nothing else decides a shard's bytes, so it does not matter which worker makes it, how many there
are, or how often one was killed.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from toto.config import to_dict
from toto.tasks.views import crop_shares
from toto.video.collection import TRAINING_SPLITS, Collection
from toto.video.datasets.moving_digits import Split
from toto.video.manifest import Row
from toto.video.reading import Cut, kept_frames

DIGIT_SPLITS: tuple[Split, ...] = ("pretrain", "train", "selection", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class CutClip:
    """One clip of a shard."""

    row: Row
    cut: Cut


@dataclass(frozen=True, kw_only=True, slots=True)
class DigitRange:
    """Some made clips of a split: those from `first` on, before `end`."""

    split: Split
    first: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask:
    """What one shard is made of."""

    name: str
    """Folder of the shard below that of all shards: `kinetics-400/train/00017`."""
    data: int
    """Which of the data folders."""
    side_px: int
    clips: tuple[CutClip, ...] = ()
    """Real clips; those of one file follow each other."""
    digits: DigitRange | None = None
    """Made clips; a shard has either kind."""

    @property
    def source(self) -> str:
        """The token set that the shard belongs to."""
        return self.name.rpartition("/")[0]

    @property
    def kind(self) -> str:
        """Whether the frames of a clip follow each other in time: `video` or `images`."""
        return "images" if self.clips and self.clips[0].row.kind == "image" else "video"

    def digest(self) -> str:
        """Changes with whatever decides the shard's tokens but the tokenizer."""
        body = json.dumps(
            to_dict(replace(self, clips=()))
            | {"clips": [[c.row.clip, c.row.sha256, to_dict(c.cut)] for c in self.clips]}
        )
        return hashlib.sha256(body.encode()).hexdigest()

    def files(self) -> Iterator[list[tuple[int, CutClip]]]:
        """Group the clips of each file, with their numbers in the shard."""
        numbered = enumerate(self.clips)
        for _, group in itertools.groupby(numbered, key=lambda pair: _file_of(pair[1].row)):
            yield list(group)


def plan_shards(
    collections: Sequence[Collection],
    lost: Iterable[tuple[int, int]],
    *,
    crops: int,
    test_crops: int,
    stride: int | None,
    side_px: int | None,
    shard_frames: int,
    seed: int,
) -> list[ShardTask]:
    """Share out the usable clips of all data folders.

    Args:
        collections: the data folders.
        lost: (folder, row number) of clips to leave out, such as blocked ones.
        crops: random squares of every training clip.
        test_crops: squares of every other clip, along its longer side.
        stride: every how many-th frame is kept; None takes what each folder was ingested with.
        side_px: side of the squares; None takes what each folder was ingested with.
        shard_frames: frames of a shard, unless one clip alone has more.
        seed: of the crops.

    Raises:
        ValueError: if two data folders give clips of the same source.
    """
    left_out = set(lost)
    tasks: list[ShardTask] = []
    names: dict[str, int] = {}
    for data, collection in enumerate(collections):
        side = side_px or collection.config.side_px
        groups: dict[str, list[CutClip]] = {}
        for number, row in enumerate(collection.rows):
            if row.status == "ok" and (data, number) not in left_out:
                every = Cut(stride=stride or collection.config.stride, side_px=side)
                for crop in _crops(row, crops, test_crops, seed):
                    cut = replace(every, crop=crop)
                    clip = CutClip(row=row, cut=cut)
                    groups.setdefault(f"{row.source}/{row.split}", []).append(clip)
        ranges = list(_digit_ranges(collection, shard_frames))
        for name in [*groups, *(f"moving-digits/{made.split}" for made in ranges)]:
            if names.setdefault(name, data) != data:
                raise ValueError(
                    f"two data folders hold {name}; tokenise them into two --out folders, or "
                    "ingest one under another --dataset.name"
                )
        for name, clips in groups.items():
            for number, part in enumerate(_parts(clips, shard_frames)):
                shard = f"{name}/{number:05d}"
                tasks.append(ShardTask(name=shard, data=data, side_px=side, clips=tuple(part)))
        counts: dict[str, int] = {}
        for made in ranges:
            number = counts[made.split] = counts.get(made.split, -1) + 1
            shard = f"moving-digits/{made.split}/{number:05d}"
            tasks.append(ShardTask(name=shard, data=data, side_px=side, digits=made))
    return tasks


def _crops(row: Row, crops: int, test_crops: int, seed: int) -> list[tuple[float, float]]:
    """Where the squares of a clip lie in the free room, x and y in [0, 1]."""
    if row.split not in TRAINING_SPLITS:
        # What scores are computed on shows the same squares to everyone.
        wide = row.width >= row.height
        return [(share, 0.5) if wide else (0.5, share) for share in crop_shares(test_crops)]
    # Of the clip's name, not of its number: more clips in the data set change no crop.
    name = hashlib.sha256(f"{row.source}\n{row.clip}".encode()).digest()
    random = np.random.default_rng([seed, *np.frombuffer(name[:16], "<u4").tolist()])
    return [(x, y) for x, y in random.random((crops, 2)).tolist()]


def _parts(clips: Sequence[CutClip], shard_frames: int) -> Iterator[list[CutClip]]:
    part, frames = [], 0
    for clip in clips:
        more = kept_frames(clip.row, clip.cut.stride)
        if part and frames + more > shard_frames:
            yield part
            part, frames = [], 0
        part.append(clip)
        frames += more
    if part:
        yield part


def _digit_ranges(collection: Collection, shard_frames: int) -> Iterator[DigitRange]:
    size = max(1, shard_frames // collection.config.digits.frames)
    for split in DIGIT_SPLITS:
        count = getattr(collection.config.digit_clips, split)
        for first in range(0, count, size):
            yield DigitRange(split=split, first=first, end=min(first + size, count))


def _file_of(row: Row) -> tuple[str, str]:
    return row.kind, row.path
