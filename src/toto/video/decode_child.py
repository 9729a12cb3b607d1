"""The program of the decode child: it opens strangers' files so that no other process does.

`toto.video.decode` starts it, sends one request a file and replaces it when it dies. It imports
only the standard library, numpy, PyAV and Pillow, and is ready in a fifth of a second.
"""

# PyAV and Pillow import `subtitles` and `ImageFile` at first use. The child can open no file by
# then, so they are imported here, though nothing below names them.
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import av.logging
import av.subtitles.codeccontext
import av.subtitles.stream
import numpy as np
import PIL.ImageFile  # noqa: F401
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from toto.video.channel import Channel
from toto.video.confine import allow_cpu, confine
from toto.video.refused import Refused
from toto.video.sniff import HEAD_BYTES, container_of, describe
from toto.video.still import read_still
from toto.video.transforms import resize_crop

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
        self, container: InputContainer, stream: VideoStream, limits: dict[str, Any]
    ) -> None:
        self.container = container
        self.stream = stream
        self.limits = limits
        self.decoded_frames = 0
        self.decode_errors = 0
        self.dropped_times = 0
        self.last_time_s = 0.0

    def frames(self) -> Iterator[tuple[int, float, VideoFrame]]:
        """Yield index, time in seconds from the first frame, and the frame."""
        index, first, last = 0, 0.0, float("-inf")
        for frame in self._decoded():
            self.decoded_frames += 1
            self.decode_errors += frame.is_corrupt
            stamp = self._stamp(frame, last)
            if stamp <= last:
                self.dropped_times += 1
                continue
            first, last = (stamp, stamp) if index == 0 else (first, stamp)
            self.last_time_s = stamp - first
            if self.last_time_s > self.limits["max_duration_s"]:
                raise Refused(
                    "limits",
                    f"frame {index} is shown at {self.last_time_s:.0f} s, "
                    f"max_duration_s is {self.limits['max_duration_s']:g}",
                )
            yield index, self.last_time_s, frame
            index += 1

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

    def _decoded(self) -> Iterator[VideoFrame]:
        """Decode packet by packet: a damaged one costs itself, not the rest of the file."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except FFmpegError:
                self.decode_errors += 1
                yield from self._flush()
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except MemoryError:
                raise
            except FFmpegError:
                self.decode_errors += 1
                continue
            for frame in frames:
                if isinstance(frame, VideoFrame):
                    yield frame

    def _flush(self) -> Iterator[VideoFrame]:
        """Get the frames still inside the decoder when the file broke off."""
        try:
            yield from self.stream.codec_context.decode(None)
        except FFmpegError:
            self.decode_errors += 1

    def _stamp(self, frame: VideoFrame, last: float) -> float:
        # AVI stores no times of showing, only the order of storage. FFmpeg puts that order on
        # `pts` as it is, which jumps back and forth with B-frames; on `dts` it comes out sorted.
        ticks = frame.dts if self.container.format.name == "avi" else frame.pts
        # Frames that are flushed out of the decoder come without the unit of their times.
        unit = frame.time_base or self.stream.time_base
        if ticks is not None and unit is not None:
            return float(ticks * unit)
        fps = self.stream.average_rate or self.stream.guessed_rate
        if not fps:
            raise Refused("decode", "its frames carry no times and it names no frame rate")
        return last + 1 / float(fps) if last > float("-inf") else 0.0


@contextmanager
def open_video(fd: int, limits: dict[str, Any]) -> Iterator[Video]:
    """Open a regular file by its descriptor with the one demuxer that its first bytes call for.

    Raises:
        Refused: if it is no video, is broken, or is larger than the limits.
    """
    head = os.pread(fd, HEAD_BYTES, 0)
    demuxer = container_of(head)
    if demuxer is None:
        raise Refused("sniff", describe(head))
    os.lseek(fd, 0, os.SEEK_SET)
    codec_options = {
        "codec_whitelist": ",".join(sorted(CODECS)),
        "max_pixels": str(limits["max_pixels"]),
    }
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
        raise Refused(
            "probe", f"the {demuxer} container cannot be read: {error.strerror}"
        ) from error
    with container:
        stream = _checked_stream(container, limits)
        stream.codec_context.options = codec_options
        # One thread: throughput comes from more children, and frames do not depend on timing.
        stream.codec_context.thread_count = 1
        yield Video(container, stream, limits)


def picture(
    upright: NDArray[np.uint8], request: dict[str, Any], limits: dict[str, Any]
) -> NDArray[np.uint8]:
    """Bring an upright picture to the size that was asked for.

    Raises:
        Refused: if it is so long and narrow that its resized whole would exceed the limits.
    """
    side_px = request["side_px"]
    if side_px is None:
        return upright
    height, width = upright.shape[:2]
    if side_px**2 * max(height, width) // min(height, width) > limits["max_pixels"]:
        raise Refused(
            "limits",
            f"{width} x {height} pixels, resized to a shortest side of {side_px}, exceed "
            f"max_pixels {limits['max_pixels']}",
        )
    return resize_crop(upright, side_px, request["crop_x"], request["crop_y"])


def upright_rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """Turn a decoded frame upright, and into sRGB bytes [H W 3]."""
    array = np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90))
    return np.ascontiguousarray(array, dtype=np.uint8)


def answer_still(
    channel: Channel, fd: int, request: dict[str, Any], limits: dict[str, Any]
) -> dict[str, Any]:
    """Send an image as a video of one frame.

    Returns:
        The counts to send at the end.

    Raises:
        Refused: if the file is no image, is broken, or is larger than the limits.
    """
    kind, upright = read_still(fd, limits)
    size = {"height": upright.shape[0], "width": upright.shape[1]}
    claims = {"frames_claimed": 1, "fps": None, "duration_s": None}
    array = picture(upright, request, limits)
    channel.send({"info": {**size, **claims, "codec": kind, "container": "image"}})
    height, width = array.shape[:2]
    channel.send({"index": 0, "time_s": 0.0, "height": height, "width": width}, array)
    return {"decoded_frames": 1, "decode_errors": 0, "dropped_times": 0, "last_time_s": 0.0}


def answer(
    channel: Channel, fd: int, request: dict[str, Any], limits: dict[str, Any]
) -> dict[str, Any]:
    """Send the file's info and the frames asked for one by one.

    Returns:
        The counts to send at the end.

    Raises:
        Refused: if the file is no video, is broken, or is larger than the limits.
    """
    wanted, kept, size = request["start"], 0, None
    with open_video(fd, limits) as video:
        for index, time_s, frame in video.frames():
            if index == 0:
                channel.send({"info": video.info(frame)})
            if index == wanted and kept != request["frames"]:
                array = picture(upright_rgb(frame), request, limits)
                if size not in (None, array.shape):
                    raise Refused(
                        "decode",
                        f"the picture changes from {size[1]}x{size[0]} to "
                        f"{array.shape[1]}x{array.shape[0]} at frame {index}; give side_px",
                    )
                size = array.shape
                channel.send(
                    {"index": index, "time_s": time_s, "height": size[0], "width": size[1]}, array
                )
                wanted, kept = wanted + request["stride"], kept + 1
            if kept == request["frames"] and not request["to_the_end"]:
                break
        if video.decoded_frames == 0:
            raise Refused(
                "decode", f"no frame could be decoded ({video.decode_errors} damaged packets)"
            )
        return {
            "decoded_frames": video.decoded_frames,
            "decode_errors": video.decode_errors,
            "dropped_times": video.dropped_times,
            "last_time_s": video.last_time_s,
        }


def serve(channel: Channel, limits: dict[str, Any]) -> None:
    """Answer requests until the parent hangs up."""
    while True:
        try:
            request, fd = channel.receive_with_file()
        except EOFError:
            return
        allow_cpu(limits["wall_s"])
        try:
            reply = answer_still if request["still"] else answer
            last = {"done": reply(channel, fd, request, limits)}
        except Refused as refused:
            last = {"refused": {"stage": refused.stage, "reason": refused.reason}}
        except MemoryError:
            reason = f"decoding needs more memory than memory_bytes, {limits['memory_bytes']}"
            last = {"refused": {"stage": "limits", "reason": reason}}
        finally:
            os.close(fd)
        channel.send(last)


def main(arguments: list[str]) -> None:
    """Confine the process, say hello, serve.

    Args:
        arguments: the number of the inherited socket, the parent's process id, the limits as JSON.
    """
    av.logging.set_level(None)
    channel = Channel(socket.socket(fileno=int(arguments[0])))
    limits = json.loads(arguments[2])
    held = confine(parent_pid=int(arguments[1]), memory_bytes=limits["memory_bytes"])
    versions = f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"
    channel.send({"hello": {"decoder": versions, **held}})
    serve(channel, limits)


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
