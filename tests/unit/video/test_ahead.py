"""Frames that nobody wants are left out; the others are those of decoding everything."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import made_clips
import numpy as np
import pytest

from toto.video.ahead import Astray, PacketTimes, Passed, numbered
from toto.video.decode import Decoder, Span
from toto.video.due import Due

B_FRAMES = {
    "mp4": ("libx264", {"bf": "3", "g": "30"}),
    "mkv": ("libx264", {"bf": "8", "b-pyramid": "strict", "b_strategy": "0"}),
    "ts": ("libx264", {"bf": "2", "b-pyramid": "none", "x264-params": "open-gop=1:keyint=12"}),
    "mov": ("mpeg4", {"bf": "2", "g": "12"}),
    "m2.mkv": ("mpeg2video", {"bf": "2", "g": "12"}),
}
"""Suffix of the file: encoder and its options, each with frames that no other refers to."""
WITHOUT = {
    "avi": ("mpeg4", {"bf": "2"}),
    "webm": ("libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "12"}),
    "hevc.mp4": ("libx265", {"x265-params": "bframes=3:log-level=none"}),
}
"""The same, where the packets' times do not number the frames or no frame may be left out."""
FRAMES = 61


@dataclass
class MadePacket:
    """What `numbered` reads of a packet."""

    pts: int | None
    dts: int | None


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


def made(path: Path, codec: str, options: dict[str, str]) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 3), dtype=np.uint8)
    large = noise.repeat(8, axis=0).repeat(8, axis=1)
    frames = np.stack([large[:, 2 * n : 2 * n + 128] for n in range(FRAMES)])
    return made_clips.make(path, codec, frames=frames, options=options)


def assert_same(decoder: Decoder, path: Path, span: Span) -> int:
    """Compare with decoding everything, and count what was passed over."""
    options = {"start": span.start, "stride": span.stride, "frames": span.frames}
    every = decoder.read(path, **options)
    some = decoder.read(path, **options, packets_numbered=True)
    np.testing.assert_array_equal(some.frames, every.frames)
    np.testing.assert_array_equal(some.indices, every.indices)
    np.testing.assert_array_equal(some.times_s, every.times_s)
    return some.passed_frames


@pytest.mark.parametrize("suffix", B_FRAMES)
def test_every_frame_wanted_is_that_of_decoding_everything(suffix: str, tmp_path: Path) -> None:
    path = made(tmp_path / f"clip.{suffix}", *B_FRAMES[suffix])
    with Decoder() as decoder:
        compare(decoder, path)


def compare(decoder: Decoder, path: Path) -> None:
    scan, child = decoder.scan(path), decoder.pid
    assert (scan.packets_numbered, scan.shown_frames) == (True, FRAMES)
    draw = np.random.default_rng(1)
    passed = [assert_same(decoder, path, Span(0, stride)) for stride in (1, 2, 3, 4, 5, 16, 99)]
    assert passed[0] == 0
    assert passed[3] > FRAMES / 8
    for _ in range(8):
        start, stride, frames = draw.integers((0, 1, 1), (FRAMES, 12, 20)).tolist()
        assert_same(decoder, path, Span(start, stride, frames))
    assert decoder.pid == child  # it never had to begin again


def test_many_spans_get_their_frames_in_one_pass(decoder: Decoder, tmp_path: Path) -> None:
    path = made(tmp_path / "clip.mp4", *B_FRAMES["mp4"])
    draw = np.random.default_rng(2)
    spans = [
        Span(*draw.integers((0, 1, 1), (FRAMES, 20, 9)).tolist(), crop=(crop, 0.5))
        for crop in (0.0, 0.5, 1.0)
        for _ in range(5)
    ]
    every, some = (
        list(decoder.stream(path, spans, side_px=32, packets_numbered=known))
        for known in (False, True)
    )
    assert len(every) == len(some) >= len(spans)
    for one, other in zip(every, some, strict=True):
        assert (one.span, one.indices.tolist()) == (other.span, other.indices.tolist())
        np.testing.assert_array_equal(one.frames, other.frames)


@pytest.mark.parametrize("suffix", WITHOUT)
def test_where_the_packets_do_not_number_the_frames_a_scan_says_so(
    suffix: str, decoder: Decoder, tmp_path: Path
) -> None:
    path = made(tmp_path / f"clip.{suffix}", *WITHOUT[suffix])
    assert not decoder.scan(path).packets_numbered


def test_a_damaged_file_is_not_trusted(decoder: Decoder, tmp_path: Path) -> None:
    path = made(tmp_path / "clip.mp4", *B_FRAMES["mp4"])
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + len(data) // 3
    data[at : at + 200] = bytes(200)
    path.write_bytes(data)
    assert not decoder.scan(path).packets_numbered


