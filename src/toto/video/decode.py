"""Decode media in a child process, so that a hostile or broken file costs a refusal and no more.

Every file comes from somewhere else, and FFmpeg is a large C program: the child has no network,
opens no path, and dies with its limits (docs/architecture, isolation). `Decoder` is the only door.
"""

import contextlib
import dataclasses
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import UInt8

from toto.video.answer import Found, Inbox, Pictures, Room, rest_of
from toto.video.child import Backend, Child, ChildDiedError, Isolation
from toto.video.decoded import Decoded, Scan, VideoInfo
from toto.video.kept import Kept
from toto.video.limits import DecodeLimits
from toto.video.refused import STAGES, VideoRefusedError
from toto.video.source_file import regular_file, uploaded
from toto.video.span import OpenPiece, Piece, Span
from toto.video.transforms import check_crop

__all__ = [
    "STAGES",
    "DecodeLimits",
    "Decoded",
    "Decoder",
    "Piece",
    "Scan",
    "Span",
    "VideoInfo",
    "VideoRefusedError",
    "regular_file",
    "uploaded",
]


class Decoder:
    """Reads videos through one child process, which it replaces when it dies, hangs or grows old.

    Use it as a context manager, from one thread at a time, and make one in each process. A child
    that dies amid a file is replaced, and the rest of the file tried once more, then refused.

    Args:
        limits: what a file may cost.
        backend: what `read` and `stream` decode videos with; images, `probe` and `scan` stay with
            PyAV, which alone goes over damage and counts it. torchcodec refuses damaged files, or
            numbers their frames otherwise: docs/architecture, isolation. If the machine has not
            what it needs, the first file raises ValueError.
    """

    def __init__(self, limits: DecodeLimits | None = None, *, backend: Backend = "pyav") -> None:
        self.limits = limits or DecodeLimits()
        self.backend: Backend = backend
        self._child: Child | None = None
        self._inbox = Inbox(self.limits.max_pixels)
        self._busy = False

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
        found = Found()
        for _ in self._pictures(Path(path), {}, [], found):
            pass
        return found.scan().info

    def scan(
        self,
        path: Path | str,
        *,
        intervals: Sequence[tuple[float, float | None]] = ((0.0, None),),
        thumbnail_every_s: float | None = None,
    ) -> Scan:
        """Decode a whole file and keep no frame: how many there are and what is damaged.

        Args:
            path: a regular file.
            intervals: start (inclusive) and end (exclusive, None for the end of the file) of
                parts of the file, in seconds from its first frame.
            thumbnail_every_s: keep one small grey picture for so many seconds of video; None for
                none.

        Returns:
            What was found, with one of `spans` for each interval.

        Raises:
            VideoRefusedError: if it is not a video that can be decoded within the limits.
            ValueError: if an argument makes no sense.
        """
        for start_s, end_s in intervals:
            if not start_s >= 0 or (end_s is not None and not end_s > start_s):
                raise ValueError(f"an interval from {start_s} s to {end_s} s holds nothing")
        if thumbnail_every_s is not None and not thumbnail_every_s > 0:
            raise ValueError(f"thumbnail_every_s must be above 0, got {thumbnail_every_s}")
        found = Found()
        request = {
            "to_the_end": True,
            "intervals": list(intervals),
            "thumbnail_every_s": thumbnail_every_s,
        }
        with contextlib.closing(self._pictures(Path(path), request, [], found)) as messages:
            for pictures in messages:
                found.thumbnails += [*pictures.arrays[..., 0].copy()]
                last_s = (len(found.thumbnails) - 1) * (thumbnail_every_s or 1)
                if last_s > self.limits.max_duration_s:
                    raise VideoRefusedError(Path(path), "crash", "thumbnails come without end")
        return found.scan()

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
        packets_numbered: bool = False,
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
            packets_numbered: what a scan of this very file found. Where it is true, frames that
                nothing wants or refers to are not decoded; the others are the same.

        Raises:
            VideoRefusedError: if the file is refused or has no frame `start`.
            ValueError: if an argument makes no sense.
        """
        span = Span(start, stride, frames, (crop_x, crop_y))
        if side_px is not None:
            check_crop(side_px, crop_x, crop_y)
        request = {"side_px": side_px, "numbered": packets_numbered}
        decoded = self._keep(Path(path), request, span)
        if len(decoded.frames) == 0:
            raise _no_frame(Path(path), span, decoded)
        return decoded

    def stream(
        self,
        path: Path | str,
        spans: Sequence[Span],
        *,
        side_px: int | None,
        piece_frames: int = 64,
        packets_numbered: bool = False,
    ) -> Iterator[Piece]:
        """Decode a file once and yield the frames of many spans, which may overlap.

        Pieces of different spans come interleaved, those of one span in order. In memory are the
        open pieces of the spans under way, never a whole span. Leaving off early is allowed; the
        decoder takes no other file before the stream is finished or closed.

        Args:
            path: a regular file.
            spans: what is wanted, in any order.
            side_px: square to resize and cut each frame to; None keeps the size.
            piece_frames: frames of one piece, except that a span's last may have fewer.
            packets_numbered: see `read`.

        Raises:
            VideoRefusedError: if the file is refused; after all pieces, if a span has no frame.
            ValueError: if an argument makes no sense.
        """
        if side_px is not None:
            check_crop(side_px, 0.5, 0.5)
        if not spans or piece_frames < 1:
            raise ValueError(
                "spans must not be empty and piece_frames at least 1, "
                f"got {len(spans)} spans, piece_frames {piece_frames}"
            )
        request = {"side_px": side_px, "numbered": packets_numbered}
        return self._pieces(Path(path), list(spans), request, piece_frames)

    def read_image(
        self,
        path: Path | str,
        *,
        side_px: int | None = None,
        crop_x: float = 0.5,
        crop_y: float = 0.5,
        as_stored: bool = False,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Decode a still image: JPEG, PNG, WebP or BMP, told by its first bytes.

        It is turned upright as its EXIF says; of an animation it is the first frame. Grey, palette
        and CMYK become RGB without colour profiles; what is transparent lies over black.

        Args:
            path: a regular file.
            side_px: square to resize and cut it to; None keeps the size.
            crop_x: see `toto.video.transforms.resize_crop`.
            crop_y: the same.
            as_stored: whether to give each pixel's byte three times, an index of the palette or a
                grey level, and not its colour; see `toto.video.masks`.

        Returns:
            sRGB bytes.

        Raises:
            VideoRefusedError: if it is not a whole image within the limits.
            ValueError: if an argument makes no sense.
        """
        if side_px is not None:
            check_crop(side_px, crop_x, crop_y)
        request = {"still": True, "as_stored": as_stored, "side_px": side_px}
        return self._keep(Path(path), request, Span(frames=1, crop=(crop_x, crop_y))).frames[0]

    def _pieces(
        self, path: Path, spans: list[Span], request: dict[str, Any], piece_frames: int
    ) -> Iterator[Piece]:
        found = Found()
        opened = [OpenPiece(number, span, piece_frames) for number, span in enumerate(spans)]
        with contextlib.closing(self._pictures(path, request, spans, found)) as messages:
            for pictures in messages:
                words = zip(pictures.spans, pictures.times_s, pictures.indices, strict=True)
                for array, (numbers, time_s, index) in zip(pictures.arrays, words, strict=True):
                    for number in numbers:
                        yield from opened[number].add(array, time_s, index)
        for piece in opened:
            yield from piece.end()
        for piece in opened:
            if not piece.taken:
                raise _no_frame(path, piece.span, found.scan())

    def _keep(self, path: Path, request: dict[str, Any], span: Span) -> Decoded:
        """Collect the pictures of one span within the limits."""
        found = Found()
        kept = Kept(path, span, found, self.limits)
        messages = self._pictures(path, request, [span], found, kept.room)
        with contextlib.closing(messages):
            for pictures in messages:
                kept.add(pictures)
        return kept.decoded()

    def _pictures(
        self,
        path: Path,
        changes: dict[str, Any],
        spans: list[Span],
        found: Found,
        room: Room | None = None,
    ) -> Generator[Pictures, None, None]:
        """Yield what one pass over a file gives, going on in a fresh child if the first one dies.

        Raises:
            VideoRefusedError: if the file is refused, or has killed or hung both.
        """
        kept, thumbnails = [0] * len(spans), 0
        with regular_file(path, self.limits) as fd:
            for last_attempt in (False, True):
                request = {
                    **{"still": False, "as_stored": False, "side_px": None, "to_the_end": False},
                    **{"intervals": [], "thumbnail_every_s": None, "numbered": False},
                    **changes,
                    # What a scan found may hold no more, and the child ends where it sees that.
                    **({"numbered": False} if last_attempt else {}),
                    "spans": [
                        rest_of(span, count) for span, count in zip(spans, kept, strict=True)
                    ],
                    "thumbnails_kept": thumbnails,
                    "cpu_s": self.limits.cpu_s(os.fstat(fd).st_size),
                }
                try:
                    with contextlib.closing(self._attempt(path, fd, request, found, room)) as said:
                        for pictures in said:
                            for numbers in pictures.spans:
                                thumbnails += not numbers
                                for number in numbers:
                                    kept[number] += 1
                            yield pictures
                    return
                except ChildDiedError as died:
                    # It may have been the machine or an earlier file: once more, in a fresh child.
                    if last_attempt:
                        reason = f"{died.reason}, twice"
                        raise VideoRefusedError(path, died.stage, reason) from died

    def _attempt(
        self, path: Path, fd: int, request: dict[str, Any], found: Found, room: Room | None
    ) -> Generator[Pictures, None, None]:
        """Ask one child, and yield what it sends, each message before the next is fetched.

        Raises:
            VideoRefusedError: if the child refuses the file.
            ChildDiedError: if it does not come to an end.
        """
        if self._busy:
            raise ValueError("a stream of this decoder is still open: finish or close it first")
        limits, still = self.limits, request["still"]
        if self._child is not None and self._child.wear >= 1:
            self.close()
        child = self._ready()
        child.wear += 1 / (limits.images_per_child if still else limits.files_per_child)
        wall_s = limits.image_wall_s if still else limits.wall_s
        clean, self._busy = False, True
        try:
            child.channel.set_deadline(wall_s)
            child.channel.send_with_file(request, fd)
            self._inbox.expect(request, room)
            while "done" not in (message := child.channel.receive()):
                if "refused" in message:
                    refused = message["refused"]
                    stage = STAGES[STAGES.index(refused["stage"])]
                    clean = True
                    raise VideoRefusedError(path, stage, str(refused["reason"]))
                if "info" in message:
                    found.info = VideoInfo(**message["info"])
                    continue
                pictures = self._inbox.take(message, child.channel)
                left_s = child.channel.left_s
                yield pictures
                # What the receiver takes is not the file's fault.
                child.channel.set_deadline(left_s)
            found.end(message["done"], len(request["intervals"]))
            clean = True
        except TimeoutError as error:
            reason = f"it was not decoded within {wall_s:g} s"
            raise ChildDiedError("timeout", reason) from error
        except (OSError, EOFError) as error:
            how = child.close()
            if how == "SIGXCPU":
                reason = (
                    f"it takes more than {request['cpu_s']:.0f} s of processor time for its size"
                )
                raise VideoRefusedError(path, "limits", reason) from error
            raise ChildDiedError("crash", f"the decoder died ({how})") from error
        except VideoRefusedError:
            raise
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise ChildDiedError("crash", f"the decoder answered {error!r}") from error
        finally:
            self._busy = False
            if not clean:
                # Whatever happened, an interrupt too, the rest of an answer may still be coming.
                self.close()

    def _ready(self) -> Child:
        if self._child is None:
            self._child = Child.start(dataclasses.asdict(self.limits), self.backend)
        return self._child


def _no_frame(path: Path, span: Span, scan: Scan) -> VideoRefusedError:
    return VideoRefusedError(
        path, "decode", f"it has no frame {span.start}, only {scan.shown_frames} frames"
    )
