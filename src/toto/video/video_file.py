"""A stranger's video, opened in the decode child and nowhere else, and its frames one by one."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from toto.video.ahead import PacketTimes, Passed, numbered
from toto.video.checks import Checks
from toto.video.refused import Refused
from toto.video.sniff import container_of, describe, read_head

# FFmpeg's names. What people record, publish and archive; the long tail of decoders for old games
# and formats is where memory errors live, and stays closed.
CODECS = {
    *("h264", "hevc", "h263", "mpeg4", "mpeg1video", "mpeg2video", "msmpeg4v1", "msmpeg4v2"),
    *("msmpeg4", "libdav1d", "av1", "vp8", "vp9", "libvpx", "libvpx-vp9", "theora", "mjpeg"),
    *("gif", "flv", "wmv1", "wmv2", "wmv3", "vc1", "prores", "dnxhd", "dvvideo", "ffv1"),
    *("huffyuv", "ffvhuff", "rawvideo", "cinepak", "svq3"),
}


class Video:
    """One open file: its frames in the order they are shown, and what went wrong on the way."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        limits: dict[str, Any],
        checks: Checks | None = None,
    ) -> None:
        self.container = container
        self.stream = stream
        self.limits = limits
        self._checks = checks
        self.decoded_frames = 0
        self.decode_errors = 0
        self.placeholders = 0
        self.dropped_times = 0
        self.last_time_s = 0.0
        self._times = PacketTimes(stream, container.format.name) if checks else None
        self._passed = Passed()
        # AVI stores no times of showing, only the order of storage. FFmpeg puts that order on
        # `pts` as it is, which jumps back and forth with B-frames; on `dts` it comes out sorted.
        self._is_avi = container.format.name == "avi"
        self._unit_s = stream.time_base or Fraction(1)

    @property
    def packets_numbered(self) -> bool:
        """Whether the packets' times number the frames; known when a check has seen them all."""
        return self._times is not None and not self.decode_errors and self._times.number_frames

    @property
    def passed_frames(self) -> int:
        """Frames that were not decoded since nothing wants or refers to them."""
        return self._passed.frames

    def frames(
        self, wants: Callable[[int], bool] | None = None
    ) -> Iterator[tuple[int, float, VideoFrame]]:
        """Yield index, time in seconds from the first frame, and the frame.

        Args:
            wants: tells of an index whether its frame is wanted; others may be left out. Only for a
                file of which `packets_numbered` is known to hold. None gives every frame.

        Raises:
            Refused: if the file is larger than the limits.
            Astray: if `packets_numbered` does not hold; every frame until then is right.
        """
        index, first, last, unit = 0, None, None, self._unit_s
        for frame in self._decoded(wants):
            self.decoded_frames += 1
            self.decode_errors += frame.is_corrupt
            ticks = self._ticks(frame, last)
            if wants is not None:
                index = self._passed.shown(frame.pts, index)
            if last is not None and ticks <= last:
                self.dropped_times += 1
                continue
            first, last = ticks if first is None else first, ticks
            if self._times is not None:
                self._times.frame(frame.pts)
            # Exact until here, or a frame at 10 s might end up on the wrong side of 10.0.
            self.last_time_s = float((ticks - first) * unit.numerator / unit.denominator)
            if self.last_time_s > self.limits["max_duration_s"]:
                raise Refused(
                    "limits",
                    f"frame {index} is shown at {self.last_time_s:.0f} s, "
                    f"max_duration_s is {self.limits['max_duration_s']:g}",
                )
            yield index, self.last_time_s, frame
            index += 1
        self._passed.end()

    def info(self, frame: VideoFrame) -> dict[str, Any]:
        """Say what the container claims, with the size of a frame as it is shown."""
        stream = self.stream
        fps = stream.average_rate or stream.guessed_rate
        turned = round(frame.rotation / 90) % 2 == 1
        return {
            "width": frame.height if turned else frame.width,
            "height": frame.width if turned else frame.height,
            "frames_claimed": stream.frames or None,
            "fps": float(fps) if fps else None,
            "duration_s": _duration_s(self.container, stream),
            "codec": stream.codec_context.name,
            "container": self.container.format.name,
        }

    def complaints(self) -> list[str]:
        """Say what else speaks for damage; nothing unless the video was opened to be checked."""
        if self._checks is None:
            return []
        self._checks.end(damaged=self.decode_errors > 0)
        return self._checks.complaints

    def _decoded(self, wants: Callable[[int], bool] | None) -> Iterator[VideoFrame]:
        """Decode packet by packet: a damaged one costs itself, not the rest of the file."""
        packets = self._packets()
        for packet in packets if wants is None else self._unless_unwanted(packets, wants):
            # Packed B-frames: one byte in the place of a frame that came with the packet before.
            self.placeholders += packet.size == 1
            self.decode_errors += packet.is_corrupt
            if self._times is not None:
                self._times.packet(packet)
            try:
                frames = packet.decode()
            except MemoryError:
                raise
            except FFmpegError:
                self.decode_errors += 1
                continue
            if self._checks is not None:
                self._checks.packet(packet, frames, damaged=self.decode_errors > 0)
            for frame in frames:
                if isinstance(frame, VideoFrame):
                    yield frame

    def _packets(self) -> Iterator[Packet]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except FFmpegError:
                self.decode_errors += 1
                # As at the end of a whole file: the decoder gives what it still holds.
                packet = Packet()
                packet.stream = self.stream
                yield packet
                return
            if packet is None:
                return
            yield packet

    def _unless_unwanted(
        self, packets: Iterator[Packet], wants: Callable[[int], bool]
    ) -> Iterator[Packet]:
        """Let the decoder leave out what is not wanted, as far as nothing refers to it."""
        codec, all_of_them = self.stream.codec_context, True
        for packet, number in numbered(packets):
            # The first one tells the size, and when time begins.
            wanted = not number or wants(number)
            if packet.pts is not None:
                self._passed.expect(packet.pts, number, wanted=wanted)
            if wanted != all_of_them:
                codec.skip_frame, all_of_them = ("DEFAULT" if wanted else "NONREF"), wanted
            yield packet

    def _ticks(self, frame: VideoFrame, last: int | Fraction | None) -> int | Fraction:
        """Say when a frame is shown, in the stream's unit of time."""
        ticks = frame.dts if self._is_avi else frame.pts
        if ticks is not None:
            return ticks
        fps = self.stream.average_rate or self.stream.guessed_rate
        if not fps:
            raise Refused("decode", "its frames carry no times and it names no frame rate")
        return Fraction(0) if last is None else last + 1 / (fps * self._unit_s)


