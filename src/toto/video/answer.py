"""What the decode child sends, read without trusting a number in it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from toto.video.channel import MESSAGE_BYTES, Channel
from toto.video.decoded import THUMBNAIL_PX, Decoded, Scan, VideoInfo
from toto.video.span import Span


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pictures:
    """Frames as the child sends them, several of one size a message.

    Attributes:
        spans: which of the spans asked for want each; none for a thumbnail.
        indices: position of each among the file's frames.
        times_s: when each is shown, in seconds from the file's first frame.
        arrays: sRGB bytes, or grey ones of thumbnails; the next message may take their memory.
    """

    spans: list[list[int]]
    indices: list[int]
    times_s: list[float]
    arrays: UInt8[np.ndarray, "N H W C"]


class Found:
    """What a child says of a file, kept until it has said all.

    Attributes:
        info: what the container claims.
        thumbnails: grey pictures u8 [64 64].
    """

    def __init__(self) -> None:
        self.info: VideoInfo | None = None
        self.thumbnails: list[UInt8[np.ndarray, "64 64"]] = []
        self._counts: dict[str, Any] = {}

    def end(self, done: dict[str, Any], intervals: int) -> None:
        """Take the counts that come last.

        Raises:
            KeyError: if something is missing.
            TypeError: if it is not what was asked for.
            ValueError: the same.
        """
        if self.info is None:
            raise KeyError("info")
        spans = tuple((int(first), int(count)) for first, count in done["spans"])
        if len(spans) != intervals:
            raise ValueError(f"{len(spans)} spans for {intervals} intervals")
        self._counts = {
            "decoded_frames": int(done["decoded_frames"]),
            "decode_errors": int(done["decode_errors"]),
            "placeholders": int(done["placeholders"]),
            "dropped_times": int(done["dropped_times"]),
            "last_time_s": float(done["last_time_s"]),
            "passed_frames": int(done["passed_frames"]),
            "packets_numbered": bool(done["packets_numbered"]),
            "complaints": tuple(
                " ".join(str(line).split())[:200] for line in done["complaints"][:9]
            ),
            "spans": spans,
        }

    def scan(self) -> Scan:
        """Give it all."""
        assert self.info is not None
        grey = np.empty((len(self.thumbnails), THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
        for number, thumbnail in enumerate(self.thumbnails):
            grey[number] = thumbnail
        return Scan(info=self.info, **self._counts, thumbnails=grey)

    def decoded(
        self,
        path: Path,
        frames: UInt8[np.ndarray, "T H W 3"],
        times_s: list[float],
        indices: list[int],
    ) -> Decoded:
        """Give it all with frames."""
        scan = self.scan()
        return Decoded(
            **{item.name: getattr(scan, item.name) for item in fields(scan)},
            frames=frames,
            times_s=np.array(times_s, np.float64),
            indices=np.array(indices, np.int64),
            path=path,
        )


def rest_of(span: Span, kept: int) -> dict[str, Any]:
    """Say what is still to come of a span of which so many frames are here."""
    return {
        "start": span.start + kept * span.stride,
        "stride": span.stride,
        "frames": None if span.frames is None else span.frames - kept,
        "crop": span.crop,
    }


Room = Callable[[int, tuple[int, int, int]], UInt8[np.ndarray, "N H W C"]]


class Inbox:
    """Reads pictures as the child sends them, several a message.

    Args:
        max_pixels: of one picture.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._memory = np.empty(0, np.uint8)
        self._request: dict[str, Any] = {}
        self._shape: tuple[int, int, int] | None = None
        self._room: Room = self._used_again

    def expect(self, request: dict[str, Any], room: Room | None = None) -> None:
        """Begin a request.

        Args:
            request: the frames still wanted of each span are counted down in it.
            room: gives memory for so many pictures of a size; by default it is used again for each
                message.
        """
        self._request, self._shape, self._room = request, None, room or self._used_again

    def take(self, message: dict[str, Any], channel: Channel) -> Pictures:
        """Receive the pictures that a message announces, trusting no number in it.

        Raises:
            EOFError: if the child is gone; what else a channel raises.
            LookupError: if something is missing.
            TypeError: if it is not what was asked for.
            ValueError: the same.
        """
        spans = message["spans"]
        indices = [int(index) for index in message["indices"]]
        times_s = [float(time_s) for time_s in message["times_s"]]
        if not len(spans) == len(indices) == len(times_s):
            raise ValueError(f"{len(spans)} spans, {len(indices)} indices, {len(times_s)} times")
        shape = (int(message["height"]), int(message["width"]), 3 if spans[0] else 1)
        too_large = shape[0] * shape[1] > self._max_pixels
        if min(shape) < 1 or too_large or self._shape not in (None, shape):
            raise TypeError(f"a frame of {shape} after {self._shape}")
        self._shape, size = shape, math.prod(shape)
        if (len(spans) - 1) * size > MESSAGE_BYTES:
            raise ValueError(f"{len(spans)} frames of {shape} in one message")
        for those in spans:
            self._count_down(those, shape)
        arrays = self._room(len(spans), shape)
        channel.receive_into(arrays)
        return Pictures(spans=spans, indices=indices, times_s=times_s, arrays=arrays)

    def _used_again(self, count: int, shape: tuple[int, int, int]) -> np.ndarray:
        size = count * math.prod(shape)
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size].reshape(count, *shape)

    def _count_down(self, spans: list[int], shape: tuple[int, int, int]) -> None:
        wanted = self._request["spans"]
        if len(spans) > 1 and len({*spans}) < len(spans):
            raise ValueError(f"a frame for spans {spans}")
        for number in spans:
            if not 0 <= number < len(wanted):
                raise ValueError(f"a frame for spans {spans}")
            if wanted[number]["frames"] is not None:
                wanted[number]["frames"] -= 1
                if wanted[number]["frames"] < 0:
                    raise ValueError(f"a frame too many for span {number}")
        thumbnails = self._request["thumbnail_every_s"] is not None
        if (shape[2] == 3) != bool(spans) or (
            not spans and not (thumbnails and shape[:2] == (THUMBNAIL_PX, THUMBNAIL_PX))
        ):
            raise ValueError(f"a frame of {shape} for spans {spans}")
