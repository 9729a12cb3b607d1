"""Small clips for the tests of this room, and an independent decoder to compare with."""

import struct
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH, FRAMES = 48, 64, 20


def pictures(count: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Pictures that differ from each other and from their own mirror images, u8 [T H W 3]."""
    y, x = np.mgrid[:height, :width]
    frames = [
        np.stack([x * 3, y * 4, np.full_like(x, 12 * number % 256)], axis=-1)
        for number in range(count)
    ]
    return np.array(frames).clip(0, 255).astype(np.uint8)


def make(
    path: Path,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    *,
    frames: np.ndarray | None = None,
    pts: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode pictures at 25 frames a second, or at the moments `pts` / 25."""
    frames = pictures() if frames is None else frames
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if pts is None else pts[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix (a b c d of x' = ax + cy, y' = bx + dy) into an mp4's track header."""
    data = bytearray(path.read_bytes())
    # Version, flags and fields of `tkhd` version 0 before the matrix take 40 bytes.
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def decode_all(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """All frames and their times from the first, as PyAV gives them in this process."""
    with av.open(str(path)) as container:
        pairs = [(f.to_ndarray(format="rgb24"), f.time) for f in container.decode(video=0)]
    times_s = np.array([time for _, time in pairs])
    return np.array([frame for frame, _ in pairs]), times_s - times_s[0]
