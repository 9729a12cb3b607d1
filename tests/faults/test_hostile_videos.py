"""The hostile set: each file as a path and as an upload, and nothing but a refusal comes of it.

Held for every one: no frame or byte of a file beside it, no connection, at most 512 MB and 10 s.
"""

import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import made_hostile
import numpy as np
import pytest

from toto.video.decode import DecodeLimits, Decoder, VideoRefusedError, uploaded
from toto.video.write import write_mp4

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and isolation are Linux's"),
]
MOST_MIB, MOST_S = 512, 10.0
SECRET = "open-sesame"


@dataclass
class Bait:
    """What hostile files point to: a video of noise, and a port of this machine."""

    path: Path
    port: int
    listener: socket.socket
    frames: np.ndarray


@pytest.fixture(scope="module")
def bait(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bait]:
    folder = tmp_path_factory.mktemp("bait")
    path = folder / "canary.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
    write_mp4(path, np.repeat(noise, 5, axis=0), 25)
    with socket.create_server(("127.0.0.1", 0)) as listener, Decoder() as decoder:
        listener.settimeout(0)
        frames = decoder.read(path, side_px=8).frames
        yield Bait(path, listener.getsockname()[1], listener, frames)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "whole.mp4"
    write_mp4(path, np.zeros((20, 48, 64, 3), np.uint8), 25)
    return path.read_bytes()


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(DecodeLimits(files_per_child=100_000)) as decoder:
        yield decoder


@pytest.mark.parametrize("door", ["path", "upload"])
def test_a_text_that_names_other_files_opens_none(
    door: str, decoder: Decoder, bait: Bait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    monkeypatch.chdir(bait.path.parent)
    cases = dict(made_hostile.texts(bait.path, bait.port))
    assert len(cases) >= 150
    for name, data in cases.items():
        assert attempt(decoder, door, data, bait, tmp_path / f"{name.split()[0]}.mp4") == "sniff"


@pytest.mark.parametrize("door", ["path", "upload"])
def test_a_bomb_is_defused(
    door: str, decoder: Decoder, bait: Bait, whole: bytes, tmp_path: Path
) -> None:
    cases = dict(made_hostile.binaries(bait.path, bait.port, whole))
    assert len(cases) >= 80
    outcomes = {
        name: attempt(decoder, door, data, bait, tmp_path / "bomb.mp4")
        for name, data in cases.items()
    }
    died = {
        name: stage for name, stage in outcomes.items() if stage in ("crash", "timeout", "leak")
    }
    assert died == {}


def test_a_small_file_that_takes_long_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "long.gif"
    path.write_bytes(made_hostile.large_frames(count=3000))
    with Decoder(DecodeLimits(cpu_grace_s=0.01, least_bytes_per_cpu_s=1 << 40)) as decoder:
        with pytest.raises(VideoRefusedError, match="more than 0 s of processor time") as refused:
            decoder.scan(path)
        assert refused.value.stage == "limits"
        assert decoder.pid is None


def attempt(decoder: Decoder, door: str, data: bytes, bait: Bait, path: Path) -> str:
    """Read and scan a hostile file; return the stage that refused it, or ok."""
    began = time.monotonic()
    stage = "ok"
    if door == "path":
        path.write_bytes(data)
        stage = read(decoder, path, bait)
    else:
        with uploaded(data) as memory:
            stage = read(decoder, memory, bait)
    assert time.monotonic() - began < MOST_S
    if decoder.pid is not None:
        status = Path(f"/proc/{decoder.pid}/status").read_text()
        assert int(status.split("VmHWM:")[1].split()[0]) / 1024 < MOST_MIB
    with pytest.raises(BlockingIOError):
        bait.listener.accept()
    return stage


def read(decoder: Decoder, path: Path, bait: Bait) -> str:
    try:
        scan = decoder.scan(path)
        frames = decoder.read(path, side_px=8, frames=10).frames
    except VideoRefusedError as error:
        refused = error
    else:
        return "ok" if unlike(frames, bait) and SECRET not in (scan.damage() or "") else "leak"
    return "leak" if SECRET in str(refused) else refused.stage


def unlike(frames: np.ndarray, bait: Bait) -> bool:
    """Whether no frame is one of the bait's."""
    near = [np.abs(frames.astype(int) - frame).mean(axis=(1, 2, 3)).min() for frame in bait.frames]
    return min(near) > 10


def test_no_name_of_a_device_is_opened(decoder: Decoder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    for number, target in enumerate(
        ["/dev/zero", "/dev/random", "/dev/stdin", "/dev/tty", "/dev/full", "/proc/kmsg", "/", "."]
    ):
        link = tmp_path / f"{number}.mp4"
        link.symlink_to(target)
        with pytest.raises(VideoRefusedError) as refused:
            decoder.scan(link)
        assert refused.value.stage in ("open", "sniff")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    for name in ("fifo.mp4", "loop.mp4"):
        with pytest.raises(VideoRefusedError) as refused:
            decoder.scan(tmp_path / name)
        assert refused.value.stage == "open"
