"""What the decoder hands out: what a file claims to be, what it turned out to be, its frames."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8

from toto.types import Clip

THUMBNAIL_PX = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """What a container says of its video; only the size is checked, on the first frame.

    Attributes:
        width: of a frame as it is shown, after rotation.
        height: the same.
        frames_claimed: None where the container does not count.
        fps: average rate; None where it is not known.
        duration_s: None where it is not known.
        codec: FFmpeg's name of the decoder.
        container: FFmpeg's name of the demuxer.
    """

    width: int
    height: int
    frames_claimed: int | None
    fps: float | None
    duration_s: float | None
    codec: str
    container: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scan:
    """What decoding a file found, up to where the decoding stopped.

    Attributes:
        info: what the container claims.
        decoded_frames: frames that came out of the decoder.
        decode_errors: packets that could not be decoded and frames that came out damaged.
        dropped_times: frames left out, and given no index, because time did not increase.
        last_time_s: when the last frame is shown, in seconds from the first.
        passed_frames: frames that were left undecoded, since nothing wanted them and no other
            frame refers to them; they have an index like others.
        packets_numbered: whether the times of its packets number its frames, so that another pass
            may leave out such frames; found by `Decoder.scan` only.
        placeholders: empty packets that the container counts as frames.
        complaints: other signs of damage, looked for by `Decoder.scan` only.
        spans: index of the first frame and count of the frames within each interval asked for;
            with a count of 0, the index is where such a frame would be.
        thumbnails: whole upright frames, grey, squashed to a square: the first at or after every
            so many seconds.
    """

    info: VideoInfo
    decoded_frames: int
    decode_errors: int
    dropped_times: int
    last_time_s: float
    passed_frames: int = 0
    packets_numbered: bool = False
    placeholders: int = 0
    complaints: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    thumbnails: UInt8[np.ndarray, "N 64 64"] = field(
        default_factory=lambda: np.empty((0, THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
    )

    @property
    def shown_frames(self) -> int:
        """Frames that have an index: those decoded and not dropped, and those passed over."""
        return self.decoded_frames - self.dropped_times + self.passed_frames

    def damage(self) -> str | None:
        """Say in words what is wrong with a file that decodes, or None if nothing was found.

        Of a whole `Decoder.scan`: a read that stops early has decoded less than the file holds.
        """
        claimed = (self.info.frames_claimed or 0) - self.placeholders
        found = []
        if self.decoded_frames < claimed:
            missing = claimed - self.decoded_frames
            found.append(f"{missing} of {claimed} frames could not be decoded")
        if self.decode_errors:
            found.append(f"{self.decode_errors} packets or frames are damaged")
        if self.dropped_times:
            found.append(f"{self.dropped_times} frames without an increasing time were left out")
        return "; ".join([*found, *self.complaints]) or None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Decoded(Scan):
    """Frames of a file, with the position and time of each.

    Attributes:
        frames: sRGB bytes, upright.
        times_s: when each is shown, in seconds from the file's first frame.
        indices: position of each among the file's frames, in the order they are shown.
        path: the file.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    times_s: Float64[np.ndarray, " T"]
    indices: Int64[np.ndarray, " T"]
    path: Path

    def __repr__(self) -> str:
        return f"Decoded({str(self.path)!r}, frames={self.frames.shape})"

    def clip(self) -> Clip:
        """Give the frames to the rest of the package; the memory is shared."""
        return Clip(
            frames=torch.from_numpy(self.frames),
            times_s=torch.from_numpy(self.times_s),
            source=str(self.path),
        )
