import inspect
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import made_clips
import numpy as np
import pytest
from PIL import Image

from toto.video.answer import Inbox
from toto.video.channel import Channel
from toto.video.decode import (
    DecodeLimits,
    Decoder,
    Piece,
    Span,
    VideoRefusedError,
    uploaded,
)

SPANS = [
    Span(),
    Span(3, 4),
    Span(2, 3, 4, (0.25, 1.0)),
    Span(2, 3, 5, (0.25, 1.0)),
    Span(15, 1, 100),
    Span(19, 1, 1, (1.0, 0.0)),
]


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_clips.make(tmp_path_factory.mktemp("clips") / "plain.mp4")


def whole(pieces: list[Piece], number: int) -> tuple[np.ndarray, list[float], list[int]]:
    """Put a span's pieces together, which must end where they say."""
    mine = [piece for piece in pieces if piece.span == number]
    assert [piece.last for piece in mine] == [False] * (len(mine) - 1) + [True]
    frames = np.concatenate([piece.frames for piece in mine])
    times_s = np.concatenate([piece.times_s for piece in mine])
    return frames, times_s.tolist(), np.concatenate([piece.indices for piece in mine]).tolist()


def assert_same_as_reads(pieces: list[Piece], decoder: Decoder, path: Path, side_px: int) -> None:
    for number, span in enumerate(SPANS):
        frames, times_s, indices = whole(pieces, number)
        read = decoder.read(
            path,
            start=span.start,
            stride=span.stride,
            frames=span.frames,
            side_px=side_px,
            crop_x=span.crop[0],
            crop_y=span.crop[1],
        )
        np.testing.assert_array_equal(frames, read.frames)
        assert (times_s, indices) == (read.times_s.tolist(), read.indices.tolist())


@pytest.mark.parametrize("piece_frames", [1, 3, 4, 64])
def test_overlapping_spans_are_those_of_as_many_reads(
    piece_frames: int, decoder: Decoder, mp4: Path
) -> None:
    pieces = list(decoder.stream(mp4, SPANS, side_px=16, piece_frames=piece_frames))
    assert max(len(piece.frames) for piece in pieces) <= piece_frames
    assert_same_as_reads(pieces, decoder, mp4, 16)


