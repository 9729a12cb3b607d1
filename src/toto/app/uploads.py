"""What a visitor sends, read by the isolated decoder and by nothing else.

What is wrong with a file is said in one of a few fixed sentences, which hold nothing of the file,
its path or the machine; the details go to the server's log (docs/architecture, isolation).
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, UInt8

from toto.types import Clip
from toto.video.decode import DecodeLimits, Decoder, VideoRefusedError, regular_file
from toto.video.refused import Refused
from toto.video.sniff import container_of, describe, image_of, read_head

_log = logging.getLogger(__name__)
LARGE = "this file is too large: try a shorter or a smaller video"
DAMAGED = "this file is damaged, or takes too long to read: try another one"
UNKNOWN = "this file is no video or picture that is read here: try MP4, WebM, MOV, GIF, JPEG or PNG"
_SENTENCES: dict[str, str] = {
    "open": UNKNOWN,
    "sniff": UNKNOWN,
    "probe": UNKNOWN,
    "limits": LARGE,
}


class UploadRefusedError(ValueError):
    """A file of a visitor that is not read; the message is one sentence that they may see."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadLimits:
    """What one upload may cost; tighter than what `toto ingest` allows the files of its owner."""

    max_bytes: int = 64 << 20
    max_pixels: int = 2560 * 1440
    """Of a frame of a video."""
    max_picture_pixels: int = 4096 * 4096
    """Of a still image."""
    max_duration_s: float = 600.0
    max_frames: int = 256
    """Frames that may be asked for of one upload."""
    memory_bytes: int = 1 << 30
    """Address space of the process that decodes it."""
    wall_s: float = 8.0
    """Time for one pass over the file; one that hangs the decoder gets it twice, then ends."""

    def __post_init__(self) -> None:
        self.decoding()

    def decoding(self, *, picture: bool = False) -> DecodeLimits:
        """Say the same to the decoder.

        Raises:
            ValueError: if a limit is not above 0, or the memory is too small for the decoder.
        """
        pixels = self.max_picture_pixels if picture else self.max_pixels
        return DecodeLimits(
            max_pixels=pixels,
            max_duration_s=self.max_duration_s,
            max_file_bytes=self.max_bytes,
            max_frames=self.max_frames,
            max_kept_bytes=3 * pixels if picture else 256 << 20,
            max_streams=8,
            memory_bytes=self.memory_bytes,
            wall_s=self.wall_s,
            image_wall_s=self.wall_s,
            cpu_grace_s=self.wall_s / 4,
        )


def read_upload(
    path: Path | str,
    limits: UploadLimits = UploadLimits(),
    *,
    frames: int = 16,
    fps: float = 7.5,
    side_px: int | None = 128,
) -> Clip:
    """Read the first frames of a visitor's video, or a picture as a clip of one frame.

    What the file is, its first bytes say and not its name.

    Args:
        path: a regular file.
        limits: what it may cost.
        frames: how many at most; a short video gives those it has.
        fps: frames a second wanted; every n-th frame is taken, with the n that comes nearest.
        side_px: square to resize and cut each frame to; None keeps the size.

    Raises:
        UploadRefusedError: if the file is not read; the message may be shown to a visitor.
        ValueError: if an argument makes no sense.
    """
    if not 1 <= frames <= limits.max_frames or not fps > 0:
        raise ValueError(
            f"frames must be from 1 to {limits.max_frames} and fps above 0, got {frames} and {fps}"
        )
    path = Path(path)
    try:
        if _is_picture(path, limits):
            with Decoder(limits.decoding(picture=True)) as decoder:
                picture = decoder.read_image(path, side_px=side_px)
            return _clip(picture[None], np.zeros(1))
        with Decoder(limits.decoding()) as decoder:
            rate = decoder.probe(path).fps or fps
            stride = max(1, round(min(rate, 1000.0) / fps))
            decoded = decoder.read(path, stride=stride, frames=frames, side_px=side_px)
        return _clip(decoded.frames, decoded.times_s)
    except VideoRefusedError as refused:
        raise _generic(refused) from None


def read_picture(
    path: Path | str, limits: UploadLimits = UploadLimits()
) -> UInt8[np.ndarray, "H W 3"]:
    """Read a visitor's still image, such as a mask that was drawn in the page.

    What is transparent becomes black.

    Raises:
        UploadRefusedError: if the file is not read; the message may be shown to a visitor.
    """
    try:
        with Decoder(limits.decoding(picture=True)) as decoder:
            return decoder.read_image(path)
    except VideoRefusedError as refused:
        raise _generic(refused) from None


def _is_picture(path: Path, limits: UploadLimits) -> bool:
    """Tell a picture from a video by the first bytes; nothing else costs the start of a child."""
    with regular_file(path, limits.decoding()) as fd:
        try:
            head = read_head(fd)
        except Refused as refused:
            raise VideoRefusedError(path, "sniff", refused.reason) from refused
    picture = image_of(head) is not None
    if not picture and container_of(head) is None:
        raise VideoRefusedError(path, "sniff", describe(head))
    return picture


def _clip(frames: UInt8[np.ndarray, "T H W 3"], times_s: Float64[np.ndarray, " T"]) -> Clip:
    return Clip(frames=torch.from_numpy(frames), times_s=torch.from_numpy(times_s), source="upload")


def _generic(refused: VideoRefusedError) -> UploadRefusedError:
    _log.warning("an upload was refused (%s): %s", refused.stage, refused)
    return UploadRefusedError(_SENTENCES.get(refused.stage, DAMAGED))
