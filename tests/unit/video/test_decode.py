import importlib.util
import itertools
import os
import pickle
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import made_clips
import numpy as np
import pytest
from av.container import InputContainer
from av.error import InvalidDataError
from av.video.stream import VideoStream

from toto.types import Clip
from toto.video.channel import Channel
from toto.video.decode import DecodeLimits, Decoder, VideoRefusedError
from toto.video.transforms import Squares
from toto.video.video_file import Video

FORMATS = {
    "h264.mp4": ("libx264", "yuv420p"),
    "hevc.mp4": ("libx265", "yuv420p"),
    "h264.mkv": ("libx264", "yuv420p"),
    "h264.ts": ("libx264", "yuv420p"),
    "h264.flv": ("libx264", "yuv420p"),
    "ten_bit.mp4": ("libx264", "yuv420p10le"),
    "vp9.webm": ("libvpx-vp9", "yuv420p"),
    "mpeg4.avi": ("mpeg4", "yuv420p"),
    "mjpeg.avi": ("mjpeg", "yuvj420p"),
    "mpeg2.mpg": ("mpeg2video", "yuv420p"),
    "wmv2.wmv": ("wmv2", "yuv420p"),
    "gif.gif": ("gif", "rgb8"),
}
CLIPS = Path(os.environ.get("TOTO_DATA", Path(__file__).parents[4] / "shared" / "data")) / "clips"


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_clips.make(tmp_path_factory.mktemp("clips") / "plain.mp4")


@pytest.mark.parametrize("name", FORMATS)
def test_all_frames_are_those_of_an_independent_decode(
    name: str, decoder: Decoder, tmp_path: Path
) -> None:
    options = {"x265-params": "log-level=none"} if "hevc" in name else {}
    path = made_clips.make(tmp_path / name, *FORMATS[name], options=options)
    frames, times_s = made_clips.decode_all(path)
    got = decoder.read(path)
    np.testing.assert_array_equal(got.frames, frames)
    np.testing.assert_array_equal(got.indices, np.arange(made_clips.FRAMES))
    np.testing.assert_allclose(got.times_s, times_s, atol=1e-9)
    assert (got.decoded_frames, got.decode_errors, got.dropped_times) == (20, 0, 0)


def test_a_stride_takes_exactly_every_fourth_frame(decoder: Decoder, mp4: Path) -> None:
    everything = decoder.read(mp4)
    got = decoder.read(mp4, start=3, stride=4)
    np.testing.assert_array_equal(got.frames, everything.frames[3::4])
    np.testing.assert_array_equal(got.times_s, everything.times_s[3::4])
    assert got.indices.tolist() == [3, 7, 11, 15, 19]


def test_decoding_stops_after_the_last_frame_asked_for(decoder: Decoder, mp4: Path) -> None:
    got = decoder.read(mp4, start=2, stride=3, frames=3)
    assert got.indices.tolist() == [2, 5, 8]
    assert got.decoded_frames == 9


def test_a_short_video_gives_what_there_is(decoder: Decoder, mp4: Path) -> None:
    assert decoder.read(mp4, stride=8, frames=16).indices.tolist() == [0, 8, 16]


def test_a_start_past_the_end_is_refused(decoder: Decoder, mp4: Path) -> None:
    with pytest.raises(VideoRefusedError, match=r"plain\.mp4: it has no frame 20, only 20 frames"):
        decoder.read(mp4, start=20)


def test_the_child_resizes_as_this_process_does(decoder: Decoder, mp4: Path) -> None:
    small = decoder.read(mp4, side_px=16, crop_x=0.25, crop_y=1.0).frames
    with av.open(str(mp4)) as container:
        expected = [Squares().cut(f, 16, 0.25, 1.0) for f in container.decode(video=0)]
    np.testing.assert_array_equal(small, expected)


def test_times_of_a_variable_frame_rate_are_the_files_own(decoder: Decoder, tmp_path: Path) -> None:
    pts = np.cumsum([5, *([1, 2, 7, 1] * 5)])[:20]
    for name in ("uneven.mp4", "uneven.mkv"):
        got = decoder.read(made_clips.make(tmp_path / name, pts=pts.tolist()))
        np.testing.assert_allclose(got.times_s, (pts - pts[0]) / 25, atol=1e-3)
        assert got.indices.tolist() == list(range(20))


