"""Signs of damage beyond decoding errors, collected in the decode child while a file is scanned."""

from collections.abc import Iterable
from typing import Self

import av.logging
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from toto.video.second_opinion import SecondOpinion
from toto.video.structure import contradiction

_MOST = 3
"""Complaints kept of one file."""


class Checks:
    """What FFmpeg's libraries print about a file, and what a second decoding finds.

    To be entered before the file is opened. FFmpeg reports much of the damage that it works around
    only as lines of text.

    Attributes:
        complaints: a few signs of damage, one line each; their text is partly the file's.

    Args:
        max_pixels: what the second decoding may cost.
    """

    def __init__(self, max_pixels: int) -> None:
        self.complaints: list[str] = []
        self._max_pixels = max_pixels
        self._opinion: SecondOpinion | None = None
        # Of all threads: the second decoding may have more than one.
        self._capture = av.logging.Capture(local=False)
        self._lines: list[tuple[int, str, str]] = []

    def __enter__(self) -> Self:
        av.logging.set_level(av.logging.ERROR)
        # Or what was said of the file before would not be said of this one.
        av.logging.set_skip_repeated(False)
        self._lines = self._capture.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._capture.__exit__(None, None, None)
        av.logging.set_level(None)

    def opened(self, fd: int, demuxer: str, stream: VideoStream) -> None:
        """Look at the file's structure, and begin with the video's packets.

        What decoders print while the container is opened is left out: it may be about its sound,
        for which none is allowed, and what is about the video comes again.
        """
        self._take(only={demuxer, ""})
        if broken := contradiction(fd, demuxer):
            self.complaints.append(broken)
        self._opinion = SecondOpinion(stream, self._max_pixels)

    def packet(self, packet: Packet, frames: Iterable[object], *, damaged: bool) -> None:
        """Check a packet and what the decoder made of it.

        Args:
            packet: of the video.
            frames: what came out when it was decoded.
            damaged: whether the file is known to be; the second decoding is saved then.
        """
        self._take()
        if self._opinion is None or damaged or self.complaints:
            return
        for frame in frames:
            if isinstance(frame, VideoFrame):
                self._opinion.frame(frame)
        self._opinion.key_frame(packet)
        # An altered frame is meant to upset the decoder.
        self._lines.clear()
        self._opinion.packet(packet)
        self._agree()

    def end(self, *, damaged: bool) -> None:
        """Check what is left when the file has come to its end."""
        self._take()
        if self._opinion is not None and not damaged and not self.complaints:
            self._opinion.end()
            self._agree()
        self._opinion = None

    def _agree(self) -> None:
        assert self._opinion is not None
        if self._opinion.complaint:
            self.complaints.append(self._opinion.complaint)
        self._take()

    def _take(self, only: set[str] | None = None) -> None:
        for _, name, text in self._lines:
            line = " ".join(f"{name}: {text}".split())[:120]
            # A demuxer is printed with all its names: `matroska,webm`.
            wanted = (only is None or name.split(",")[0] in only) and "whitelist" not in text
            if wanted and len(self.complaints) < _MOST and line not in self.complaints:
                self.complaints.append(line)
        self._lines.clear()
