"""Frames by torchcodec, the other backend of the decode child, for machines that have it.

torchcodec takes no list of demuxers or decoders. PyAV therefore opens every file first, under all
of its own checks, and torchcodec sees none that PyAV refuses; and since a file may still show the
two FFmpegs different faces, this is used only where the kernel denies the child every path and
every network. `torchcodec` is imported in functions only: PyAV needs none of it.
"""

import os
import re
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from av.error import FFmpegError
from av.video.frame import VideoFrame

from toto.video.channel import Channel
from toto.video.due import Due
from toto.video.picture import Outbox
from toto.video.refused import Refused
from toto.video.transforms import Squares
from toto.video.video_file import open_video

_STATM = Path("/proc/self/statm")


def load() -> str:
    """Import torchcodec, which has to happen before the child is confined.

    Returns:
        Its version and that of the FFmpeg it has found, for sidecars.

    Raises:
        ValueError: if it or FFmpeg's shared libraries are missing or do not fit.
    """
    try:
        import torchcodec  # pyright: ignore[reportMissingImports]
        import torchcodec.decoders  # pyright: ignore[reportMissingImports]
        from torchcodec._core import (  # pyright: ignore[reportMissingImports]
            get_ffmpeg_library_versions,
        )
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
    """Say how much address space the process has taken so far, for libraries above all."""
    # Elsewhere than on Linux the child is about to end: see `require`.
    pages = int(_STATM.read_text().split()[0]) if _STATM.exists() else 0
    return pages * resource.getpagesize()


def require(held: Mapping[str, bool]) -> None:
    """Insist on what stands in for lists of demuxers and decoders.

    Raises:
        ValueError: if the kernel has not granted both kinds of isolation.
    """
    names = {"no_network": "a network namespace", "no_files": "Landlock"}
    lacking = [name for key, name in names.items() if not held[key]]
    if lacking:
        raise ValueError(
            "the backend torchcodec cannot be limited to known file formats and needs a kernel "
            f"that isolates it, but this one does not grant {' or '.join(lacking)}: use the "
            "backend pyav"
        )


def answer(
    channel: Channel, fd: int, request: dict[str, Any], limits: dict[str, Any], squares: Squares
) -> dict[str, Any]:
    """Do what `toto.video.decode_child.answer` does, for frames only.

    Returns:
        The counts to send at the end.

    Raises:
        Refused: if PyAV refuses the file, torchcodec cannot decode it, or the two disagree on
            which frames it has and when they are shown.
    """
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

    due, outbox, side_px, index = Due(request["spans"]), Outbox(channel), request["side_px"], 0
    times = _times(channel, fd, limits)
    os.lseek(fd, 0, os.SEEK_SET)
    with _refusing(), open(fd, "rb", buffering=0, closefd=False) as file:
        video = VideoDecoder(
            file,
            stream_index=times.stream,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            device="cpu",
            seek_mode="exact",
        )
        if len(video) != len(times.ticks):
            raise _disagreement(f"{len(video)} frames for torchcodec, {len(times.ticks)} for PyAV")
        for index in range(len(video)):
            wanted = due.at(index)
            if wanted:
                frame = video.get_frame_at(index)
                times.check(index, frame.pts_seconds)
                picture = frame.data.numpy()
                whole = VideoFrame.from_ndarray(picture)
                for crop, spans in wanted:
                    if side_px is not None:
                        picture = squares.cut(whole, side_px, *crop)
                    outbox.add(picture, spans=spans, index=index, time_s=times.time_s(index))
            if due.none:
                break
    outbox.send()
    counts = {"decode_errors": 0, "placeholders": 0, "dropped_times": 0, "complaints": []}
    counts |= {"passed_frames": 0, "packets_numbered": False}
    return {
        "decoded_frames": index + 1,
        "last_time_s": times.time_s(index),
        "spans": [],
        **counts,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Times:
    """When each frame of a file is shown, which is how torchcodec's frames are told apart."""

    stream: int
    """The stream's number in the file."""
    ticks: list[int]
    """By the file's own clock, in the order of showing."""
    unit_s: Fraction

    def time_s(self, index: int) -> float:
        """Say when a frame is shown, in seconds from the first."""
        return float((self.ticks[index] - self.ticks[0]) * self.unit_s)

    def check(self, index: int, shown_s: float) -> None:
        """Refuse another frame than the one that was asked for.

        Without a word, torchcodec gives the next one that it can decode: in MPEG streams, and in
        files cut so that they begin between two key frames.
        """
        due_s = float(self.ticks[index] * self.unit_s)
        if abs(shown_s - due_s) > self.unit_s / 2:
            raise _disagreement(
                f"frame {index} at {shown_s:.3f} s for torchcodec, at {due_s:.3f} s for PyAV"
            )


def _times(channel: Channel, fd: int, limits: dict[str, Any]) -> _Times:
    """Let PyAV pass the file, send its info, and list its frames by their packets."""
    with open_video(fd, limits) as video:
        first = next((frame for _, _, frame in video.frames()), None)
        if first is None:
            raise Refused(
                "decode", f"no frame could be decoded ({video.decode_errors} damaged packets)"
            )
        channel.send({"info": video.info(first)})
    with open_video(fd, limits) as video:
        ticks: list[int] = []
        try:
            for packet in video.container.demux(video.stream):
                if packet.size and not packet.is_discard:
                    if packet.pts is None:
                        raise _disagreement("it does not say when each frame is shown")
                    ticks.append(packet.pts)
        except FFmpegError as error:
            raise Refused("decode", f"its packets cannot be read: {error.strerror}") from error
        ticks.sort()
        if not ticks or first.pts != ticks[0]:
            raise _disagreement("the frame it shows first cannot be decoded")
        times = _Times(
            stream=video.stream.index, ticks=ticks, unit_s=video.stream.time_base or Fraction(1)
        )
    if times.time_s(-1) > limits["max_duration_s"]:
        raise Refused(
            "limits",
            f"its last frame is shown at {times.time_s(-1):.0f} s, "
            f"max_duration_s is {limits['max_duration_s']:g}",
        )
    return times


def _disagreement(what: str) -> Refused:
    return Refused("decode", f"torchcodec cannot number its frames ({what}); use the backend pyav")


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what torchcodec raises, which is RuntimeError for nearly everything, into a refusal."""
    try:
        yield
    except (RuntimeError, IndexError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        if "alloc" in said:
            raise MemoryError from error
        # Without the place in its source.
        said = re.sub(r"^.*\.(cpp|h):\d+, ", "", said)
        raise Refused("decode", f"torchcodec cannot decode it: {said}") from error
