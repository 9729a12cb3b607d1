"""Video files to squares of 128 px, every 4th frame: ours against PyAV and OpenCV, same files.

All run on one core, in one thread each, and count the frames of the file. CPU time is that of this
process and the decode child together; the child is warm, and its start is printed by itself.

- *Ours*: as `toto tokenize` reads a file that `toto ingest` has scanned: frames that are not kept
  and that no other refers to are not decoded.
- *Ours, without the child*: the same work in this process, so that the ratio is what isolation
  costs.
- *Ours, every frame decoded*: of a file that was not scanned before.
- *PyAV, same filter*: plain PyAV in this process, every frame decoded, and our resize.
- *PyAV, Pillow*: its own way, whole frames as RGB arrays, and Pillow's bicubic filter on them.
- *OpenCV, bilinear*: `grab`, `retrieve` for the frames that are kept, `cv2.resize` as it comes,
  the whole picture squashed: of four pixels each, without antialiasing, so less work than ours.
- *OpenCV, area*: the same with `INTER_AREA`, its way of antialiasing.

The files are real ones from the shared data, where there are any, and two that are encoded here
from moving noise as a user's would be: H.264 at 320x240 and 854x480.
"""

import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from PIL import Image

from benchmarks.side_by_side import PACKAGES, line
from toto.video import decode_child
from toto.video.channel import Channel
from toto.video.decode import DecodeLimits, Decoder, regular_file
from toto.video.transforms import Squares

DATA = Path(os.environ.get("TOTO_DATA") or Path(__file__).parents[2] / "shared" / "data")
STRIDE, SIDE_PX, ROUNDS = 4, 128, 9
ENCODED = {"h264 320x240": (320, 240, 28), "h264 854x480": (854, 480, 23)}
"""Width, height and x264's constant rate factor."""


def run() -> Iterator[str]:
    """Yield a line for each file and peer, then for all files together."""
    sys.path.append(str(PACKAGES))
    # OpenCV reads both before its first file is opened.
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "threads;1"
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise SystemExit(f"no {error.name}: `make bench` installs OpenCV") from error
    cv2.setNumThreads(1)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        with tempfile.TemporaryDirectory(prefix="toto-bench-") as folder, Decoder() as decoder:
            yield from compared(cv2, decoder, Path(folder))
    finally:
        os.sched_setaffinity(0, cores)


def compared(cv2: Any, decoder: Decoder, folder: Path) -> Iterator[str]:
    """Yield the lines of `run`."""
    files = {path.stem[:24]: path for path in sorted(DATA.glob("clips/*"))}
    for name, (width, height, crf) in ENCODED.items():
        files[name] = folder / f"{height}.mp4"
        encode(files[name], width, height, crf)
    began = time.monotonic()
    granted = decoder.isolation
    yield (
        f"decode child, started in {time.monotonic() - began:.2f} s: "
        f"no network {granted.no_network}, no files {granted.no_files}"
    )
    scans = {path: decoder.scan(path) for path in files.values()}
    known = {path: scan.packets_numbered for path, scan in scans.items()}
    squares, options = Squares(), {"stride": STRIDE, "side_px": SIDE_PX}
    ways: dict[str, Callable[[Path], np.ndarray]] = {
        "ours": lambda path: decoder.read(path, **options, packets_numbered=known[path]).frames,
        "ours, without the child": lambda path: without_child(path, squares, known[path]),
        "ours, every frame decoded": lambda path: decoder.read(path, **options).frames,
        "PyAV, same filter": lambda path: by_pyav(path, lambda f: squares.cut(f, SIDE_PX)),
        "PyAV, Pillow": lambda path: by_pyav(path, pillow),
        "OpenCV, area": lambda path: by_opencv(cv2, path, cv2.INTER_AREA),
        "OpenCV, bilinear": lambda path: by_opencv(cv2, path, cv2.INTER_LINEAR),
    }
    cpu_s = {}
    for name, path in files.items():
        cpu_s[name] = rounds(ways, path, decoder)
        for way in ("ours, without the child", "ours, every frame decoded", "PyAV, same filter"):
            assert np.array_equal(ways["ours"](path), ways[way](path))
        for peer in [*ways][1:]:
            yield line(f"{name} / {peer}", ratios(cpu_s[name], peer))
    whole = {
        way: [sum(cpu_s[name][way][turn] for name in files) for turn in range(ROUNDS)]
        for way in ways
    }
    count = sum(scan.shown_frames for scan in scans.values())
    for way, times_s in whole.items():
        yield f"{way:<25} {count / statistics.median(times_s):6.0f} frames/s/core"
    for peer in [*ways][1:]:
        yield line(f"decode to 128 px, {len(files)} files / {peer}", ratios(whole, peer))