def test_an_avi_with_b_frames_keeps_every_frame_in_order(decoder: Decoder, tmp_path: Path) -> None:
    path = made_clips.make(tmp_path / "b.avi")
    got = decoder.read(path)
    assert (len(got.frames), got.dropped_times) == (20, 0)
    np.testing.assert_allclose(got.times_s, np.arange(20) / 25, atol=1e-9)
    # The blue channel counts the pictures up.
    assert (np.diff(got.frames[..., 2].mean(axis=(1, 2))) > 6).all()


def test_frames_that_came_out_damaged_are_counted(decoder: Decoder, tmp_path: Path) -> None:
    path = made_clips.make(tmp_path / "a.avi", "mpeg4")
    assert decoder.scan(path).decode_errors == 0
    data = bytearray(path.read_bytes())
    at = data.index(b"00dc", data.index(b"movi")) + 200
    data[at : at + 40] = b"\x55" * 40
    path.write_bytes(data)
    scan = decoder.scan(path)
    assert (scan.decoded_frames, scan.decode_errors) == (20, 1)


def test_frames_inside_the_decoder_are_kept_when_a_file_breaks_off(mp4: Path) -> None:
    class BrokenOff:
        def __init__(self, container: InputContainer) -> None:
            self.container, self.format = container, container.format

        def demux(self, stream: VideoStream) -> Iterator[object]:
            yield from itertools.islice(self.container.demux(stream), 10)
            raise InvalidDataError(1, "broken off")

    with av.open(str(mp4)) as container:
        stream = container.streams.video[0]
        video = Video(BrokenOff(container), stream, {"max_duration_s": 9.0})
        times_s = [time_s for _, time_s, _ in video.frames()]
        assert times_s == pytest.approx([number / 25 for number in range(10)])
        assert video.decode_errors == 1


@pytest.mark.parametrize(
    ("matrix", "quarters"), [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)]
)
def test_frames_are_upright(
    matrix: tuple[int, int, int, int], quarters: int, decoder: Decoder, tmp_path: Path
) -> None:
    path = made_clips.make(tmp_path / "turned.mp4")
    plain = decoder.read(path).frames
    made_clips.turn(path, matrix)
    upright = np.rot90(plain, k=quarters, axes=(1, 2))
    np.testing.assert_array_equal(decoder.read(path).frames, upright)
    info = decoder.probe(path)
    assert (info.height, info.width) == upright.shape[1:3]


def test_probe_says_what_the_container_claims(decoder: Decoder, mp4: Path) -> None:
    info = decoder.probe(mp4)
    assert (info.width, info.height, info.frames_claimed) == (64, 48, 20)
    assert (info.fps, info.duration_s, info.codec, info.container) == (25.0, 0.8, "h264", "mov")


def test_scan_reads_to_the_end(decoder: Decoder, mp4: Path) -> None:
    scan = decoder.scan(mp4)
    assert (scan.shown_frames, scan.decode_errors) == (20, 0)
    assert scan.last_time_s == pytest.approx(19 / 25)


def test_a_clip_has_the_frames_and_their_times(decoder: Decoder, mp4: Path) -> None:
    clip = decoder.read(mp4, stride=5).clip()
    assert isinstance(clip, Clip)
    assert clip.frames.shape == (4, 48, 64, 3)
    assert clip.times_s.tolist() == pytest.approx([0, 0.2, 0.4, 0.6])
    assert clip.source == str(mp4)


def test_a_child_is_replaced_after_its_share_of_files(mp4: Path) -> None:
    pids = []
    with Decoder(DecodeLimits(files_per_child=2)) as decoder:
        for _ in range(5):
            decoder.probe(mp4)
            pids.append(decoder.pid)
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    assert decoder.pid is None


