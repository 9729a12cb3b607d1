"""Decode media in a child process, so that a hostile or broken file costs a refusal and no more.

Every file comes from somewhere else, and FFmpeg is a large C program: the child has no network,
opens no path, and dies with its limits (docs/architecture, isolation). `Decoder` is the only door.
"""

import contextlib
import dataclasses
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import UInt8

from toto.video.channel import Channel
from toto.video.child import Child, ChildDiedError, Isolation
from toto.video.decoded import Decoded, Scan, VideoInfo
from toto.video.transforms import check_crop

Stage = Literal["open", "sniff", "probe", "limits", "decode", "crash", "timeout"]
STAGES: tuple[Stage, ...] = ("open", "sniff", "probe", "limits", "decode", "crash", "timeout")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeLimits:
    """What one file may cost before it is refused."""

    max_pixels: int = 4096 * 4096
    """Width times height, as the file claims it and as its frames come."""
    max_duration_s: float = 4 * 3600.0
    max_file_bytes: int = 16 << 30
    max_frames: int = 100_000
    """Frames kept by one `read`."""
    max_kept_bytes: int = 4 << 30
    """Bytes of the frames kept by one `read`."""
    max_streams: int = 64
    memory_bytes: int = 2 << 30
    """Address space of the child; its libraries alone take 0.2 GiB."""
    wall_s: float = 600.0
    """Time for one file."""
    files_per_child: int = 200
    """A child is replaced after so many files, so that leaks in libraries stay small."""
    images_per_child: int = 5000
    """The same for still images, of which each costs a start's time many times less."""
    image_wall_s: float = 60.0
    """Time for one still image."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be above 0, got {getattr(self, field.name)}")
        if self.memory_bytes < 512 << 20:
            raise ValueError(f"memory_bytes must be at least 512 MiB, got {self.memory_bytes}")


class VideoRefusedError(ValueError):
    """A file that is not decoded.

    Attributes:
        path: the file.
        stage: where it was found out, one of `STAGES`.
        reason: one line.
    """

    def __init__(self, path: Path, stage: Stage, reason: str) -> None:
        # All three to the base class: an exception is pickled by its arguments.
        super().__init__(path, stage, " ".join(reason.split())[:300])
        self.path = path
        self.stage = stage
        self.reason: str = self.args[2]

    def __str__(self) -> str:
        path = str(self.path)
        return f"{path if path.isprintable() else ascii(path)}: {self.reason}"


class Decoder:
    """Reads videos through one child process, which it replaces when it dies, hangs or grows old.

    Use it as a context manager, from one thread at a time, and make one in each process. A file
    whose child died is tried once more in a fresh child, then refused.

    Args:
        limits: what a file may cost.
    """

    def __init__(self, limits: DecodeLimits | None = None) -> None:
        self.limits = limits or DecodeLimits()
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child; a later call starts a new one."""
        if self._child is not None:
            self._child.close()
            self._child = None

    @property
    def pid(self) -> int | None:
        """Process id of the child, or None while there is none."""
        return self._child.process.pid if self._child else None

    @property
    def isolation(self) -> Isolation:
        """What the kernel grants the child, and the decoder's versions; starts one if needed."""
        return self._ready().isolation

    def probe(self, path: Path | str) -> VideoInfo:
        """Open a file and decode its first frame.

        Raises:
            VideoRefusedError: if it is not a video that can be decoded within the limits.
        """
        return self._ask(Path(path), _request(frames=0)).info

    def scan(self, path: Path | str) -> Scan:
        """Decode a whole file and keep no frame: how many there are and what is damaged.

        Raises:
            VideoRefusedError: if it is not a video that can be decoded within the limits.
        """
        return self._ask(Path(path), _request(frames=0, to_the_end=True))

    def read(
        self,
        path: Path | str,
        *,
        start: int = 0,
        stride: int = 1,
        frames: int | None = None,
        side_px: int | None = None,
        crop_x: float = 0.5,
        crop_y: float = 0.5,
    ) -> Decoded:
        """Decode the frames `start`, `start + stride`, ... of a file.

        A video that has fewer than `frames` of them gives those it has. Decoding begins at the
        file's first frame, whatever `start` is: only so is an index exact.

        Args:
            path: a regular file.
            start: index of the first frame kept.
            stride: from one to the next.
            frames: how many at most; None for all.
            side_px: square to resize and cut each frame to; None keeps the size.
            crop_x: see `toto.video.transforms.resize_crop`.
            crop_y: the same.

        Raises:
            VideoRefusedError: if the file is refused or has no frame `start`.
            ValueError: if an argument makes no sense.
        """
        if start < 0 or stride < 1 or (frames is not None and frames < 1):
            raise ValueError(
                "start must be at least 0, stride and frames at least 1, "
                f"got start {start}, stride {stride}, frames {frames}"
            )
        if side_px is not None:
            check_crop(side_px, crop_x, crop_y)
        request = _request(start=start, stride=stride, frames=frames, side_px=side_px)
        decoded = self._ask(Path(path), {**request, "crop_x": crop_x, "crop_y": crop_y})
        if len(decoded.frames) == 0:
            raise VideoRefusedError(
                decoded.path,
                "decode",
                f"it has no frame {start}, only {decoded.shown_frames} frames",
            )
        return decoded

    def read_image(
        self,
        path: Path | str,
        *,
        side_px: int | None = None,
        crop_x: float = 0.5,
        crop_y: float = 0.5,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Decode a still image: JPEG, PNG, WebP or BMP, told by its first bytes.

        It is turned upright as its EXIF says; of an animation it is the first frame. Grey, palette
        and CMYK become RGB without colour profiles; what is transparent lies over black.

        Args:
            path: a regular file.
            side_px: square to resize and cut it to; None keeps the size.
            crop_x: see `toto.video.transforms.resize_crop`.
            crop_y: the same.

        Returns:
            sRGB bytes.

        Raises:
            VideoRefusedError: if it is not a whole image within the limits.
            ValueError: if an argument makes no sense.
        """
        if side_px is not None:
            check_crop(side_px, crop_x, crop_y)
        request = _request(still=True, frames=1, side_px=side_px, crop_x=crop_x, crop_y=crop_y)
        decoded = self._ask(Path(path), request)
        return decoded.frames[0]

    def _ask(self, path: Path, request: dict[str, Any]) -> Decoded:
        with regular_file(path, self.limits) as fd:
            try:
                return self._attempt(path, fd, request)
            except ChildDiedError:
                # It may have been the machine or an earlier file: once more, in a fresh child.
                return self._last_attempt(path, fd, request)

    def _last_attempt(self, path: Path, fd: int, request: dict[str, Any]) -> Decoded:
        try:
            return self._attempt(path, fd, request)
        except ChildDiedError as died:
            raise VideoRefusedError(path, died.stage, f"{died.reason}, twice") from died

    def _attempt(self, path: Path, fd: int, request: dict[str, Any]) -> Decoded:
        limits, still = self.limits, request["still"]
        if self._child is not None and self._child.wear >= 1:
            self.close()
        child = self._ready()
        child.wear += 1 / (limits.images_per_child if still else limits.files_per_child)
        wall_s = limits.image_wall_s if still else limits.wall_s
        clean = False
        try:
            child.channel.set_deadline(wall_s)
            child.channel.send_with_file(request, fd)
            answer = _receive(child.channel, path, request, limits)
            clean = True
        except TimeoutError as error:
            reason = f"it was not decoded within {wall_s:g} s"
            raise ChildDiedError("timeout", reason) from error
        except (OSError, EOFError) as error:
            raise ChildDiedError("crash", f"the decoder died ({child.close()})") from error
        except VideoRefusedError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ChildDiedError("crash", f"the decoder answered {error!r}") from error
        finally:
            if not clean:
                # Whatever happened, an interrupt too, the rest of an answer may still be coming.
                self.close()
        if isinstance(answer, VideoRefusedError):
            raise answer
        return answer

    def _ready(self) -> Child:
        if self._child is None:
            self._child = Child.start(dataclasses.asdict(self.limits))
        return self._child


def _request(**changes: Any) -> dict[str, Any]:
    plain = {"still": False, "start": 0, "stride": 1, "frames": None, "to_the_end": False}
    return {**plain, "side_px": None, "crop_x": 0.5, "crop_y": 0.5, **changes}


@contextlib.contextmanager
def regular_file(path: Path, limits: DecodeLimits) -> Iterator[int]:
    """Open a file for reading, without ever waiting for it or touching a device.

    Raises:
        VideoRefusedError: if it cannot be opened, is no regular file or is too large.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise VideoRefusedError(path, "open", "it is not a regular file")
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise VideoRefusedError(path, "open", error.strerror or repr(error)) from error
    except ValueError as error:
        if isinstance(error, VideoRefusedError):
            raise
        raise VideoRefusedError(path, "open", str(error)) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise VideoRefusedError(path, "open", "it is not a regular file")
        if status.st_size > limits.max_file_bytes:
            reason = f"{status.st_size} bytes, max_file_bytes is {limits.max_file_bytes}"
            raise VideoRefusedError(path, "limits", reason)
        yield fd
    finally:
        os.close(fd)


def _receive(
    channel: Channel, path: Path, request: dict[str, Any], limits: DecodeLimits
) -> Decoded | VideoRefusedError:
    """Collect an answer, trusting no number in it.

    Returns:
        The frames, or the child's refusal.

    Raises:
        VideoRefusedError: if the answer outgrows the limits; the rest of it is not read.
    """
    info = None
    frames, times_s, indices = np.empty((0, 0, 0, 3), np.uint8), [], []
    while True:
        message = channel.receive()
        if "refused" in message:
            refused = message["refused"]
            stage = STAGES[STAGES.index(refused["stage"])]
            return VideoRefusedError(path, stage, str(refused["reason"]))
        if "info" in message:
            info = VideoInfo(**message["info"])
            continue
        if "done" in message:
            break
        kept = len(indices)
        shape = (int(message["height"]), int(message["width"]), 3)
        if min(shape) < 1 or (kept and shape != frames.shape[1:]):
            raise TypeError(f"a frame of {shape} after {frames.shape[1:]}")
        most = min(limits.max_frames, limits.max_kept_bytes // math.prod(shape))
        if kept >= most:
            reason = (
                f"the frames asked for exceed max_frames {limits.max_frames} or max_kept_bytes "
                f"{limits.max_kept_bytes}; give frames, stride or side_px"
            )
            raise VideoRefusedError(path, "limits", reason)
        if kept == len(frames):
            room = np.empty((min(most, 2 * kept or request["frames"] or 16), *shape), np.uint8)
            if kept:
                room[:kept] = frames
            frames = room
        channel.receive_into(frames[kept])
        times_s.append(float(message["time_s"]))
        indices.append(int(message["index"]))
    if info is None:
        raise KeyError("info")
    return Decoded(
        info=info,
        **message["done"],
        frames=frames[: len(indices)],
        times_s=np.array(times_s, np.float64),
        indices=np.array(indices, np.int64),
        path=path,
    )
