"""A picture made taller: a whole slice ends before the new rows, a broken one runs into them."""

import re
from pathlib import Path

import av
import made_clips
import numpy as np
import pytest
from av.codec import CodecContext
from av.video.codeccontext import VideoCodecContext

from toto.video.decode import Decoder
from toto.video.taller import taller_parameters, taller_units


def moving() -> np.ndarray:
    """Grain that moves, u8 [20 48 64 3]."""
    grain = np.random.default_rng(0).integers(0, 256, (48, 128, 3), dtype=np.uint8)
    return np.stack([grain[:, 2 * t : 2 * t + 64] for t in range(20)])


def size_of(annex_b: bytes) -> tuple[int, int]:
    """Let FFmpeg read parameters that are followed by a key frame."""
    context = CodecContext.create("h264", "r")
    assert isinstance(context, VideoCodecContext)
    frames = [*context.decode(av.Packet(annex_b)), *context.decode(None)]
    return frames[0].width, frames[0].height


@pytest.mark.parametrize(
    ("name", "pix_fmt", "options", "rows_px"),
    [
        ("main.mp4", "yuv420p", {"profile": "main"}, 256),
        ("high.mkv", "yuv420p", {}, 256),
        ("stream.ts", "yuv420p", {}, 256),
        ("matrices.mp4", "yuv420p", {"x264-params": "cqm=jvt"}, 256),
        ("all_planes.mp4", "yuv444p", {}, 256),
        ("fields.mp4", "yuv420p", {"x264-params": "tff=1"}, 512),
    ],
)
def test_only_the_height_becomes_another(
    name: str, pix_fmt: str, options: dict[str, str], rows_px: int, tmp_path: Path
) -> None:
    path = made_clips.make(tmp_path / name, "libx264", pix_fmt, frames=moving(), options=options)
    with av.open(str(path)) as container:
        extra = container.streams.video[0].codec_context.extradata or b""
        key = bytes(next(container.demux(video=0)))
    parameters = taller_parameters(extra)
    assert parameters is not None
    units = [key]
    if extra[0] == 1:
        units, at = [], 0
        while at < len(key):
            end = at + 4 + int.from_bytes(key[at : at + 4], "big")
            units.append(key[at + 4 : end])
            at = end
    else:
        units = [unit.rstrip(b"\0") for unit in key.split(b"\0\0\1") if unit.rstrip(b"\0")]
    assert size_of(parameters + taller_units(units)) == (64, 48 + rows_px)


def test_none_for_codes_without_arithmetic_and_for_broken_parameters(tmp_path: Path) -> None:
    options = {"x264-params": "cabac=0"}
    path = made_clips.make(tmp_path / "a.mp4", "libx264", frames=moving(), options=options)
    with av.open(str(path)) as container:
        extra = container.streams.video[0].codec_context.extradata or b""
    assert taller_parameters(extra) is None
    whole = made_clips.make(tmp_path / "b.mp4", "libx264", frames=moving())
    with av.open(str(whole)) as container:
        extra = container.streams.video[0].codec_context.extradata or b""
    assert taller_parameters(extra) is not None
    for size in range(len(extra)):
        # Cut off, they are told apart from whole ones or still say all that is needed.
        parameters = taller_parameters(extra[:size])
        assert parameters is None or parameters.startswith(b"\0\0\1")
    assert taller_parameters(b"") is None


def test_wrong_bits_between_key_frames_are_named(tmp_path: Path) -> None:
    grain = np.random.default_rng(1).integers(0, 60, (20, 48, 64, 3), dtype=np.uint8)
    frames = grain + moving() // 2
    path = made_clips.make(tmp_path / "a.mp4", "libx264", frames=frames, options={"g": "99"})
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size > 300][1:]
    assert len(packets) >= 10
    whole, found = path.read_bytes(), []
    with Decoder() as decoder:
        assert decoder.scan(path).damage() is None
        for packet in packets:
            assert packet.pos is not None
            data = bytearray(whole)
            data[packet.pos + packet.size // 2] ^= 0x10
            path.write_bytes(data)
            found.append(decoder.scan(path).damage() or "")
    # The picture has rows of blocks 0 to 2.
    below = [damage for damage in found if re.search(r"decoding MB \d+ ([3-9]|1\d)", damage)]
    assert len(below) >= len(packets) // 4, found
