import sys
from collections.abc import Iterator
from pathlib import Path

import av
import made_clips
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from toto.video.decode import DecodeLimits, Decoder, Span, VideoRefusedError
from toto.video.transforms import resize_crop

# Of the same bitstream, two builds of FFmpeg may round a block or a conversion another way.
ROUNDING = 2
UNEVEN = np.cumsum([5, *([1, 2, 7, 1] * 5)])[:20].tolist()

STAND_IN = """
class VideoDecoder:
    def __init__(self, file, **options):
        {opened}

    def __len__(self):
        return {frames}

    def get_frame_at(self, index):
        {decoded}
"""


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, start: str = "", **does: str) -> None:
    """Put a package of that name first on the path, for this process's children."""
    package = folder / "torchcodec"
    package.mkdir()
    (package / "__init__.py").write_text(f"__version__ = '0.0'\n{start}\n")
    versions = "def get_ffmpeg_library_versions(): return {'ffmpeg_version': '0'}"
    (package / "_core.py").write_text(versions)
    does = {"opened": "pass", "frames": "20", "decoded": "raise RuntimeError('none here')", **does}
    (package / "decoders.py").write_text(STAND_IN.format(**does))
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])


@pytest.fixture(scope="module")
def pyav() -> Iterator[Decoder]:
    with Decoder() as decoder:
        if not (decoder.isolation.no_network and decoder.isolation.no_files):
            pytest.skip(f"this kernel does not isolate the decode child: {decoder.isolation}")
        yield decoder


@pytest.fixture(scope="module")
def real(pyav: Decoder) -> Iterator[Decoder]:
    with Decoder(backend="torchcodec") as decoder:
        try:
            assert decoder.isolation.decoder.startswith("torchcodec ")
        except ValueError as error:
            pytest.skip(str(error))
        yield decoder


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_clips.make(tmp_path_factory.mktemp("clips") / "plain.mp4")


def made(name: str, folder: Path) -> Path:
    path = folder / name
    match path.stem:
        case "uneven":
            return made_clips.make(path, pts=UNEVEN)
        case "turned":
            made_clips.make(path)
            made_clips.turn(path, (0, 1, -1, 0))
            return path
        case "vp9":
            return made_clips.make(path, "libvpx-vp9")
    # Key frames that are not the first, so that a stride seeks, and B-frames.
    return made_clips.make(path, options={"g": "6", "bf": "2"})


def joined(first: Path, second: Path, path: Path) -> Path:
    """Put the packets of two files after each other into one stream."""
    with av.open(str(path), "w") as out:
        stream, after = None, 0
        for source in (first, second):
            with av.open(str(source)) as container:
                stream = stream or out.add_stream_from_template(container.streams.video[0])
                for packet in container.demux(video=0):
                    if packet.pts is not None:
                        packet.pts = packet.dts = packet.pts + after
                        last = packet.pts
                        packet.stream = stream
                        out.mux(packet)
                after = last + 40
    return path


def begun_later(path: Path, folder: Path, *, first: int, after: int) -> Path:
    """Make a video of 20 pictures without its first packets, and set its clock so much later."""
    gop = {"x264-params": "open-gop=1:keyint=8:min-keyint=8:bframes=2:b-adapt=0:scenecut=0"}
    whole = made_clips.make(folder / "whole.mkv", frames=made_clips.pictures(30), options=gop)
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(video=0))[first:]:
            if packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts = packet.pts + after, packet.dts + after
                packet.stream = stream
                out.mux(packet)
    return path


@pytest.mark.parametrize(
    "name", ["b.mp4", "b.mkv", "turned.mp4", "uneven.mp4", "uneven.mkv", "vp9.webm"]
)
def test_frames_indices_and_times_are_those_of_pyav(
    name: str, pyav: Decoder, real: Decoder, tmp_path: Path
) -> None:
    path = made(name, tmp_path)
    for start, stride, frames in ((0, 1, None), (3, 7, None), (17, 1, 2)):
        expected = pyav.read(path, start=start, stride=stride, frames=frames)
        got = real.read(path, start=start, stride=stride, frames=frames)
        np.testing.assert_allclose(
            got.frames.astype(int), expected.frames.astype(int), atol=ROUNDING
        )
        np.testing.assert_array_equal(got.indices, expected.indices)
        np.testing.assert_array_equal(got.times_s, expected.times_s)
        assert (got.info, got.decoded_frames) == (expected.info, expected.decoded_frames)


def test_squares_are_cut_from_whole_frames(real: Decoder, mp4: Path) -> None:
    whole = real.read(mp4, stride=5).frames
    expected = np.array([resize_crop(frame, 16, 0.25, 1.0) for frame in whole])
    got = real.read(mp4, stride=5, side_px=16, crop_x=0.25, crop_y=1.0).frames
    np.testing.assert_array_equal(got, expected)


