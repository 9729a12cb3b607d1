"""What the decode child makes of a frame, and how it hands pictures on."""

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from toto.video.channel import MESSAGE_BYTES, Channel
from toto.video.refused import Refused

MESSAGE_WORDS = 4096
"""Pictures and spans that a message names at most, or its header would grow too long."""


def upright_rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """Turn a decoded frame upright, and into sRGB bytes [H W 3]."""
    # One thread: starting others takes longer than the conversion.
    array = np.rot90(frame.to_ndarray(format="rgb24", threads=1), k=round(frame.rotation / 90))
    return np.ascontiguousarray(array, dtype=np.uint8)


def thumbnail(frame: VideoFrame) -> NDArray[np.uint8]:
    """Squash a whole upright frame into a grey square [64 64 1]."""
    grey = Image.fromarray(upright_rgb(frame)).convert("L")
    return np.array(grey.resize((64, 64), Image.Resampling.BOX))[..., None]


class Outbox:
    """Sends pictures of one size, several a message.

    A message for each would wake the receiver each time: a tenth of the time of reading a small
    video went there.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._shape: tuple[int, ...] | None = None
        self._begin()

    def add(
        self, picture: NDArray[np.uint8], *, spans: list[int], index: int, time_s: float
    ) -> None:
        """Take a picture [H W C], and send what is here when that is enough for a message.

        Raises:
            Refused: if it is not of the size of those before.
        """
        if self._shape not in (None, picture.shape):
            raise Refused(
                "decode",
                f"the picture changes from {self._shape[1]}x{self._shape[0]} to "
                f"{picture.shape[1]}x{picture.shape[0]} at frame {index}; give side_px",
            )
        self._shape = picture.shape
        self._pictures.append(picture)
        self._spans.append(spans)
        self._indices.append(index)
        self._times_s.append(time_s)
        self._said += 1 + len(spans)
        if len(self._pictures) * picture.size >= MESSAGE_BYTES or self._said >= MESSAGE_WORDS:
            self.send()

    def send(self) -> None:
        """Send what is here, if there is anything."""
        if not self._pictures:
            return
        height, width = self._pictures[0].shape[:2]
        words = {"spans": self._spans, "indices": self._indices, "times_s": self._times_s}
        self._channel.send({"height": height, "width": width, **words}, *self._pictures)
        self._begin()

    def _begin(self) -> None:
        self._pictures: list[NDArray[np.uint8]] = []
        self._spans: list[list[int]] = []
        self._indices: list[int] = []
        self._times_s: list[float] = []
        self._said = 0
