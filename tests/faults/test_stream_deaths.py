"""A child that dies amid a stream: another goes on where it stopped, and no frame comes twice."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from toto.video.channel import Channel
from toto.video.decode import DecodeLimits, Decoder, Piece, Span, VideoRefusedError
from toto.video.write import write_mp4

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and isolation are Linux's"),
]
SPANS = [Span(), Span(3, 4, 9), Span(20, 2, crop=(0.0, 0.5)), Span(50, 1, 5)]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its frames do not fit the channel's buffer, so the child is never far ahead of us."""
    path = tmp_path_factory.mktemp("stream") / "large.mp4"
    ramp = np.arange(60, dtype=np.uint8)[:, None, None, None] * 4
    write_mp4(path, np.broadcast_to(ramp, (60, 320, 480, 3)), 25)
    return path


def kill_at(monkeypatch: pytest.MonkeyPatch, decoder: Decoder, pictures: set[int]) -> None:
    """Kill the decoder's child when so many pictures have come, over all its children."""
    receive, count = Channel.receive_into, [0]

    def receive_and_kill(self: Channel, array: np.ndarray) -> None:
        receive(self, array)
        before = count[0]
        count[0] += len(array) if array.ndim == 4 else 0
        if any(before < picture <= count[0] for picture in pictures):
            assert decoder.pid is not None
            os.kill(decoder.pid, signal.SIGKILL)

    monkeypatch.setattr(Channel, "receive_into", receive_and_kill)


def assert_same(got: list[Piece], expected: list[Piece]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert (one.span, one.last) == (other.span, other.last)
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.times_s, other.times_s)
        np.testing.assert_array_equal(one.indices, other.indices)


@pytest.mark.parametrize("after", [1, 23, 44, 60])
def test_the_pieces_are_the_same_and_none_comes_twice(
    after: int, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Decoder() as decoder:
        expected = list(decoder.stream(large, SPANS, side_px=320, piece_frames=7))
        first = decoder.pid
        kill_at(monkeypatch, decoder, {after})
        got = list(decoder.stream(large, SPANS, side_px=320, piece_frames=7))
        assert decoder.pid != first
    assert_same(got, expected)


def test_the_same_for_a_scan(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Decoder() as decoder:
        expected = decoder.scan(large, thumbnail_every_s=0.1)
        kill_at(monkeypatch, decoder, {5})
        got = decoder.scan(large, thumbnail_every_s=0.1)
    np.testing.assert_array_equal(got.thumbnails, expected.thumbnails)
    assert len(got.thumbnails) == 24
    assert got.spans == expected.spans == ((0, 60),)


def test_a_stream_ends_when_a_second_child_dies(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Decoder() as decoder:
        kill_at(monkeypatch, decoder, {10, 30})
        stream = decoder.stream(large, [Span()], side_px=320, piece_frames=4)
        indices: list[int] = []
        with pytest.raises(VideoRefusedError, match=r"died \(SIGKILL\), twice") as refused:
            indices.extend(index for piece in stream for index in piece.indices.tolist())
        assert refused.value.stage == "crash"
        assert indices == list(range(len(indices)))
        assert 20 < len(indices) < 40
        monkeypatch.undo()
        assert len(decoder.read(large, side_px=8).frames) == 60


def test_a_slow_receiver_does_not_use_up_the_files_time(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("toto.video.channel.time.monotonic", lambda: clock[0])
    with Decoder(DecodeLimits(wall_s=30.0)) as decoder:
        pieces = 0
        for _ in decoder.stream(large, [Span()], side_px=320, piece_frames=10):
            clock[0] += 20.0
            pieces += 1
        assert pieces == 6