def test_spans_overlap_in_one_stream(real: Decoder, mp4: Path) -> None:
    spans = [Span(0, 3), Span(3, 1, 4, (0.0, 0.5)), Span(3, 4, None, (1.0, 0.5))]
    pieces = list(real.stream(mp4, spans, side_px=16, piece_frames=3))
    for number, span in enumerate(spans):
        mine = [piece for piece in pieces if piece.span == number]
        crop_x, crop_y = span.crop
        expected = real.read(
            mp4,
            start=span.start,
            stride=span.stride,
            frames=span.frames,
            side_px=16,
            crop_x=crop_x,
            crop_y=crop_y,
        )
        np.testing.assert_array_equal(np.concatenate([p.frames for p in mine]), expected.frames)
        assert np.concatenate([p.indices for p in mine]).tolist() == expected.indices.tolist()


@pytest.mark.parametrize(
    "name", ["b.avi", "b.ts", "b.flv", "b.mpg", "late.mkv", "late.mp4", "hidden.mp4"]
)
def test_it_never_gives_one_frame_for_another(
    name: str, pyav: Decoder, real: Decoder, tmp_path: Path
) -> None:
    path = tmp_path / name
    if name == "late.mkv":  # begins with frames that need those before them
        begun_later(path, tmp_path, first=8, after=0)
    elif name == "late.mp4":  # the same, by its edit list
        begun_later(path, tmp_path, first=0, after=-200)
    elif name == "hidden.mp4":  # begins before what is shown
        begun_later(path, tmp_path, first=0, after=-400)
    else:
        codec = "mpeg2video" if name == "b.mpg" else "libx264"
        made_clips.make(path, codec, options={"g": "6", "bf": "2"})
    given_up: list[str] = []
    for start, stride in ((0, 1), (3, 3), (2, 7)):
        expected = pyav.read(path, start=start, stride=stride)
        try:
            got = real.read(path, start=start, stride=stride)
        except VideoRefusedError as refused:
            given_up.append(refused.reason)
            continue
        np.testing.assert_array_equal(got.times_s, expected.times_s)
        np.testing.assert_allclose(got.frames.astype(int), expected.frames, atol=ROUNDING)
    assert all(reason.startswith("torchcodec can") for reason in given_up)


def test_frames_that_are_not_shown_do_not_count(
    pyav: Decoder, real: Decoder, tmp_path: Path
) -> None:
    path = begun_later(tmp_path / "hidden.mp4", tmp_path, first=0, after=-400)
    expected, got = pyav.read(path, start=14, frames=6), real.read(path, start=14, frames=6)
    np.testing.assert_array_equal(got.times_s, expected.times_s)
    np.testing.assert_allclose(got.frames.astype(int), expected.frames, atol=ROUNDING)