def test_a_wrong_word_costs_a_child_and_no_frame(decoder: Decoder, tmp_path: Path) -> None:
    # Begins between key frames: the packets before the first are there, their frames are not.
    codec, options = B_FRAMES["ts"]
    whole = made(tmp_path / "whole.ts", codec, options).read_bytes()
    packets = [whole[at : at + 188] for at in range(0, len(whole), 188)]
    video = [n for n, packet in enumerate(packets) if packet[1] & 0x40 and n > 3]
    path = tmp_path / "cut.ts"
    path.write_bytes(b"".join(packets[:3] + packets[video[4] :]))
    assert not decoder.scan(path).packets_numbered
    child = decoder.pid
    assert_same(decoder, path, Span(0, 4))
    assert decoder.pid != child


def in_coding_order(order: list[int], delay: int) -> list[MadePacket]:
    packets = [MadePacket(pts, number - delay) for number, pts in enumerate(order)]
    return [*packets, MadePacket(None, None)]


def test_packets_are_numbered_in_the_order_of_showing() -> None:
    # I P B B P B B
    packets = in_coding_order([0, 3, 1, 2, 6, 4, 5], delay=2)
    got = [(packet.pts, number) for packet, number in numbered(packets)]
    assert got == [(0, 0), (3, 3), (1, 1), (2, 2), (6, 6), (4, 4), (5, 5), (None, None)]


def test_numbers_of_any_order_are_those_of_sorting() -> None:
    draw = np.random.default_rng(3)
    for _ in range(200):
        count = int(draw.integers(1, 60))
        times = np.cumsum(draw.integers(1, 9, count)).tolist()
        order = np.argsort(np.arange(count) + draw.uniform(0, 6, count)).tolist()
        delay = max(place - shown for place, shown in enumerate(order))
        packets = [
            MadePacket(times[shown], times[place - delay] if place >= delay else place - delay)
            for place, shown in enumerate(order)
        ]
        got = [(packet.pts, number) for packet, number in numbered(packets)]
        assert got == [(times[shown], shown) for shown in order]


def test_no_more_than_a_few_packets_wait() -> None:
    packets = in_coding_order([*range(1000, 1200)], delay=2000)
    taken = 0

    def counted() -> Iterator[MadePacket]:
        nonlocal taken
        for packet in packets:
            taken += 1
            yield packet

    for given, (packet, number) in enumerate(numbered(counted())):
        assert packet is packets[given]
        assert taken - given <= 66
        assert number in (None, given)


def test_packets_after_an_unknown_time_have_no_number() -> None:
    packets = [MadePacket(0, 0), MadePacket(None, 1), MadePacket(2, 2)]
    assert [number for _, number in numbered(packets)] == [0, None, None]


def test_frames_left_out_have_an_index_all_the_same() -> None:
    passed = Passed()
    for pts, wanted in [(0, True), (30, False), (10, False), (20, False), (40, True), (50, False)]:
        passed.expect(pts, pts // 10, wanted=wanted)
    # 10 and 20 were left out; 30 was decoded though nobody wanted it.
    assert [passed.shown(0, 0), passed.shown(30, 1), passed.shown(40, 4)] == [0, 3, 4]
    passed.end()
    assert passed.frames == 3


@pytest.mark.parametrize("pts", [5, 20, None])
def test_a_frame_that_was_not_announced_is_noticed(pts: int | None) -> None:
    passed = Passed()
    for number in range(3):
        passed.expect(10 * number, number, wanted=True)
    passed.shown(0, 0)
    with pytest.raises(Astray):
        passed.shown(pts, 1)


def test_looking_ahead_does_not_change_what_is_due() -> None:
    spans = [
        {"start": 0, "stride": 3, "frames": None, "crop": (0.5, 0.5)},
        {"start": 4, "stride": 1, "frames": 3, "crop": (0.5, 0.5)},
        {"start": 6, "stride": 2, "frames": 2, "crop": (0.0, 1.0)},
    ]
    plain, ahead = Due(spans), Due(spans)
    wanted = [index for index in np.random.default_rng(4).permutation(20) if ahead.wants(index)]
    assert sorted(wanted) == [0, 3, 4, 5, 6, 8, 9, 12, 15, 18]
    assert [ahead.at(index) for index in range(20)] == [plain.at(index) for index in range(20)]


def test_only_streams_that_say_their_times_are_numbered() -> None:
    class Codec:
        name = "h264"

    class Stream:
        codec_context = Codec()

    @dataclass
    class Timed(MadePacket):
        size: int = 9

    def number(packets: list[tuple[int | None, int | None]], shown: list[int]) -> bool:
        times = PacketTimes(Stream(), "matroska")
        for pts, dts in packets:
            times.packet(Timed(pts, dts))
        for pts in shown:
            times.frame(pts)
        return times.number_frames

    assert number([(0, 0), (3, 1), (2, 2)], [0, 2, 3])
    assert not number([(0, 0), (3, 1), (2, 2)], [0, 3])
    assert not number([(0, 0), (3, 1), (2, 2)], [0, 3, 2])
    assert number([(0, None), (3, None), (2, 2)], [0, 2, 3])
    assert not number([(0, 0), (3, None), (2, 2)], [0, 2, 3])
    assert not number([(0, 0), (3, 1), (2, 1)], [0, 2, 3])
    assert not number([(0, 0), (3, 4), (5, 5)], [0, 3, 5])
