"""Clips that nothing was trained on, long enough to be continued."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest

import torch
from jaxtyping import UInt8
from torch import Tensor

from toto.video.collection import Collection
from toto.video.decode import Decoder
from toto.video.manifest import Row

REAL, DIGITS = "real clips", "moving digits"
"""Groups, which are scored apart: what is easy in one is not in the other."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOutClip:
    """A clip to be continued, with what came.

    Attributes:
        source: `path`, or `path#frame N` where one video gives several.
        video: that it is from; clips of one video are not independent.
        group: `REAL` or `DIGITS`.
        frames: sRGB bytes.
    """

    source: str
    video: str
    group: str
    frames: UInt8[Tensor, "T H W 3"]

    def sha256(self) -> str:
        """Hash of the pixels."""
        return hashlib.sha256(self.frames.contiguous().numpy().tobytes()).hexdigest()


def held_out_clips(
    collection: Collection, *, frames: int, real: int, digits: int
) -> list[HeldOutClip]:
    """Read held-out clips, real ones first.

    Each video gives one, from its start. Only where the videos do not suffice do they give a
    second, from behind the first, and so on.

    Args:
        collection: the ingested data.
        frames: of each clip; shorter ones are passed over.
        real: how many real ones at most.
        digits: how many made ones at most, if the data has any.

    Raises:
        ValueError: if no held-out clip has so many frames.
    """
    with Decoder() as decoder:
        found = list(islice(_real(collection, decoder, frames, real), real))
        if digits and collection.config.digit_clips.test and collection.config.frames >= frames:
            made = collection.digits(decoder, "test")
            for index in range(digits):
                clip = made[index].clip
                found.append(
                    HeldOutClip(
                        source=clip.source,
                        video=clip.source,
                        group=DIGITS,
                        frames=clip.frames[:frames],
                    )
                )
    if not found:
        raise ValueError(
            f"no held-out clip has {frames} frames; ask for fewer --prompt-frames or --frames"
        )
    return found


def _real(
    collection: Collection, decoder: Decoder, frames: int, most: int
) -> Iterator[HeldOutClip]:
    videos = []
    for row in collection.held_out:
        if len(videos) == most:
            break
        read = torch.from_numpy(collection.read(decoder, row).frames)
        clips = list(islice(_cut(row, read, frames), most))
        if clips:
            videos.append(clips)
    for turn in zip_longest(*videos):
        yield from (clip for clip in turn if clip is not None)


def _cut(row: Row, read: UInt8[Tensor, "T H W 3"], frames: int) -> Iterator[HeldOutClip]:
    for start in range(0, len(read) - frames + 1, frames):
        source = f"{row.path}#frame {start}" if start else row.path
        part = read[start : start + frames].clone()
        yield HeldOutClip(source=source, video=row.path, group=REAL, frames=part)
