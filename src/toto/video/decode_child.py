"""The program of the decode child: it opens strangers' files so that no other process does.

`toto.video.decode` starts it, sends one request a file and replaces it when it dies. It imports
only the standard library, numpy, PyAV and Pillow, and is ready in a fifth of a second.
"""

# PyAV and Pillow import `subtitles` and `ImageFile` at first use. The child can open no file by
# then, so they are imported here, though nothing below names them.
import json
import os
import socket
from array import array
from bisect import bisect_left
from typing import Any

import av
import av.logging
import av.subtitles.codeccontext
import av.subtitles.stream
import PIL.ImageFile  # noqa: F401
from av.video.frame import VideoFrame

from toto.video import torchcodec_file
from toto.video.channel import Channel
from toto.video.confine import allow_cpu, confine
from toto.video.due import Due
from toto.video.picture import Outbox, thumbnail, upright_rgb
from toto.video.refused import Refused
from toto.video.still import read_still
from toto.video.transforms import Squares
from toto.video.video_file import open_video


def answer_still(
    channel: Channel, fd: int, request: dict[str, Any], limits: dict[str, Any], squares: Squares
) -> dict[str, Any]:
    """Send an image as a video of one frame.

    Returns:
        The counts to send at the end.

    Raises:
        Refused: if the file is no image, is broken, or is larger than the limits.
    """
    kind, picture = read_still(fd, limits, as_stored=request["as_stored"])
    size = {"height": picture.shape[0], "width": picture.shape[1]}
    claims = {"frames_claimed": 1, "fps": None, "duration_s": None}
    if request["side_px"] is not None:
        frame = VideoFrame.from_ndarray(picture)
        picture = squares.cut(frame, request["side_px"], *request["spans"][0]["crop"])
    channel.send({"info": {**size, **claims, "codec": kind, "container": "image"}})
    outbox = Outbox(channel)
    outbox.add(picture, spans=[0], index=0, time_s=0.0)
    outbox.send()
    counts = {
        "decoded_frames": 1,
        "decode_errors": 0,
        "placeholders": 0,
        "dropped_times": 0,
        "last_time_s": 0.0,
        "passed_frames": 0,
        "packets_numbered": False,
    }
    return {**counts, "complaints": [], "spans": []}


def answer(
    channel: Channel, fd: int, request: dict[str, Any], limits: dict[str, Any], squares: Squares
) -> dict[str, Any]:
    """Send the file's info and the frames asked for one by one.

    Returns:
        The counts to send at the end.

    Raises:
        Refused: if the file is no video, is broken, or is larger than the limits.
    """
    due = Due(request["spans"])
    thumbnails = _Thumbnails(request["thumbnail_every_s"], request["thumbnails_kept"])
    times_s, outbox = array("d"), Outbox(channel)
    side_px = request["side_px"]
    with open_video(fd, limits, checked=request["to_the_end"]) as video:
        for index, time_s, frame in video.frames(due.wants if request["numbered"] else None):
            times_s.append(time_s)
            if index == 0:
                channel.send({"info": video.info(frame)})
            if thumbnails.wants(time_s):
                outbox.add(thumbnail(frame), spans=[], index=index, time_s=time_s)
            for crop, spans in due.at(index):
                whole = side_px is None
                picture = upright_rgb(frame) if whole else squares.cut(frame, side_px, *crop)
                outbox.add(picture, spans=spans, index=index, time_s=time_s)
            if due.none and not request["to_the_end"]:
                break
        outbox.send()
        if video.decoded_frames == 0:
            raise Refused(
                "decode", f"no frame could be decoded ({video.decode_errors} damaged packets)"
            )
        return {
            "decoded_frames": video.decoded_frames,
            "decode_errors": video.decode_errors,
            "placeholders": video.placeholders,
            "dropped_times": video.dropped_times,
            "last_time_s": video.last_time_s,
            "passed_frames": video.passed_frames,
            "packets_numbered": video.packets_numbered,
            "complaints": video.complaints(),
            "spans": [_within(times_s, *interval) for interval in request["intervals"]],
        }


class _Thumbnails:
    """When the next one is due: the first frame at or after every so many seconds."""

    def __init__(self, every_s: float | None, already: int) -> None:
        self._every_s = every_s
        self._already = already
        self._next = 0

    def wants(self, time_s: float) -> bool:
        # A microsecond of grace: 6 * 0.1 is more than 0.6.
        if self._every_s is None or time_s + 1e-6 < self._next * self._every_s:
            return False
        self._next = int((time_s + 1e-6) / self._every_s) + 1
        self._already -= 1
        return self._already < 0


def serve(channel: Channel, limits: dict[str, Any], backend: str) -> None:
    """Answer requests until the parent hangs up."""
    squares = Squares()
    while True:
        try:
            request, fd = channel.receive_with_file()
        except EOFError:
            return
        allow_cpu(request["cpu_s"])
        try:
            reply = answer_still if request["still"] else answer
            # PyAV alone can go over damage and count it: it probes and scans in either case.
            if backend == "torchcodec" and reply is answer and request["spans"]:
                reply = torchcodec_file.answer
            last = {"done": reply(channel, fd, request, limits, squares)}
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
        arguments: the number of the inherited socket, the parent's process id, the limits as
            JSON, the backend.
    """
    av.logging.set_level(None)
    channel = Channel(socket.socket(fileno=int(arguments[0])))
    limits, backend = json.loads(arguments[2]), arguments[3]
    memory_bytes = limits["memory_bytes"]
    versions = f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"
    try:
        if backend == "torchcodec":
            versions = torchcodec_file.load()
            memory_bytes += torchcodec_file.mapped_bytes()
        held = confine(parent_pid=int(arguments[1]), memory_bytes=memory_bytes)
        if backend == "torchcodec":
            torchcodec_file.require(held)
    except ValueError as error:
        channel.send({"unusable": str(error)})
        return
    channel.send({"hello": {"decoder": versions, **held}})
    serve(channel, limits, backend)


def _within(times_s: "array[float]", start_s: float, end_s: float | None) -> tuple[int, int]:
    """Find the first frame and the count of the frames with start_s <= time < end_s."""
    first = bisect_left(times_s, start_s)
    return first, (len(times_s) if end_s is None else bisect_left(times_s, end_s)) - first