@contextmanager
def open_video(fd: int, limits: dict[str, Any], *, checked: bool = False) -> Iterator[Video]:
    """Open a regular file by its descriptor with the one demuxer that its first bytes call for.

    Args:
        fd: the file.
        limits: fields of `toto.video.limits.DecodeLimits`.
        checked: look for silent damage on the way, which takes about as long again.

    Raises:
        Refused: if it is no video, is broken, or is larger than the limits.
    """
    head = read_head(fd)
    demuxer = container_of(head)
    if demuxer is None:
        raise Refused("sniff", describe(head))
    os.lseek(fd, 0, os.SEEK_SET)
    codec_options = {
        "codec_whitelist": ",".join(sorted(CODECS)),
        "max_pixels": str(limits["max_pixels"]),
    }
    with ExitStack() as stack:
        checks = stack.enter_context(Checks(limits["max_pixels"])) if checked else None
        try:
            # `fd:` with only that protocol allowed: a demuxer that follows a name inside the file
            # finds no way to open it.
            container = av.open(
                "fd:",
                format=demuxer,
                options={
                    "fd": str(fd),
                    "protocol_whitelist": "fd",
                    "format_whitelist": demuxer,
                    "max_streams": str(limits["max_streams"]),
                    **codec_options,
                },
                metadata_errors="replace",
            )
        except MemoryError:
            raise
        except FFmpegError as error:
            reason = f"the {demuxer} container cannot be read: {error.strerror}"
            raise Refused("probe", reason) from error
        stack.enter_context(container)
        stream = _checked_stream(container, limits)
        stream.codec_context.options = codec_options
        # One thread: throughput comes from more children, and frames do not depend on timing.
        stream.codec_context.thread_count = 1
        if checks is not None:
            checks.opened(fd, demuxer, stream)
        yield Video(container, stream, limits, checks)


def _checked_stream(container: InputContainer, limits: dict[str, Any]) -> VideoStream:
    if len(container.streams) > limits["max_streams"]:
        raise Refused(
            "limits", f"{len(container.streams)} streams, max_streams is {limits['max_streams']}"
        )
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise Refused("probe", "it has no video stream")
    stream = streams[0]
    codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
    if codec not in CODECS:
        raise Refused("probe", f"its codec {codec} is not among those that are decoded")
    if stream.width * stream.height > limits["max_pixels"]:
        raise Refused(
            "limits",
            f"{stream.width} x {stream.height} pixels, max_pixels is {limits['max_pixels']}",
        )
    duration_s = _duration_s(container, stream)
    if duration_s is not None and duration_s > limits["max_duration_s"]:
        raise Refused(
            "limits", f"{duration_s:.0f} s, max_duration_s is {limits['max_duration_s']:g}"
        )
    return stream


def _duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1e6
