"""Frames by torchcodec, the other backend of the decode child, for machines that have it.

torchcodec takes no list of demuxers or decoders. PyAV therefore opens every file first, under all
of its own checks, and torchcodec sees none that PyAV refuses; and since a file could still show
the two FFmpegs different faces, it is used only where the kernel denies the child every path and
every network. `torchcodec` itself is imported in `load` and nowhere else: PyAV needs none of it.
"""

import os
import re
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from av.video.frame import VideoFrame

from toto.video.channel import Channel
from toto.video.due import Due
from toto.video.picture import Outbox
from toto.video.refused import Refused
from toto.video.transforms import Squares
from toto.video.video_file import open_video

# Containers that store when each frame is shown. In the others (AVI, MPEG streams) torchcodec has
# been seen to give one frame for another when it seeks, without a word.
CONTAINERS = {"mov", "matroska", "flv"}
_SAME_MOMENT_S = 1e-3
"""Two frames of one file are further apart; the times of two libraries for one frame are not."""


def load() -> str:
    """Import torchcodec, which has to happen before the child is confined.

    Returns:
        Its version and that of the FFmpeg it has found, for sidecars.

    Raises:
        ValueError: if it or FFmpeg's shared libraries are missing or do not fit.
    """
    try:
        import torchcodec
        import torchcodec.decoders
        from torchcodec._core import get_ffmpeg_library_versions
    except (ImportError, OSError, RuntimeError) as error:
        said = str(error).strip().partition("\n")[0]
        raise ValueError(
            "the backend torchcodec cannot be loaded: install it with "
            "`pip install 'toto-video[torchcodec]'`, and FFmpeg's shared libraries (on Debian "
            f"`apt install ffmpeg`), or use the backend pyav ({said})"
        ) from error
    ffmpeg = get_ffmpeg_library_versions()["ffmpeg_version"]
    return f"torchcodec {torchcodec.__version__}, FFmpeg {ffmpeg}"


def mapped_bytes() -> int:
    """Say how much address space the process has taken so far, libraries for the most part."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def require(held: Mapping[str, bool]) -> None:
    """Insist on what stands in for an allow-list of demuxers.

    Raises:
        ValueError: if the kernel has not granted both kinds of isolation.
    """
    lacking = [
        name
        for key, name in (("no_network", "a network namespace"), ("no_files", "Landlock"))
        if not held[key]
    ]
    if lacking:
        raise ValueError(
            "the backend torchcodec, which cannot be limited to known file formats, needs a "
            f"kernel that isolates it, and this one does not grant {' or '.join(lacking)}: use "
            "the backend pyav"
        )


def answer(
    channel: Channel, fd: int, request: dict[str, Any], limits: dict[str, Any], squares: Squares
) -> dict[str, Any]:
    """Do what `toto.video.decode_child.answer` does, for frames only.

    An index counts the file's frames by their packets, without decoding those between; in a whole
    file that is the number PyAV gives a frame.

    Returns:
        The counts to send at the end.

    Raises:
        Refused: if PyAV refuses the file, torchcodec cannot decode it, or they see another start.
    """
    from torchcodec.decoders import VideoDecoder

    due, outbox = Due(request["spans"]), Outbox(channel)
    side_px, time_s, index = request["side_px"], 0.0, -1
    stream, begins_s = _checked(channel, fd, limits)
    os.lseek(fd, 0, os.SEEK_SET)
    with _refusing(), open(fd, "rb", buffering=0, closefd=False) as file:
        video = VideoDecoder(
            file,
            stream_index=stream,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            device="cpu",
            seek_mode="exact",
        )
        first_s = video.metadata.begin_stream_seconds
        if begins_s is not None and abs(first_s - begins_s) > _SAME_MOMENT_S:
            raise Refused(
                "decode",
                f"its first frame is shown at {first_s:.3f} s for torchcodec and at "
                f"{begins_s:.3f} s for PyAV; use the backend pyav",
            )
        last_s = None
        for index in range(len(video)):
            wanted = due.at(index)
            if wanted:
                frame = video.get_frame_at(index)
                picture, time_s = frame.data.numpy(), frame.pts_seconds - first_s
                _check_time(index, time_s, last_s, limits)
                last_s = time_s
                whole = VideoFrame.from_ndarray(picture)
                for crop, spans in wanted:
                    if side_px is not None:
                        picture = squares.cut(whole, side_px, *crop)
                    outbox.add(picture, spans=spans, index=index, time_s=time_s)
            if due.none:
                break
    outbox.send()
    counts = {"decode_errors": 0, "placeholders": 0, "dropped_times": 0, "complaints": []}
    return {"decoded_frames": index + 1, "last_time_s": time_s, "spans": [], **counts}


def _checked(channel: Channel, fd: int, limits: dict[str, Any]) -> tuple[int, float | None]:
    """Let PyAV pass the file, and send its info.

    Returns:
        Number of the stream, and when its first frame is shown by the file's own clock, if it says.
    """
    with open_video(fd, limits) as video:
        if CONTAINERS.isdisjoint(video.container.format.name.split(",")):
            raise Refused(
                "probe",
                f"torchcodec does not number the frames of this container, "
                f"{video.container.format.name}, reliably; use the backend pyav",
            )
        frame = next((frame for _, _, frame in video.frames()), None)
        if frame is None:
            raise Refused(
                "decode", f"no frame could be decoded ({video.decode_errors} damaged packets)"
            )
        channel.send({"info": video.info(frame)})
        return video.stream.index, frame.time


def _check_time(index: int, time_s: float, last_s: float | None, limits: dict[str, Any]) -> None:
    if last_s is not None and time_s <= last_s:
        raise Refused("decode", f"time does not increase at frame {index}; use the backend pyav")
    if time_s > limits["max_duration_s"]:
        raise Refused(
            "limits",
            f"frame {index} is shown at {time_s:.0f} s, "
            f"max_duration_s is {limits['max_duration_s']:g}",
        )


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what torchcodec raises, which is RuntimeError for nearly everything, into a refusal."""
    try:
        yield
    except (RuntimeError, IndexError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        if "can't allocate memory" in said or "bad_alloc" in said:
            raise MemoryError from error
        # Without the place in its source.
        said = re.sub(r"^.*\.(cpp|h):\d+, ", "", said)
        raise Refused("decode", f"torchcodec cannot decode it: {said}") from error