def test_an_interrupt_amid_an_answer_does_not_spoil_the_next(
    mp4: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Channel, array: np.ndarray) -> None:
        raise KeyboardInterrupt

    with Decoder() as decoder:
        expected = decoder.read(mp4, frames=2)
        receive = Channel.receive_into
        monkeypatch.setattr(
            Channel,
            "receive_into",
            lambda self, array: (interrupted if array.ndim == 4 else receive)(self, array),
        )
        with pytest.raises(KeyboardInterrupt):
            decoder.read(mp4)
        monkeypatch.undo()
        np.testing.assert_array_equal(decoder.read(mp4, frames=2).frames, expected.frames)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_child_holds_nothing_it_does_not_need(
    decoder: Decoder, mp4: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "sesame")
    with Decoder() as fresh:
        fresh.probe(mp4)
        proc = Path("/proc", str(fresh.pid))
        assert b"sesame" not in (proc / "environ").read_bytes()
        assert os.readlink(proc / "cwd").endswith("(deleted)")
        limits = {line[:26].strip(): line[26:].split() for line in _lines(proc / "limits")}
        assert limits["Max file size"][:2] == ["0", "0"]
        assert limits["Max core file size"][:2] == ["0", "0"]
        assert limits["Max address space"][:2] == [str(2 << 30)] * 2
        assert int(limits["Max open files"][0]) <= 32
        # Standard streams and the channel: the video's own descriptor is closed again.
        assert len(os.listdir(proc / "fd")) == 4
        if fresh.isolation.no_network:
            here, there = (os.readlink(p / "ns" / "net") for p in (Path("/proc/self"), proc))
            assert here != there
    assert "FFmpeg" in decoder.isolation.decoder


def test_a_child_that_cannot_start_says_why(mp4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toto.video.child._PROGRAM", "raise ImportError('no numpy here')")
    with (
        Decoder() as decoder,
        pytest.raises(RuntimeError, match="does not start: ImportError: no numpy here"),
    ):
        decoder.probe(mp4)


def test_a_refusal_survives_pickling_and_stays_on_one_line() -> None:
    refused = VideoRefusedError(Path("a\nb.mp4"), "probe", "first\nsecond")
    again = pickle.loads(pickle.dumps(refused))
    assert str(again) == str(refused) == "'a\\nb.mp4': first second"
    assert (again.path, again.stage, again.reason) == (Path("a\nb.mp4"), "probe", "first second")


@pytest.mark.parametrize(
    "arguments", [{"start": -1}, {"stride": 0}, {"frames": 0}, {"side_px": 0}, {"crop_x": 2.0}]
)
def test_senseless_arguments_are_refused(
    arguments: dict[str, float], decoder: Decoder, mp4: Path
) -> None:
    name = next(iter(arguments))
    with pytest.raises(ValueError, match=f"{name}.*{arguments[name]}"):
        decoder.read(mp4, **{"side_px": 8, **arguments})


def test_senseless_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="wall_s must be above 0, got 0"):
        DecodeLimits(wall_s=0)
    with pytest.raises(ValueError, match="memory_bytes must be at least 512 MiB, got 1000"):
        DecodeLimits(memory_bytes=1000)


def test_more_frames_than_the_limits_keep_are_refused(mp4: Path) -> None:
    with Decoder(DecodeLimits(max_frames=10)) as decoder:
        assert len(decoder.read(mp4, stride=2).frames) == 10
        with pytest.raises(VideoRefusedError, match="max_frames 10") as refused:
            decoder.read(mp4)
        assert refused.value.stage == "limits"
        assert len(decoder.read(mp4, frames=5).frames) == 5


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no real clips at {CLIPS}; set TOTO_DATA")
def test_real_clips_have_every_frame_at_its_time(decoder: Decoder) -> None:
    files = sorted(path for path in CLIPS.iterdir() if path.stat().st_size < 600_000)
    assert files
    for path in files:
        got = decoder.read(path, side_px=16)
        claimed = got.info.frames_claimed
        assert claimed is not None
        # Packed B-frames: HMDB's encoder wrote one empty packet more than there are frames.
        assert claimed - 1 <= got.shown_frames <= claimed, path.name
        assert (got.decode_errors, got.dropped_times) == (0, 0), path.name
        period_s = 1 / Fraction(got.info.fps or 0)
        np.testing.assert_allclose(np.diff(got.times_s), float(period_s), rtol=0.02)


def test_the_child_imports_no_heavy_package() -> None:
    spec = importlib.util.find_spec("toto.video.decode_child")
    assert spec is not None
    heavy = "{'torch', 'pyarrow', 'matplotlib', 'jaxtyping', 'scipy'}"
    program = f"import sys, {spec.name}; sys.exit(len({heavy} & set(sys.modules)))"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", program]) == 0


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
