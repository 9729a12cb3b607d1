"""The hostile files of `made_hostile`, and images like them, sent to the page over HTTP.

Held for every one: one of the fixed sentences or pixels of its own, at most 10 s, at most 512 MB in
the process that decodes it, no byte or frame of another file, and nobody is called.
"""

import contextlib
import json
import os
import random
import socket
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import made_hostile
import numpy as np
import pytest
from made_web_visitor import Served, Visitor, as_file, served

from toto.app.uploads import DAMAGED, LARGE, UNKNOWN
from toto.video.decode import Decoder
from toto.video.write import write_mp4

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and isolation are Linux's"),
]
pytest.importorskip("gradio", reason="the extra `app` is not installed")
MOST_MIB, MOST_S = 512, 10.0
SECRET = "open-sesame-of-uploads"
EVERY = {"ci": 2, "nightly": 1}.get(os.environ.get("TOTO_FAULTS", ""), 6)
"""Of the files that need a process to look at them, each so many-th is sent."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_TOKEN", SECRET)
        with served(tmp_path_factory.mktemp("media")) as server:
            yield server


class Watcher(threading.Thread):
    """Looks again and again at the processes that decode, and how much memory they ever held."""

    def __init__(self, server: Served) -> None:
        super().__init__(daemon=True)
        self.tasks = Path(f"/proc/{server.process.pid}/task")
        self.peaks_mib: dict[int, float] = {}
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.01):
            for task in self.tasks.iterdir():
                # Threads and processes end while they are looked at.
                with contextlib.suppress(OSError, IndexError):
                    for child in (task / "children").read_text().split():
                        # Until it is a decoder it is a copy of the server, with its memory.
                        if "decode_child" in Path(f"/proc/{child}/cmdline").read_text():
                            status = Path(f"/proc/{child}/status").read_text()
                            peak_kib = status.split("VmHWM:")[1].split()[0]
                            self.peaks_mib[int(child)] = int(peak_kib) / 1024


def test_hostile_files_over_http(server: Served) -> None:
    canary = server.notes / "canary.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
    write_mp4(canary, np.repeat(noise, 5, axis=0), 25)
    (server.notes / "canary.txt").write_text(SECRET)
    whole = server.notes / "whole.mp4"
    write_mp4(whole, np.zeros((20, 48, 64, 3), np.uint8), 25)
    with Decoder() as decoder:
        bait = decoder.read(canary, side_px=128).frames[:, ::16, ::16]
    outcomes: Counter[str] = Counter()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        port = listener.getsockname()[1]
        texts = list(made_hostile.texts(canary, port))
        heavy = [*made_hostile.binaries(canary, port, whole.read_bytes()), *images()]
        assert len(texts) + len(heavy) >= 150
        visitor, watcher = Visitor(server.port), Watcher(server)
        watcher.start()
        for number, (name, data) in enumerate([*texts, *heavy[::EVERY]]):
            said, took_s = sent(visitor, data, f"{name}{ENDINGS[number % 4]}")
            assert took_s < MOST_S, name
            assert SECRET not in said, name
            outcomes[said if said in (DAMAGED, LARGE, UNKNOWN) else "read"] += 1
            if said.startswith("{"):
                shown = np.array(json.loads(said)["pixels"]).reshape(-1, *bait.shape[1:])
                away = [np.abs(bait - frame).mean(axis=(1, 2, 3)).min() for frame in shown]
                assert min(away) > 10, name
            else:
                assert said in (DAMAGED, LARGE, UNKNOWN), name
            with pytest.raises(BlockingIOError):
                listener.accept()
    watcher.ended.set()
    watcher.join()
    peak_mib = max(watcher.peaks_mib.values())
    print(f"{sum(outcomes.values())} files: {dict(outcomes)}, {peak_mib:.0f} MiB at most")
    assert outcomes[UNKNOWN] >= len(texts)
    assert len(outcomes) >= 3
    # A decoder that is at work holds its libraries, which is more than a bare interpreter.
    assert 30 < peak_mib < MOST_MIB
    assert server.network() == []
    assert server.alive()
    # A good file is read as before.
    said, _ = sent(visitor, whole.read_bytes(), "whole.mp4")
    assert json.loads(said)["frames"] > 0


ENDINGS = (".mp4", ".m3u8", ".png", "")


def sent(visitor: Visitor, data: bytes, name: str) -> tuple[str, float]:
    """Upload a file and have it read; return what the page says, and the time that took."""
    began = time.monotonic()
    joined = visitor.join(0, as_file(visitor.upload(data, name)))
    assert joined.status == 200
    wanted = json.loads(joined.body)["event_id"]
    for message in visitor.follow():
        if message["msg"] == "process_completed" and message["event_id"] == wanted:
            assert message["success"], message
            return message["output"]["data"][0], time.monotonic() - began
    raise AssertionError("the stream ended")


def images() -> Iterator[tuple[str, bytes]]:
    """Images that claim, inflate to or hold more than they should."""
    start = b"\x89PNG\r\n\x1a\n"
    rows = zlib.compress(bytes(8 * 25), 9)
    for width, height in ((30_000, 20_000), (65_535, 65_535), (1 << 31, 1), (0, 0), (8, 8)):
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        yield f"png of {width} x {height}", start + body
    small = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    bomb = zlib.compress(bytes(64 << 20), 9)
    for kind, before in ((b"iCCP", b"x\0\0"), (b"zTXt", b"x\0\0"), (b"IDAT", b"")):
        body = small + chunk(kind, before + bomb) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        yield f"png with a bomb in {kind.decode()}", start + body
    texts = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1 << 20), 9)) * 100
    yield "png of texts", start + small + texts + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    yield "png of noise", start + random.Random(0).randbytes(1 << 16)
    frame = struct.pack(">BHHB", 8, 65_000, 65_000, 3) + b"\x01\x11\0\x02\x11\0\x03\x11\0"
    jpeg = b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xda\0\x02"
    yield "jpeg of 65000", jpeg
    yield "jpeg of noise", b"\xff\xd8\xff\xe0" + random.Random(1).randbytes(1 << 16)
    bmp = struct.pack("<IiiHHIIiiII", 40, 1 << 20, 1 << 20, 1, 24, 0, 0, 0, 0, 0, 0)
    yield "bmp of 2^40", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + bmp
    canvas = (16_383).to_bytes(3, "little") * 2
    webp = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    yield "webp of 16384", b"RIFF" + struct.pack("<I", len(webp)) + webp


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
