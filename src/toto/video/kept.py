"""Frames that are kept whole, within what they may take."""

import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from toto.video.answer import Found, Pictures
from toto.video.decoded import Decoded
from toto.video.limits import DecodeLimits
from toto.video.refused import VideoRefusedError
from toto.video.span import Span


class Kept:
    """The frames of one span of a file, all in memory.

    Args:
        path: the file.
        span: what is wanted of it.
        found: what is known of it so far, while pictures come.
        limits: what they may take.
    """

    def __init__(self, path: Path, span: Span, found: Found, limits: DecodeLimits) -> None:
        self._path, self._span, self._found, self._limits = path, span, found, limits
        self._frames: UInt8[np.ndarray, "T H W 3"] = np.empty((0, 0, 0, 3), np.uint8)
        self._times_s: list[float] = []
        self._indices: list[int] = []

    def room(self, count: int, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "N H W C"]:
        """Say where the next pictures are to be put before `add` is told of them.

        Raises:
            VideoRefusedError: if there are too many.
        """
        kept = len(self._indices)
        if kept + count > len(self._frames):
            self._grow(kept + count, shape)
        return self._frames[kept : kept + count]

    def add(self, pictures: Pictures) -> None:
        """Take pictures that came into the room made for them."""
        self._times_s += pictures.times_s
        self._indices += pictures.indices

    def decoded(self) -> Decoded:
        """Give them all."""
        frames = self._frames[: len(self._indices)]
        return self._found.decoded(self._path, frames, self._times_s, self._indices)

    def _grow(self, needed: int, shape: tuple[int, ...]) -> None:
        limits, kept = self._limits, len(self._indices)
        most = min(limits.max_frames, limits.max_kept_bytes // math.prod(shape))
        if needed > most:
            reason = (
                f"the frames asked for exceed max_frames {limits.max_frames} or "
                f"max_kept_bytes {limits.max_kept_bytes}; give frames, stride or side_px"
            )
            raise VideoRefusedError(self._path, "limits", reason)
        # What the file claims saves moving frames, but may be anything.
        info = self._found.info
        claimed = ((info and info.frames_claimed) or 0) // self._span.stride + 1
        first = self._span.frames or max(16, min(claimed, (64 << 20) // math.prod(shape)))
        room = np.empty((min(most, max(needed, 2 * kept or first)), *shape), np.uint8)
        room[:kept] = self._frames[:kept].reshape(kept, *shape)
        self._frames = room