def test_a_frame_that_spans_share_is_sent_once(
    mp4: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive, sent = Channel.receive_into, [0]

    def counted(self: Channel, array: np.ndarray) -> None:
        sent[0] += len(array) if array.ndim == 4 else 0
        receive(self, array)

    monkeypatch.setattr(Channel, "receive_into", counted)
    spans = [Span(), Span(5, 2), Span(0, 1, 3, (0.0, 0.5))]
    list(decoder.stream(mp4, spans, side_px=16))
    assert sent[0] == 20 + 3


def test_a_span_without_a_frame_is_named_after_the_others(decoder: Decoder, mp4: Path) -> None:
    stream = decoder.stream(mp4, [Span(20), Span(18)], side_px=16)
    piece = next(stream)
    assert (piece.span, piece.indices.tolist(), piece.last) == (1, [18, 19], True)
    with pytest.raises(VideoRefusedError, match=r"plain\.mp4: it has no frame 20, only 20 frames"):
        next(stream)


def test_a_stream_left_early_spoils_nothing(decoder: Decoder, mp4: Path) -> None:
    stream = decoder.stream(mp4, [Span()], side_px=16, piece_frames=2)
    assert inspect.isgenerator(stream)
    first = next(stream)
    stream.close()
    again = list(decoder.stream(mp4, [Span()], side_px=16, piece_frames=2))
    assert len(again) == 10
    np.testing.assert_array_equal(again[0].frames, first.frames)


def test_a_decoder_serves_one_stream_at_a_time(decoder: Decoder, mp4: Path) -> None:
    stream = decoder.stream(mp4, [Span()], side_px=16, piece_frames=2)
    next(stream)
    with pytest.raises(ValueError, match="a stream of this decoder is still open: finish or close"):
        decoder.probe(mp4)
    assert len(list(stream)) == 9
    assert decoder.probe(mp4).width == 64


def test_pieces_stay_as_they_are(decoder: Decoder, mp4: Path) -> None:
    stream = decoder.stream(mp4, [Span()], side_px=16, piece_frames=2)
    pieces = [(piece, piece.frames.copy()) for piece in stream]
    for piece, copy in pieces:
        np.testing.assert_array_equal(piece.frames, copy)


def test_senseless_spans_are_refused(decoder: Decoder, mp4: Path) -> None:
    for arguments in ((-1, 1, 1), (0, 0, 1), (0, 1, 0)):
        start, stride, frames = arguments
        words = f"got start {start}, stride {stride}, frames {frames}"
        with pytest.raises(ValueError, match=words):
            Span(*arguments)
    with pytest.raises(ValueError, match="crop_y is a share"):
        Span(crop=(0.5, 1.5))
    with pytest.raises(ValueError, match="got 0 spans, piece_frames 64"):
        decoder.stream(mp4, [], side_px=16)
    with pytest.raises(ValueError, match="got 1 spans, piece_frames 0"):
        decoder.stream(mp4, [Span()], side_px=16, piece_frames=0)
    with pytest.raises(ValueError, match="side_px must be at least 1"):
        decoder.stream(mp4, [Span()], side_px=0)


def test_scan_counts_the_frames_of_every_interval(decoder: Decoder, tmp_path: Path) -> None:
    # From 5 / 25 s on: only exact differences put a frame at 0.4 s into an interval from 0.4 s.
    path = made_clips.make(tmp_path / "late.mkv", pts=range(5, 25))
    intervals = [(0.0, None), (0.4, 0.6), (0.41, 0.6), (0.0, 0.04), (0.76, 9.0), (5.0, None)]
    scan = decoder.scan(path, intervals=intervals)
    assert scan.spans == ((0, 20), (10, 5), (11, 4), (0, 1), (19, 1), (20, 0))
    assert decoder.scan(path).spans == ((0, 20),)
    with pytest.raises(ValueError, match="from 2 s to 2 s holds nothing"):
        decoder.scan(path, intervals=[(2, 2)])


def test_thumbnails_are_whole_upright_frames(decoder: Decoder, tmp_path: Path) -> None:
    path = made_clips.make(tmp_path / "turned.mp4")
    made_clips.turn(path, (0, 1, -1, 0))
    frames = decoder.read(path).frames
    scan = decoder.scan(path, thumbnail_every_s=0.2)
    assert scan.thumbnails.shape == (4, 64, 64)
    for number, thumbnail in enumerate(scan.thumbnails):
        grey = Image.fromarray(frames[5 * number]).convert("L")
        expected = np.asarray(grey.resize((64, 64), Image.Resampling.BOX))
        np.testing.assert_array_equal(thumbnail, expected)
    assert len(decoder.scan(path).thumbnails) == 0
    with pytest.raises(ValueError, match="thumbnail_every_s must be above 0, got 0"):
        decoder.scan(path, thumbnail_every_s=0)


def test_a_gap_in_time_gives_one_thumbnail(decoder: Decoder, tmp_path: Path) -> None:
    pts = [*range(10), *range(110, 120)]
    path = made_clips.make(tmp_path / "gap.mkv", pts=pts)
    assert len(decoder.scan(path, thumbnail_every_s=1.0).thumbnails) == 2


def test_an_upload_is_read_like_a_file(decoder: Decoder, mp4: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with uploaded(mp4.read_bytes()) as path:
        got = decoder.read(path)
    np.testing.assert_array_equal(got.frames, decoder.read(mp4).frames)
    with pytest.raises(VideoRefusedError, match="No such file"):
        decoder.read(path)
    with uploaded(b"#EXTM3U\n") as path, pytest.raises(VideoRefusedError, match="HLS playlist"):
        decoder.read(path)
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_thumbnails_without_end_are_cut_short(mp4: Path) -> None:
    with Decoder() as decoder:
        decoder.probe(mp4)
        # The child goes by the limits it was started with; so would one that was taken over.
        decoder.limits = DecodeLimits(max_duration_s=0.1)
        with pytest.raises(VideoRefusedError, match="thumbnails come without end") as refused:
            decoder.scan(mp4, thumbnail_every_s=0.04)
        assert refused.value.stage == "crash"


def test_a_larger_file_may_take_longer() -> None:
    limits = DecodeLimits(cpu_grace_s=2.0, least_bytes_per_cpu_s=100, wall_s=50.0)
    assert [limits.cpu_s(size) for size in (0, 1000, 1 << 40)] == [2.0, 12.0, 50.0]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"height": 1 << 20, "width": 1 << 20}, TypeError),
        ({"height": 0}, TypeError),
        ({"spans": [[7]]}, ValueError),
        ({"spans": [[]]}, ValueError),
        ({"spans": [7]}, TypeError),
        ({"spans": [], "indices": [], "times_s": []}, LookupError),
        ({"indices": ["x"]}, ValueError),
        ({"times_s": [[]]}, TypeError),
        ({"spans": [[0]] * 2, "indices": [0] * 2, "times_s": [0.0] * 2}, ValueError),
        (
            {"spans": [[0]] * (1 << 20), "indices": [0] * (1 << 20), "times_s": [0] * (1 << 20)},
            ValueError,
        ),
    ],
)
def test_what_a_child_that_was_taken_over_says_is_not_believed(
    said: dict[str, object], error: type[Exception]
) -> None:
    here, there = (Channel(end) for end in socket.socketpair())
    span = {"start": 0, "stride": 1, "frames": 1, "crop": (0.5, 0.5)}
    inbox = Inbox(max_pixels=1 << 20)
    inbox.expect({"spans": [span], "thumbnail_every_s": None})
    picture = {"height": 8, "width": 8, "spans": [[0]], "indices": [0], "times_s": [0.0]}
    with pytest.raises(error):
        inbox.take({**picture, **said}, here)
    here.close()
    there.close()
