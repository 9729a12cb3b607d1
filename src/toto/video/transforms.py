"""From a frame of any size to the square that a tokenizer reads.

One implementation for videos and images, pre-training, probes and the demo: the same pictures
through another resize lose about a point of accuracy. FFmpeg's scaler does it, since it takes a
decoded frame as it is: a tenth of the time of turning it whole into RGB and resizing that.
"""

from fractions import Fraction
from typing import Any

import numpy as np
from av import VideoFrame
from av.filter import Graph
from numpy.typing import NDArray

RESIZE_FILTER = "swscale-bicubic-antialias"
"""What sidecars and results record of the resize; change it with the code below."""

# Catmull-Rom, as Pillow's bicubic; the same bytes on every processor; colour at full width.
_SCALE = "flags=bicubic+accurate_rnd+bitexact+full_chroma_inp:param0=0:param1=0.5"
_FILTERS_KEPT = 16


class Squares:
    """Cuts squares out of decoded frames and resizes them, for one thread.

    It keeps the filters it made, since frames that follow each other look alike to them.
    """

    def __init__(self) -> None:
        self._filters: dict[tuple[Any, ...], Graph] = {}

    def cut(
        self, frame: VideoFrame, side_px: int, crop_x: float = 0.5, crop_y: float = 0.5
    ) -> NDArray[np.uint8]:
        """Cut the largest square out of a frame, upright, and resize it to `side_px`.

        Args:
            frame: of any size and pixel format; turned by its `rotation`.
            side_px: the square's side in the end.
            crop_x: where in the free room the square stands: 0 left, 0.5 the middle, 1 right.
            crop_y: the same from top to bottom.

        Returns:
            sRGB bytes [side_px side_px 3], contiguous.
        """
        quarters = round(frame.rotation / 90) % 4
        # Where the upright picture's shares lie in the frame as it is stored.
        x, y = [
            (crop_x, crop_y),
            (1 - crop_y, crop_x),
            (1 - crop_x, 1 - crop_y),
            (crop_y, 1 - crop_x),
        ][quarters]
        graph = self._filter(frame, side_px, x, y)
        graph.vpush(frame)
        small = np.rot90(graph.vpull().to_ndarray(), quarters)
        return np.ascontiguousarray(small, dtype=np.uint8)

    def _filter(self, frame: VideoFrame, side_px: int, x: float, y: float) -> Graph:
        look = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        key = (*look, side_px, x, y)
        if key not in self._filters:
            if len(self._filters) == _FILTERS_KEPT:
                del self._filters[next(iter(self._filters))]
            self._filters[key] = _filter(frame, side_px, x, y)
        return self._filters[key]


def resize_crop(
    frame: NDArray[np.uint8], side_px: int, crop_x: float = 0.5, crop_y: float = 0.5
) -> NDArray[np.uint8]:
    """Do to an array what `Squares.cut` does to a decoded frame.

    Args:
        frame: sRGB bytes [H W 3].
        side_px: see `Squares.cut`, as for the other two.
        crop_x: left to right, in [0, 1].
        crop_y: top to bottom, in [0, 1].

    Returns:
        sRGB bytes [side_px side_px 3], contiguous.

    Raises:
        ValueError: if the frame is not [H W 3] bytes, the side is below 1 or a crop outside [0, 1].
    """
    _check_frame(frame)
    check_crop(side_px, crop_x, crop_y)
    return Squares().cut(VideoFrame.from_ndarray(frame), side_px, crop_x, crop_y)


def resize_whole(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a whole frame, nothing cut off, by the same filter.

    Args:
        frame: sRGB bytes [H W 3].
        size: rows and columns in the end, in pixels; another shape than the frame's squashes it.

    Returns:
        sRGB bytes of that size, contiguous; the frame itself if it has it.

    Raises:
        ValueError: if the frame is not [H W 3] bytes or a side is below 1.
    """
    _check_frame(frame)
    if min(size) < 1:
        raise ValueError(f"size {size} has a side below 1 pixel")
    if frame.shape[:2] == size:
        return frame
    whole, (rows, columns) = VideoFrame.from_ndarray(frame), size
    graph = _scaled(whole, (), columns, rows)
    graph.vpush(whole)
    return np.ascontiguousarray(graph.vpull().to_ndarray(), dtype=np.uint8)


def check_crop(side_px: int, crop_x: float, crop_y: float) -> None:
    """Raise ValueError unless the square has a side and stands within the frame."""
    if side_px < 1:
        raise ValueError(f"side_px must be at least 1, got {side_px}")
    for name, share in (("crop_x", crop_x), ("crop_y", crop_y)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is a share in [0, 1], got {share}")


def _filter(frame: VideoFrame, side_px: int, x: float, y: float) -> Graph:
    """Chain FFmpeg's crop and scale for frames that look like this one."""
    shortest = min(frame.width, frame.height)
    # The corner lies where a colour sample begins: most videos have one for 2 x 2 pixels.
    step_x, step_y = 64 // frame.format.chroma_width(64), 64 // frame.format.chroma_height(64)
    left = int(x * (frame.width - shortest)) // step_x * step_x
    top = int(y * (frame.height - shortest)) // step_y * step_y
    square = ("crop", f"{shortest}:{shortest}:{left}:{top}:exact=1")
    return _scaled(frame, (square,), side_px, side_px)


def _scaled(
    frame: VideoFrame, before: tuple[tuple[str, str], ...], width_px: int, height_px: int
) -> Graph:
    """Chain filters of FFmpeg, its scaler last, for frames that look like this one."""
    graph = Graph()
    graph.threads = 1  # starting others takes longer than the work
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1)
        ),
        *[graph.add(name, options) for name, options in before],
        graph.add("scale", f"{width_px}:{height_px}:{_SCALE}"),
        # By way of planes, which costs half of scaling into interleaved bytes.
        graph.add("format", "gbrp"),
        graph.add("scale", "flags=accurate_rnd+bitexact"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _check_frame(frame: NDArray[np.uint8]) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(f"a frame is uint8 [H W 3], got {frame.dtype} {list(frame.shape)}")
