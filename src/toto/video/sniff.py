"""What a file is, by its first bytes and never by its name, before any demuxer sees it.

A playlist named `x.mp4` makes FFmpeg open other files, so only containers recognised here reach it,
each with the one demuxer that belongs to it (docs/architecture, isolation). The same for images.
"""

import os
from typing import Literal

from toto.video.refused import Refused

HEAD_BYTES = 4096

_MP4_BOXES = {b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
_TEXTS = (
    (b"#extm3u", "an HLS playlist"),
    (b"ffconcat", "an ffconcat list"),
    (b"v=0", "an SDP session"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML file"),
    (b"<", "an XML or HTML file"),
    (b"version https://git-lfs", "a Git LFS pointer, the file itself was not downloaded"),
)
_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
)
_OTHER_IMAGES = (
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"GIF8", "GIF"),
)


def read_head(fd: int) -> bytes:
    """Read a file's first `HEAD_BYTES`.

    Raises:
        Refused: if the system gives none: some files of /proc would have us wait.
    """
    try:
        return os.pread(fd, HEAD_BYTES, 0)
    except OSError as error:
        raise Refused("sniff", f"it cannot be read: {error.strerror}") from error


def container_of(head: bytes) -> str | None:
    """Name the FFmpeg demuxer for a video container, from the file's first `HEAD_BYTES`.

    Returns:
        One of mov, matroska, avi, mpegts, mpeg, flv, gif, ogg, asf; None for anything else.
    """
    if head[4:8] in _MP4_BOXES and not _image_brand(head):
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    for magic, name in (
        (b"\x1a\x45\xdf\xa3", "matroska"),
        (b"\x00\x00\x01\xba", "mpeg"),
        (b"FLV\x01", "flv"),
        (b"GIF87a", "gif"),
        (b"GIF89a", "gif"),
        (b"OggS", "ogg"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    ):
        if head.startswith(magic):
            return name
    # A transport stream has no magic number, but a sync byte every 188 bytes (192 on discs).
    for first, packet in ((0, 188), (4, 192)):
        syncs = head[first::packet]
        if len(syncs) >= 2 and set(syncs) == {0x47}:
            return "mpegts"
    return None


def image_of(head: bytes) -> str | None:
    """Name Pillow's format of a still image that is read, from the file's first `HEAD_BYTES`.

    Returns:
        One of PNG, JPEG, BMP, WEBP; None for anything else.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _IMAGES if head.startswith(magic)), None)


def describe(head: bytes, *, wanted: Literal["a video", "an image"] = "a video") -> str:
    """Say what a file is that is not what was wanted, for the message that refuses it."""
    if not head:
        return "the file is empty"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, name in _TEXTS:
        if text.startswith(start):
            return f"{name}, not {wanted}"
    image = image_of(head) or _other_image(head)
    if image is not None:
        also = ", not a video" if wanted == "a video" else "; JPEG, PNG, WebP and BMP are read"
        return f"{'an' if image[0] == 'A' else 'a'} {image} image{also}"
    container = container_of(head)
    if container is not None:
        return f"a video ({container}), not {wanted}"
    if not any(byte < 9 for byte in head):
        return f"a text file, not {wanted}"
    kind = "video container" if wanted == "a video" else "image format"
    return f"its first bytes are of no known {kind}"


def _other_image(head: bytes) -> str | None:
    if _image_brand(head):
        return "AVIF or HEIC"
    return next((name for magic, name in _OTHER_IMAGES if head.startswith(magic)), None)


def _image_brand(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in {b"avif", b"heic", b"heix", b"mif1"}