def rounds(
    ways: dict[str, Callable[[Path], np.ndarray]], path: Path, decoder: Decoder
) -> dict[str, list[float]]:
    """Time every way in turns, each round beginning with another, after a warm-up of all."""
    for work in ways.values():
        work(path)
    times_s: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(ROUNDS):
        order = [*ways][number % len(ways) :] + [*ways][: number % len(ways)]
        for way in order:
            began = both_cpu_s(decoder)
            ways[way](path)
            times_s[way].append(both_cpu_s(decoder) - began)
    return times_s


def both_cpu_s(decoder: Decoder) -> float:
    """CPU time of this process and of the decode child so far, all threads of each."""
    tasks = Path(f"/proc/{decoder.pid}/task").iterdir()
    child_ns = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    return time.process_time() + child_ns / 1e9


def ratios(times_s: dict[str, list[float]], peer: str) -> list[float]:
    """How many times faster ours is than the peer, round by round."""
    return [theirs / ours for theirs, ours in zip(times_s[peer], times_s["ours"], strict=True)]


class Sink:
    """Takes what the child's program sends, in the place of the channel to its parent."""

    def __init__(self) -> None:
        self.pictures: list[np.ndarray] = []

    def send(self, header: dict[str, Any], *payload: np.ndarray) -> None:
        """Keep the pictures."""
        self.pictures += payload


def without_child(path: Path, squares: Squares, packets_numbered: bool) -> np.ndarray:
    """Run the child's program on a file in this process."""
    sink, limits = Sink(), DecodeLimits()
    request = {
        "side_px": SIDE_PX,
        "to_the_end": False,
        "intervals": [],
        "thumbnail_every_s": None,
        "thumbnails_kept": 0,
        "numbered": packets_numbered,
        "spans": [{"start": 0, "stride": STRIDE, "frames": None, "crop": (0.5, 0.5)}],
    }
    with regular_file(path, limits) as fd:
        decode_child.answer(cast(Channel, sink), fd, request, asdict(limits), squares)
    return np.stack(sink.pictures)


def by_pyav(path: Path, square: Callable[[av.VideoFrame], np.ndarray]) -> np.ndarray:
    """Decode a file in this process and keep the squares of every 4th frame."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        kept = itertools.islice(container.decode(stream), 0, None, STRIDE)
        return np.stack([square(frame) for frame in kept])


def pillow(frame: av.VideoFrame) -> np.ndarray:
    """Turn a frame into RGB and resize its middle square."""
    image = Image.fromarray(frame.to_ndarray(format="rgb24", threads=1))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.array(image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC, box=box))


def by_opencv(cv2: Any, path: Path, interpolation: int) -> np.ndarray:
    """Read a file as OpenCV's users do."""
    capture, kept = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]), []
    for number in itertools.count():
        if not capture.grab():
            break
        if number % STRIDE == 0:
            frame = capture.retrieve()[1]
            small = cv2.resize(frame, (SIDE_PX, SIDE_PX), interpolation=interpolation)
            kept.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack(kept)


def encode(path: Path, width: int, height: int, crf: int) -> None:
    """Write ten seconds of coarse noise that drifts, with x264's other settings as they come."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (height // 8, width // 4, 3), dtype=np.uint8)
    scene = np.array(Image.fromarray(coarse).resize((2 * width, height), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(300):
            noisy = scene[:, number * width // 300 :][:, :width].astype(np.int16)
            noisy += draw.integers(-4, 5, (*noisy.shape[:2], 1), dtype=np.int16)
            frame = av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8))
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
