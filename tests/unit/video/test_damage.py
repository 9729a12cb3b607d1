"""Signs of damage: what a scan finds in broken files, and that it finds none in whole ones."""

import os
from collections.abc import Iterator
from pathlib import Path

import av
import made_clips
import numpy as np
import pytest
from PIL import Image

from toto.video.decode import Decoder
from toto.video.structure import contradiction

CLIPS = Path(os.environ.get("TOTO_DATA", Path(__file__).parents[4] / "shared" / "data")) / "clips"
X265 = "log-level=none:pools=1:keyint=5"
WHOLE: dict[str, tuple[str, str, dict[str, str]]] = {
    "b_frames.mp4": ("libx264", "yuv420p", {"bf": "4"}),
    "open_gop.mkv": ("libx264", "yuv420p", {"x264-params": "open-gop=1:keyint=8:bframes=3"}),
    "open_gop.ts": ("libx264", "yuv420p", {"x264-params": "open-gop=1:keyint=8:bframes=3"}),
    "interlaced.ts": ("libx264", "yuv420p", {"x264-params": "tff=1:keyint=8"}),
    "slices.flv": ("libx264", "yuv420p", {"x264-params": "slices=2:keyint=8"}),
    "filler.ts": (
        "libx264",
        "yuv420p",
        {"x264-params": "nal-hrd=cbr:bitrate=800:vbv-maxrate=800:vbv-bufsize=400:filler=1"},
    ),
    "without_cabac.mp4": ("libx264", "yuv420p", {"x264-params": "cabac=0:keyint=5"}),
    "intra.mp4": ("libx264", "yuv420p", {"g": "1"}),
    "lossless.mp4": ("libx264", "yuv444p", {"qp": "0", "g": "5"}),
    "ten_bit.mp4": ("libx264", "yuv420p10le", {"g": "5"}),
    "hevc.mp4": ("libx265", "yuv420p", {"x265-params": X265}),
    "hevc_no_rows.mkv": ("libx265", "yuv420p", {"x265-params": f"{X265}:wpp=0:open-gop=1"}),
    "hevc.ts": ("libx265", "yuv420p", {"x265-params": f"{X265}:ctu=16:aud=1"}),
    "hevc_ten_bit.mp4": ("libx265", "yuv420p10le", {"x265-params": X265}),
    "vp8.webm": ("libvpx", "yuv420p", {"g": "5", "auto-alt-ref": "1", "lag-in-frames": "8"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "5", "lag-in-frames": "8", "cpu-used": "8"}),
    "mpeg2.ts": ("mpeg2video", "yuv420p", {"bf": "2"}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {"bf": "2"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"bf": "2"}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
    "wmv2.wmv": ("wmv2", "yuv420p", {}),
    "flv1.flv": ("flv", "yuv420p", {}),
    "ffv1.mkv": ("ffv1", "yuv420p", {"level": "3", "slicecrc": "1"}),
    "gif.gif": ("gif", "rgb8", {}),
}


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


def noisy() -> np.ndarray:
    """Moving pictures that take more than a few bytes a frame, u8 [20 48 64 3]."""
    grain = np.random.default_rng(0).integers(0, 60, (48, 128, 3))
    moved = np.stack([grain[:, 2 * t : 2 * t + 64] for t in range(20)])
    return (moved + made_clips.pictures() // 2).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_have_no_damage(name: str, decoder: Decoder, tmp_path: Path) -> None:
    codec, pix_fmt, options = WHOLE[name]
    black = np.zeros((10, 192, 256, 3), np.uint8)
    black[5:, 10:40, 20:60] = 200
    for number, frames in enumerate((noisy(), black)):
        path = tmp_path / f"{number}_{name}"
        made_clips.make(path, codec, pix_fmt, frames=frames, options=options)
        scan = decoder.scan(path)
        assert scan.damage() is None
        assert scan.decoded_frames == len(frames)


def test_times_turns_and_fragments_are_no_damage(decoder: Decoder, tmp_path: Path) -> None:
    pts = np.cumsum([5, *([1, 2, 7, 1] * 5)])[:20].tolist()
    uneven = made_clips.make(tmp_path / "uneven.mp4", frames=noisy(), pts=pts)
    turned = made_clips.make(tmp_path / "turned.mp4", frames=noisy())
    made_clips.turn(turned, (0, 1, -1, 0))
    fragmented = tmp_path / "fragmented.mp4"
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with av.open(str(turned)) as source, av.open(str(fragmented), "w", options=flags) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    for path in (uneven, turned, fragmented):
        assert decoder.scan(path).damage() is None, path.name


def test_gifs_of_another_writer_have_no_damage(decoder: Decoder, tmp_path: Path) -> None:
    images = [Image.fromarray(frame) for frame in noisy()]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=40)
    assert decoder.scan(tmp_path / "a.gif").damage() is None


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no real clips at {CLIPS}; set TOTO_DATA")
def test_real_clips_have_no_damage(decoder: Decoder) -> None:
    files = sorted(path for path in CLIPS.iterdir() if path.stat().st_size < 600_000)
    assert files
    assert {path.name: decoder.scan(path).damage() for path in files} == dict.fromkeys(
        (path.name for path in files), None
    )


@pytest.mark.parametrize(
    ("name", "codec", "options", "words"),
    [
        # Garbage from the first changed byte to the frame's end, at no place a syntax error.
        ("a.mp4", "libx264", {"g": "5"}, "h264|key frame|decode it|broken unit|damaged"),
        (
            "a.mp4",
            "libx265",
            {"x265-params": f"{X265}:ctu=16:crf=18"},
            "hevc|key frame|decode it|broken|damaged",
        ),
        ("a.webm", "libvpx-vp9", {"g": "5", "cpu-used": "8"}, "stricter|decode it|damaged|vp9"),
    ],
)
def test_changed_bytes_amid_the_frames_are_named(
    name: str, codec: str, options: dict[str, str], words: str, decoder: Decoder, tmp_path: Path
) -> None:
    path = made_clips.make(tmp_path / name, codec, frames=noisy(), options=options)
    whole, found = path.read_bytes(), 0
    for share in (0.2, 0.3, 0.4, 0.5, 0.6):
        data = bytearray(whole)
        data[int(share * len(data))] ^= 0x10
        path.write_bytes(data)
        damage = decoder.scan(path).damage()
        if damage is not None:
            found += 1
            assert any(word in damage for word in words.split("|"))
    assert found >= 3


def test_what_a_decoder_prints_is_kept_on_one_short_line(decoder: Decoder, tmp_path: Path) -> None:
    path = made_clips.make(tmp_path / "a.mkv", frames=noisy())
    path.write_bytes(path.read_bytes()[:-900])
    scan = decoder.scan(path)
    assert 1 <= len(scan.complaints) <= 3
    assert all(line.isprintable() and len(line) <= 200 for line in scan.complaints)
    assert "matroska" in (scan.damage() or "")


@pytest.mark.parametrize(
    ("name", "codec", "words"),
    [("a.ts", "libx264", "in the middle of a packet"), ("a.gif", "gif", "it has no end")],
)
def test_a_cut_off_file_is_named(
    name: str, codec: str, words: str, decoder: Decoder, tmp_path: Path
) -> None:
    pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
    path = made_clips.make(tmp_path / name, codec, pix_fmt, frames=noisy())
    data = path.read_bytes()
    path.write_bytes(data[:-100] if codec == "libx264" else data[:-1])
    assert words in (decoder.scan(path).damage() or "")


def test_bytes_between_the_parts_are_named(tmp_path: Path) -> None:
    avi = made_clips.make(tmp_path / "a.avi", "mjpeg", "yuvj420p", frames=noisy()).read_bytes()
    stream = made_clips.make(tmp_path / "a.ts", frames=noisy()).read_bytes()
    asf = made_clips.make(tmp_path / "a.wmv", "wmv2", frames=noisy()).read_bytes()
    at = avi.index(b"00dc", avi.index(b"movi"))
    cases = {
        "avi": (avi, avi[:at] + b"\0\1\2" + avi[at:], "no chunk begins at byte"),
        "mpegts": (stream, stream[:376] + b"\0" * 188 + stream[376:], "without its sync byte"),
        "asf": (asf, asf[:-2000] + asf[-1990:], "no object begins at byte"),
    }
    for container, (whole, broken, words) in cases.items():
        for data, expected in ((whole, None), (broken, words)):
            path = tmp_path / "file"
            path.write_bytes(data)
            with path.open("rb") as file:
                found = contradiction(file.fileno(), container)
            assert (found is None) == (expected is None)
            assert expected is None or expected in (found or "")


def test_a_read_looks_for_no_silent_damage(decoder: Decoder, tmp_path: Path) -> None:
    path = made_clips.make(tmp_path / "a.ts", frames=noisy())
    path.write_bytes(path.read_bytes()[:-100])
    assert decoder.scan(path).complaints
    assert decoder.read(path).complaints == ()


def test_a_gif_whose_codes_make_too_few_pixels_is_named(tmp_path: Path) -> None:
    smooth = Image.fromarray(np.repeat(np.arange(64, dtype=np.uint8)[:, None], 64, axis=1))
    smooth.save(tmp_path / "a.gif")
    data = bytearray((tmp_path / "a.gif").read_bytes())
    data[-60] ^= 0x10
    (tmp_path / "a.gif").write_bytes(data)
    with (tmp_path / "a.gif").open("rb") as file:
        found = contradiction(file.fileno(), "gif")
    assert found == "a picture of more or fewer than 64 x 64 pixels"


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", {"g": "20"}), ("libx265", {"x265-params": "log-level=none:pools=1:wpp=0"})],
)
def test_a_key_frame_that_ends_before_its_bytes_is_named(
    codec: str, options: dict[str, str], decoder: Decoder, tmp_path: Path
) -> None:
    path = made_clips.make(tmp_path / "a.mp4", codec, frames=noisy(), options=options)
    with av.open(str(path)) as container:
        key = next(container.demux(video=0))
    whole, found = path.read_bytes(), []
    for at in range(key.pos + key.size // 2, key.pos + key.size - 100, key.size // 60):
        data = bytearray(whole)
        data[at] ^= 0x10
        path.write_bytes(data)
        found += decoder.scan(path).complaints
    assert any("the end of a key frame is never read near 0.00 s" in line for line in found)


def test_what_was_said_of_one_file_is_said_of_the_next(decoder: Decoder, tmp_path: Path) -> None:
    path = made_clips.make(tmp_path / "a.mkv", frames=noisy())
    path.write_bytes(path.read_bytes()[:-900])
    first = decoder.scan(path).complaints
    assert first
    assert all(decoder.scan(path).complaints == first for _ in range(3))
