"""Hostile and broken media: every file is read or refused with a reason, and nothing else happens.

The canary is a video beside the hostile file: a playlist that is followed returns its frames.
"""

import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from toto.video import video_file
from toto.video.channel import Channel
from toto.video.decode import DecodeLimits, Decoder
from toto.video.refused import STAGES, VideoRefusedError
from toto.video.write import write_mp4

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and isolation are Linux's"),
]


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("canary") / "canary.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    write_mp4(path, noise, 25)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its frames do not fit the channel's buffer, so the child is never far ahead of us."""
    path = tmp_path_factory.mktemp("large") / "large.mp4"
    write_mp4(path, np.zeros((60, 480, 640, 3), np.uint8), 25)
    return path


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One frame of 67 million pixels in a few kilobytes."""
    path = tmp_path_factory.mktemp("huge") / "huge.mp4"
    black = av.VideoFrame.from_ndarray(np.zeros((8192 * 3 // 2, 8192), np.uint8), format="yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 8192, 8192, "yuv420p"
        container.mux(stream.encode(black))
        container.mux(stream.encode(None))
    assert path.stat().st_size < 1 << 20
    return path


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD type="static"><Period><AdaptationSet mimeType="video/mp4">'
    "<Representation><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>"
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
TEXTS = {
    "hls": HLS,
    "hls after a byte order mark": "\ufeff" + HLS,
    "hls after blank lines": "\n\n" + HLS,
    "ffconcat": "ffconcat version 1.0\nfile '{url}'\n",
    "dash": DASH,
    "sdp": SDP,
    "html": "<!DOCTYPE html><video src='{url}'></video>",
    "subtitles": "1\n00:00:00,000 --> 00:00:09,000\n{url}\n",
    "crypto name": "crypto:{url}\n",
}


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.m3u8", "x.ffconcat", "x"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_file_that_names_others_opens_none(
    text: str, name: str, decoder: Decoder, canary: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        port = listener.getsockname()[1]
        for url in (canary, f"file:{canary}", f"http://127.0.0.1:{port}/canary.mp4"):
            (tmp_path / name).write_text(TEXTS[text].format(url=url, port=port))
            with pytest.raises(VideoRefusedError, match="not a video") as refused:
                decoder.read(tmp_path / name)
            assert refused.value.stage == "sniff"
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("demuxer", ["hls", "concat", "dash", "sdp", "image2"])
def test_a_playlist_past_the_sniffing_still_finds_no_way_out(
    demuxer: str, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = {"hls": HLS, "dash": DASH, "sdp": SDP}.get(demuxer, TEXTS["ffconcat"])
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.mp4"
    # A name without a folder: FFmpeg has a rule of its own against absolute ones.
    (tmp_path / "canary.mp4").write_bytes(canary.read_bytes())
    path.write_text(text.format(url="canary.mp4", port=9))
    monkeypatch.setattr(video_file, "container_of", lambda head: demuxer)
    limits = {"max_pixels": 1 << 24, "max_streams": 8, "max_duration_s": 99.0, "memory_bytes": 0}
    with (
        path.open("rb") as file,
        pytest.raises((video_file.Refused, ValueError)),
        video_file.open_video(file.fileno(), limits) as video,
    ):
        pytest.fail(f"opened, with {len(list(video.frames()))} frames")


@pytest.mark.parametrize(
    "name", ["concat:canary.mp4|canary.mp4", "subfile,,start,0,end,0,,:canary.mp4", "-", "pipe:0"]
)
def test_names_that_ffmpeg_would_read_as_orders_are_only_names(
    name: str, decoder: Decoder, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoRefusedError, match="No such file or directory"):
        decoder.read(name)
    Path(name).write_bytes(canary.read_bytes())
    assert len(decoder.read(name, side_px=8).frames) == 20


def test_what_is_no_regular_file_is_refused_at_once(decoder: Decoder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "link.mp4").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.mp4"))
        began = time.monotonic()
        for name in ("fifo.mp4", "link.mp4", "socket.mp4", "/dev/null", "."):
            with pytest.raises(VideoRefusedError, match="it is not a regular file") as refused:
                decoder.read(tmp_path / name)
            assert refused.value.stage == "open"
    for name, words in (
        ("gone.mp4", "No such file"),
        ("x" * 300, "name too long"),
        ("a\0b", "null"),
    ):
        with pytest.raises(VideoRefusedError, match=words):
            decoder.read(tmp_path / name)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_read_or_refused(
    share: float, decoder: Decoder, canary: Path, tmp_path: Path
) -> None:
    data = canary.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(share * len(data))])
    outcome = _stage_of(decoder, path)
    if outcome == "ok":
        scan = decoder.scan(path)
        assert scan.decoded_frames < 20 or scan.decode_errors > 0
    else:
        assert outcome in ("probe", "decode")


def test_a_hundred_mutants_are_read_or_refused(
    decoder: Decoder, canary: Path, tmp_path: Path
) -> None:
    draw = random.Random(0)
    data = canary.read_bytes()
    path = tmp_path / "mutant.mp4"
    outcomes = []
    for _ in range(100):
        mutant = bytearray(data)
        # Half of them in the index, where the structure is, which is a small part of the file.
        reach = data.index(b"mdat") if draw.random() < 0.5 else len(data)
        for _ in range(draw.choice([1, 8, 64])):
            mutant[draw.randrange(reach)] = draw.randrange(256)
        path.write_bytes(mutant)
        outcomes.append(_stage_of(decoder, path))
    assert set(outcomes) <= {"ok", *STAGES} - {"crash", "timeout"}
    assert "ok" in outcomes
    assert "probe" in outcomes


def test_a_huge_picture_is_refused_by_its_header(decoder: Decoder, huge: Path) -> None:
    with pytest.raises(VideoRefusedError, match="8192 x 8192 pixels, max_pixels is") as refused:
        decoder.read(huge)
    assert refused.value.stage == "limits"


def test_a_header_that_lies_about_the_size_helps_nobody(huge: Path, tmp_path: Path) -> None:
    data = bytearray(huge.read_bytes())
    at = data.index(b"avc1", data.index(b"stsd")) + 4 + 24
    assert data[at : at + 4] == struct.pack(">2H", 8192, 8192)
    data[at : at + 4] = struct.pack(">2H", 64, 64)
    (tmp_path / "lie.mp4").write_bytes(data)
    with Decoder() as decoder:
        with pytest.raises(VideoRefusedError, match=r"8192 x 8192 pixels"):
            decoder.read(tmp_path / "lie.mp4")
        assert _peak_mib(decoder) < 200


def test_memory_is_bounded(huge: Path, canary: Path) -> None:
    limits = DecodeLimits(max_pixels=1 << 28, memory_bytes=512 << 20)
    with Decoder(limits) as decoder:
        with pytest.raises(VideoRefusedError) as refused:
            decoder.read(huge)
        assert refused.value.stage in ("limits", "decode")
        assert _peak_mib(decoder) < 512
        assert len(decoder.read(canary, side_px=8).frames) == 20


def test_long_and_large_files_are_refused(canary: Path) -> None:
    with Decoder(DecodeLimits(max_duration_s=0.5)) as decoder:
        with pytest.raises(VideoRefusedError, match=r"max_duration_s is 0\.5") as refused:
            decoder.read(canary)
        assert refused.value.stage == "limits"
    with Decoder(DecodeLimits(max_file_bytes=1000)) as decoder:
        with pytest.raises(VideoRefusedError, match="max_file_bytes is 1000") as refused:
            decoder.read(canary)
        assert refused.value.stage == "limits"


def test_a_file_not_decoded_in_time_is_refused(canary: Path, decoder: Decoder) -> None:
    with Decoder(DecodeLimits(wall_s=1e-4)) as hurried:
        with pytest.raises(VideoRefusedError, match=r"within 0\.0001 s, twice") as refused:
            hurried.read(canary)
        assert refused.value.stage == "timeout"
        assert hurried.pid is None


def test_a_hung_child_is_replaced_and_the_file_read(canary: Path) -> None:
    with Decoder(DecodeLimits(wall_s=1.0)) as decoder:
        expected = decoder.read(canary).frames
        assert decoder.pid is not None
        hung = decoder.pid
        os.kill(hung, signal.SIGSTOP)
        np.testing.assert_array_equal(decoder.read(canary).frames, expected)
        assert decoder.pid != hung
        with pytest.raises(ProcessLookupError):
            os.kill(hung, 0)


@pytest.mark.parametrize("after", [1, 10, 40])
def test_a_child_killed_amid_a_file_is_replaced_and_the_file_read(
    after: int, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Decoder() as decoder:
        expected = decoder.read(large).frames
        first = decoder.pid
        _kill_child(monkeypatch, decoder, after=[after])
        np.testing.assert_array_equal(decoder.read(large).frames, expected)
        assert decoder.pid != first


def test_a_file_that_kills_every_child_is_refused_and_the_next_is_read(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Decoder() as decoder:
        _kill_child(monkeypatch, decoder, after=[3, 5])
        with pytest.raises(VideoRefusedError, match=r"died \(SIGKILL\), twice") as refused:
            decoder.read(large)
        assert refused.value.stage == "crash"
        assert len(decoder.read(large).frames) == 60


def test_a_child_killed_between_two_files_costs_none(canary: Path) -> None:
    with Decoder() as decoder:
        for _ in range(3):
            assert len(decoder.read(canary, side_px=8).frames) == 20
            assert decoder.pid is not None
            os.kill(decoder.pid, signal.SIGKILL)
            time.sleep(0.02)


def test_no_child_outlives_its_parent() -> None:
    # Stopped, so that it cannot notice for itself that the channel is closed.
    program = (
        "import os, signal; from toto.video.child import Child;"
        "child = Child.start({'memory_bytes': 1 << 30, 'wall_s': 9.0});"
        "os.kill(child.process.pid, signal.SIGSTOP);"
        "print(child.process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
    assert parent.returncode == -signal.SIGKILL
    stat = Path("/proc", parent.stdout.decode().strip(), "stat")
    for _ in range(100):
        try:
            # A zombie, where nobody collects orphans, is dead too.
            if stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.02)
    pytest.fail("the child still runs")


def _kill_child(monkeypatch: pytest.MonkeyPatch, decoder: Decoder, *, after: list[int]) -> None:
    """Kill one child after another, each when that many of its frames have come, or more."""
    # A message may hold several frames, and what a child had sent still comes after its end.
    receive, frames, killed = Channel.receive_into, [0], [0]

    def receive_and_kill(self: Channel, array: np.ndarray) -> None:
        receive(self, array)
        if decoder.pid is None or decoder.pid == killed[-1] or len(killed) > len(after):
            return
        frames[0] += len(array) if array.ndim == 4 else 0
        if frames[0] >= after[len(killed) - 1]:
            frames[0] = 0
            killed.append(decoder.pid)
            os.kill(decoder.pid, signal.SIGKILL)

    monkeypatch.setattr(Channel, "receive_into", receive_and_kill)


def _stage_of(decoder: Decoder, path: Path) -> str:
    try:
        got = decoder.read(path, stride=4, side_px=8)
    except VideoRefusedError as refused:
        return refused.stage
    assert (np.diff(got.times_s) > 0).all()
    return "ok"


def _peak_mib(decoder: Decoder) -> float:
    status = Path(f"/proc/{decoder.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
