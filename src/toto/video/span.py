"""Which frames of a file are wanted, and the pieces they come in."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from toto.video.transforms import check_crop


@dataclass(frozen=True, slots=True)
class Span:
    """The frames `start`, `start + stride`, ... of a file.

    Raises:
        ValueError: if an argument makes no sense.
    """

    start: int = 0
    """Index of the first frame."""
    stride: int = 1
    """From one frame to the next."""
    frames: int | None = None
    """How many at most; None for all."""
    crop: tuple[float, float] = (0.5, 0.5)
    """`crop_x` and `crop_y` of `toto.video.transforms.resize_crop`."""

    def __post_init__(self) -> None:
        if self.start < 0 or self.stride < 1 or (self.frames is not None and self.frames < 1):
            raise ValueError(
                "start must be at least 0, stride and frames at least 1, "
                f"got start {self.start}, stride {self.stride}, frames {self.frames}"
            )
        check_crop(1, *self.crop)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Piece:
    """Some frames of one span, following those of the piece before.

    Attributes:
        span: which one, by its place in the list that was asked for.
        frames: sRGB bytes, upright, resized and cut.
        times_s: when each is shown, in seconds from the file's first frame.
        indices: position of each among the file's frames, in the order they are shown.
        last: whether no other piece of this span comes.
    """

    span: int
    frames: UInt8[np.ndarray, "T H W 3"]
    times_s: Float64[np.ndarray, " T"]
    indices: Int64[np.ndarray, " T"]
    last: bool


class OpenPiece:
    """A piece of a span that is being filled, frame by frame.

    Args:
        number: the span's place in the list that was asked for.
        span: what is wanted.
        piece_frames: frames a piece holds at most.
    """

    def __init__(self, number: int, span: Span, piece_frames: int) -> None:
        self.number = number
        self.span = span
        self.room = min(piece_frames, span.frames or piece_frames)
        self.taken = 0
        self._begin()

    def add(self, frame: UInt8[np.ndarray, "H W 3"], time_s: float, index: int) -> Iterator[Piece]:
        """Take a frame; yield the piece before it if that is full, and the last as it fills."""
        if len(self._indices) == self.room:
            yield self._close(last=False)
        if not self._indices:
            self._frames = np.empty((self.room, *frame.shape), np.uint8)
        self._frames[len(self._indices)] = frame
        self._times_s.append(time_s)
        self._indices.append(index)
        self.taken += 1
        if self.taken == self.span.frames:
            yield self._close(last=True)

    def end(self) -> Iterator[Piece]:
        """Yield what is left when the file has no more frames."""
        if self._indices:
            yield self._close(last=True)

    def _begin(self) -> None:
        self._frames = np.empty((0, 0, 0, 3), np.uint8)
        self._times_s: list[float] = []
        self._indices: list[int] = []

    def _close(self, *, last: bool) -> Piece:
        piece = Piece(
            span=self.number,
            frames=self._frames[: len(self._indices)],
            times_s=np.array(self._times_s, np.float64),
            indices=np.array(self._indices, np.int64),
            last=last,
        )
        self._begin()
        return piece