def test_it_reads_the_stream_that_pyav_reads(pyav: Decoder, real: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        for size in (32, 128):
            stream = container.add_stream("libx264", rate=25)
            stream.height = stream.width = size
            stream.disposition = Disposition.default if size == 128 else Disposition(0)
        for stream in container.streams.video:
            for number in range(5):
                frame = av.VideoFrame(stream.width, stream.height, "yuv420p")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert real.read(path).frames.shape == pyav.read(path).frames.shape == (5, 32, 32, 3)


def test_a_damaged_packet_refuses_the_file(real: Decoder, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    path = made_clips.make(tmp_path / "bad.mp4", frames=noise)
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at : at + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(VideoRefusedError, match=r"bad\.mp4: torchcodec cannot decode it: Could"):
        real.read(path)


def test_a_file_cut_off_gives_what_there_is(pyav: Decoder, real: Decoder, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    path = made_clips.make(tmp_path / "cut.mkv", frames=noise, options={"g": "5", "bf": "0"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    got, expected = real.read(path), pyav.read(path)
    assert 0 < len(got.frames) == len(expected.frames) < 20
    np.testing.assert_allclose(got.frames.astype(int), expected.frames, atol=ROUNDING)


def test_its_memory_is_counted_beyond_its_libraries(
    pyav: Decoder, real: Decoder, mp4: Path
) -> None:
    with Decoder(DecodeLimits(memory_bytes=512 << 20), backend="torchcodec") as decoder:
        assert len(decoder.read(mp4).frames) == 20


NOT_VIDEOS = {
    "playlist.mp4": (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "an HLS playlist"),
    "concat.mp4": (b"ffconcat version 1.0\nfile /etc/passwd\n", "an ffconcat list"),
    "text.mp4": (b"hello\n", "a text file"),
    "cut.mp4": (b"\0\0\0\x18ftypisom", "the mov container cannot be read"),
}


@pytest.mark.parametrize("name", NOT_VIDEOS)
def test_what_pyav_refuses_never_reaches_torchcodec(
    name: str, pyav: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, opened="import os; os._exit(9)")
    data, reason = NOT_VIDEOS[name]
    (tmp_path / name).write_bytes(data)
    with (
        Decoder(backend="torchcodec") as decoder,
        pytest.raises(VideoRefusedError, match=reason),
    ):
        decoder.read(tmp_path / name)


def test_limits_hold_before_it(
    pyav: Decoder, mp4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, opened="import os; os._exit(9)")
    for limits, reason in (
        (DecodeLimits(max_pixels=48 * 64 - 1), "max_pixels"),
        (DecodeLimits(max_duration_s=0.5), "max_duration_s"),
    ):
        with (
            Decoder(limits, backend="torchcodec") as decoder,
            pytest.raises(VideoRefusedError, match=reason),
        ):
            decoder.read(mp4)


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ({"frames": "19"}, r"cannot number its frames \(19 frames for torchcodec, 20 for PyAV\)"),
        (
            {"decoded": "self.pts_seconds = (index + 1) / 25; return self"},
            r"\(frame 2 at 0.120 s for torchcodec, at 0.080 s for PyAV\); use the backend pyav",
        ),
        (
            {"decoded": "raise RuntimeError('scan, /a/b.cpp:358, Invalid data\\nmore')"},
            r"plain\.mp4: torchcodec cannot decode it: Invalid data$",
        ),
        (
            {"decoded": 'raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: 9")'},
            "decoding needs more memory than memory_bytes",
        ),
        ({"decoded": "import os; os._exit(9)"}, r"the decoder died \(exit status 9\), twice"),
    ],
)
def test_what_it_gets_wrong_is_a_refusal(
    does: dict[str, str],
    reason: str,
    pyav: Decoder,
    mp4: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in(tmp_path, monkeypatch, **does)
    with (
        Decoder(backend="torchcodec") as decoder,
        pytest.raises(VideoRefusedError, match=reason),
    ):
        decoder.read(mp4, start=2)


def test_scan_probe_and_images_stay_with_pyav(
    pyav: Decoder, mp4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, opened="import os; os._exit(9)")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with Decoder(backend="torchcodec") as decoder:
        assert decoder.isolation.decoder == "torchcodec 0.0, FFmpeg 0"
        assert decoder.scan(mp4).shown_frames == 20
        assert decoder.probe(mp4).width == 64
        assert decoder.read_image(tmp_path / "a.png").shape == (8, 8, 3)


@pytest.mark.parametrize(
    "error", ["ModuleNotFoundError('No module named x')", "OSError('libav')", "RuntimeError('y')"]
)
def test_a_missing_library_is_named(
    error: str, mp4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, f"raise {error}")
    wanted = r"torchcodec cannot be loaded.*'toto-video\[torchcodec\]'.*apt install ffmpeg"
    with Decoder(backend="torchcodec") as decoder:
        with pytest.raises(ValueError, match=wanted) as raised:
            decoder.read(mp4)
        assert decoder.pid is None
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("taken", "named"),
    [
        ("confine._deny_files = lambda libc: False", "does not grant Landlock: use"),
        ("confine._CLONE_NEWNET = confine._CLONE_NEWUSER = -1", "grant a network namespace: use"),
    ],
)
def test_it_does_not_start_without_isolation(
    taken: str,
    named: str,
    pyav: Decoder,
    mp4: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in(tmp_path, monkeypatch, f"from toto.video import confine; {taken}")
    with (
        Decoder(backend="torchcodec") as decoder,
        pytest.raises(ValueError, match=named),
    ):
        decoder.read(mp4)


@pytest.mark.parametrize("backend", ["pyav", "torchcodec"])
def test_a_picture_that_changes_its_size_is_refused_unless_cut(
    backend: str, pyav: Decoder, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    decoder = pyav if backend == "pyav" else request.getfixturevalue("real")
    small = made_clips.make(tmp_path / "small.mkv", "mjpeg", "yuvj420p")
    large = made_clips.make(
        tmp_path / "large.mkv", "mjpeg", "yuvj420p", frames=made_clips.pictures(5, 96, 128)
    )
    path = joined(small, large, tmp_path / "both.mkv")
    with pytest.raises(VideoRefusedError, match=r"64x48 to 128x96 at frame 20; give side_px"):
        decoder.read(path)
    assert decoder.read(path, side_px=16).frames.shape == (25, 16, 16, 3)
