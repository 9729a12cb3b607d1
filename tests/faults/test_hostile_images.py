"""Hostile and broken images: every file is read or refused with a reason, and nothing else happens.

The child stays alive through all of them, so that one bad file costs no other its place.
"""

import random
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toto.video.decode import DecodeLimits, Decoder, VideoRefusedError

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and isolation are Linux's"),
]
FORMATS = ("jpg", "png", "webp", "bmp")


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one image of every format."""
    folder = tmp_path_factory.mktemp("whole")
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for name in FORMATS:
        Image.fromarray(noise).save(folder / f"a.{name}", lossless=True)
    return folder


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *before: bytes, data: bytes | None = None) -> bytes:
    rows = b"\0" * (height * (1 + 3 * width)) if data is None else data
    body = chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + body


def bmp_header(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def webp_header(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_header(width: int, height: int) -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"\x01\x11\0\x02\x11\0\x03\x11\0"
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xda\0\x02"


def webp_frame_header(kind: bytes, width: int, height: int) -> bytes:
    """A WebP without the extended header: lossy (`VP8 `) or lossless (`VP8L`)."""
    lossy = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    lossless = b"\x2f" + struct.pack("<I", width - 1 | (height - 1) << 14)
    frame = lossy if kind == b"VP8 " else lossless
    body = b"WEBP" + kind + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


HEADERS: dict[str, Callable[[int, int], bytes]] = {
    "png": lambda width, height: png(width, height, data=b""),
    "bmp": bmp_header,
    "webp": webp_header,
    "jpg": jpeg_header,
}


@pytest.mark.parametrize("kind", [b"VP8 ", b"VP8L"])
def test_a_webp_bomb_is_refused_by_its_first_bytes(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bomb.webp"
    path.write_bytes(webp_frame_header(kind, 16_000, 5_000))
    with Decoder() as decoder:
        with pytest.raises(VideoRefusedError, match="16000 x 5000 pixels") as refused:
            decoder.read_image(path)
        assert refused.value.stage == "limits"


@pytest.mark.parametrize("size", [(30_000, 20_000), (16_000, 16_000)])
@pytest.mark.parametrize("name", FORMATS)
def test_a_bomb_is_refused_before_its_pixels_have_room(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / f"bomb.{name}"
    path.write_bytes(HEADERS[name](*size))
    with Decoder() as decoder:
        with pytest.raises(VideoRefusedError) as refused:
            decoder.read_image(path)
        assert refused.value.stage == "limits"
        assert "max_pixels is 16777216" in refused.value.reason
        assert _peak_mib(decoder) < 200


def test_an_image_a_little_too_large_is_refused_with_its_size(
    decoder: Decoder, tmp_path: Path
) -> None:
    for name in FORMATS:
        path = tmp_path / f"large.{name}"
        Image.new("RGB", (5000, 4000)).save(path)
        with pytest.raises(VideoRefusedError, match="5000 x 4000 pixels, max_pixels is 16777216"):
            decoder.read_image(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_image_is_refused(
    name: str, share: float, decoder: Decoder, whole: Path, tmp_path: Path
) -> None:
    data = (whole / f"a.{name}").read_bytes()
    path = tmp_path / f"cut.{name}"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(VideoRefusedError, match="cannot be read") as refused:
        decoder.read_image(path)
    assert refused.value.stage == "decode"


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_text_that_inflates_without_end_takes_no_memory(kind: bytes, tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(256 << 20), 9)
    extra = {b"iCCP": b"x\0\0", b"zTXt": b"x\0\0", b"iTXt": b"x\0\x01\0\0\0"}[kind]
    path = tmp_path / "bomb.png"
    path.write_bytes(png(8, 8, chunk(kind, extra + bomb)))
    with Decoder() as decoder:
        assert _outcome(decoder, path) in ("ok", "decode")
        assert _peak_mib(decoder) < 250


def test_many_texts_are_refused(decoder: Decoder, tmp_path: Path) -> None:
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1 << 20), 9))
    path = tmp_path / "texts.png"
    path.write_bytes(png(8, 8, *[text] * 100))
    with pytest.raises(VideoRefusedError, match="the PNG image cannot be read"):
        decoder.read_image(path)


def test_pixels_beyond_the_header_s_are_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    path.write_bytes(png(8, 8, data=bytes(256 << 20)))
    with Decoder() as decoder:
        assert _outcome(decoder, path) in ("ok", "decode")
        assert _peak_mib(decoder) < 200


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><img src=x>", "an HTML page, not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an XML or HTML file, not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a text file, not an image"),
        (b"GIF89a\x08\0\x08\0", "a GIF image; JPEG, PNG, WebP and BMP are read"),
        (b"II*\0\x08\0\0\0", "a TIFF image"),
        (b"8BPS\0\x01\0\0", "of no known image format"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"", "the file is empty"),
    ],
)
def test_only_four_formats_reach_pillow(
    data: bytes, words: str, name: str, decoder: Decoder, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(VideoRefusedError, match=words) as refused:
        decoder.read_image(tmp_path / name)
    assert refused.value.stage == "sniff"


def test_a_long_thin_image_does_not_grow_when_it_is_resized(
    decoder: Decoder, tmp_path: Path
) -> None:
    Image.new("RGB", (100_000, 1)).save(tmp_path / "thin.png")
    assert decoder.read_image(tmp_path / "thin.png").shape == (1, 100_000, 3)
    assert decoder.read_image(tmp_path / "thin.png", side_px=128).shape == (128, 128, 3)
    assert _peak_mib(decoder) < 512


def test_hundreds_of_mutants_are_read_or_refused_by_one_child(
    decoder: Decoder, whole: Path, tmp_path: Path
) -> None:
    draw, outcomes = random.Random(0), set()
    decoder.read_image(whole / "a.png")
    child = decoder.pid
    for name in FORMATS:
        data = (whole / f"a.{name}").read_bytes()
        for _ in range(100):
            mutant = bytearray(data)
            reach = 100 if draw.random() < 0.5 else len(data)
            for _ in range(draw.choice([1, 8, 64])):
                mutant[draw.randrange(8, reach)] = draw.randrange(256)
            (tmp_path / "mutant").write_bytes(mutant)
            outcomes.add(_outcome(decoder, tmp_path / "mutant"))
    assert outcomes <= {"ok", "sniff", "limits", "decode"}
    assert {"ok", "decode"} <= outcomes
    assert decoder.pid == child


def test_an_image_not_decoded_in_time_is_refused(whole: Path) -> None:
    with (
        Decoder(DecodeLimits(image_wall_s=1e-5)) as hurried,
        pytest.raises(VideoRefusedError, match="within 1e-05 s, twice") as refused,
    ):
        hurried.read_image(whole / "a.png")
    assert refused.value.stage == "timeout"


def test_an_image_that_needs_more_memory_than_there_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (14_000, 14_000)).save(path, compress_level=1)
    with Decoder(DecodeLimits(max_pixels=1 << 28, memory_bytes=512 << 20)) as decoder:
        with pytest.raises(VideoRefusedError, match="more memory than memory_bytes"):
            decoder.read_image(path)
        assert _peak_mib(decoder) < 512


def _outcome(decoder: Decoder, path: Path) -> str:
    try:
        decoder.read_image(path, side_px=8)
    except VideoRefusedError as refused:
        return refused.stage
    return "ok"


def _peak_mib(decoder: Decoder) -> float:
    status = Path(f"/proc/{decoder.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
