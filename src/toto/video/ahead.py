"""Which frame a packet holds, told from the packets' times before any of them is decoded.

A decoder can leave out frames that no other refers to, a third of most H.264 files. To know which
of them nobody wants, their place in the order of showing must be known before they are decoded.
"""

import heapq
import itertools
from array import array
from collections import deque
from collections.abc import Iterable, Iterator

from av.packet import Packet
from av.video.stream import VideoStream

# Where "no other refers to it" holds for the whole stream. In HEVC it holds within a temporal layer
# only, and the newer codecs hide such frames inside packets.
_CODECS = {"h264", "mpeg4", "mpeg1video", "mpeg2video"}
_MOST_WAITING = 64
"""Packets held back at most; H.264 and its like reorder 16 frames."""


class Astray(RuntimeError):
    """The frames that come out are not those that the packets' times announced."""


class PacketTimes:
    """Finds out, as a whole file is decoded, whether the packets' times number its frames.

    Args:
        stream: the video.
        container: FFmpeg's name of the demuxer.
    """

    def __init__(self, stream: VideoStream, container: str) -> None:
        # AVI stores no times of showing.
        self._orderly = stream.codec_context.name in _CODECS and container != "avi"
        self._announced, self._shown = array("q"), array("q")
        self._last_dts: int | None = None

    def packet(self, packet: Packet) -> None:
        """Take the next packet of the file."""
        if not self._orderly or packet.size == 0:
            return
        pts, dts, last = packet.pts, packet.dts, self._last_dts
        # Matroska stores no times of decoding: of the first packets none can be told.
        unknown = dts is None and last is not None
        backward = dts is not None and last is not None and dts <= last
        if pts is None or unknown or backward or (dts is not None and pts < dts):
            self._orderly = False
            return
        self._announced.append(pts)
        self._last_dts = dts

    def frame(self, pts: int | None) -> None:
        """Take the next frame that came out of the decoder."""
        self._orderly &= pts is not None
        if self._orderly and pts is not None:
            self._shown.append(pts)

    @property
    def number_frames(self) -> bool:
        """Say whether each packet gave one frame, and these came in the order of their times."""
        return self._orderly and sorted(self._announced) == self._shown.tolist()


class Passed:
    """Frames that the decoder was allowed to leave out, and what the others are counted as."""

    def __init__(self) -> None:
        self.frames = 0
        self._numbers: dict[int, int | None] = {}
        self._allowed: list[int] = []

    def expect(self, pts: int, number: int | None, *, wanted: bool) -> None:
        """Take a packet that is about to be decoded, wanted or not."""
        self._numbers[pts] = number
        if not wanted:
            heapq.heappush(self._allowed, pts)

    def shown(self, pts: int | None, index: int) -> int:
        """Give the index of a frame that came out, where `index` would be next without gaps.

        Raises:
            Astray: if it is another than its packet's times said.
        """
        if pts is None:
            raise Astray
        while self._allowed and self._allowed[0] < pts:
            del self._numbers[heapq.heappop(self._allowed)]
            self.frames += 1
            index += 1
        if self._allowed and self._allowed[0] == pts:
            heapq.heappop(self._allowed)
        if self._numbers.pop(pts, None) != index:
            raise Astray
        return index

    def end(self) -> None:
        """Count those that no frame came after."""
        self.frames += len(self._allowed)
        self._allowed.clear()


def numbered(packets: Iterable[Packet]) -> Iterator[tuple[Packet, int | None]]:
    """Yield the packets of a file with the number that each one's frame has in showing order.

    No frame is shown before it is decoded, so the order up to some time is known once a packet is
    there that is decoded at that time.

    Args:
        packets: of a file whose `PacketTimes` number its frames.

    Yields:
        A packet and its frame's number, counted from 0; None where too many would have to wait.
    """
    packets = iter(packets)
    waiting: deque[tuple[int, Packet]] = deque()
    unnumbered: list[int] = []
    numbers: dict[int, int] = {}
    counted = itertools.count()
    last: list[Packet] = []
    for packet in packets:
        if packet.pts is None:
            # The empty one at the end, which makes the decoder give what it still holds.
            last.append(packet)
            break
        while unnumbered and packet.dts is not None and unnumbered[0] <= packet.dts:
            numbers[heapq.heappop(unnumbered)] = next(counted)
        heapq.heappush(unnumbered, packet.pts)
        waiting.append((packet.pts, packet))
        while waiting and (waiting[0][0] in numbers or len(waiting) > _MOST_WAITING):
            pts, held = waiting.popleft()
            yield held, numbers.pop(pts, None)
    numbers |= {heapq.heappop(unnumbered): next(counted) for _ in range(len(unnumbered))}
    yield from ((held, numbers.pop(pts, None)) for pts, held in waiting)
    yield from ((packet, None) for packet in itertools.chain(last, packets))
