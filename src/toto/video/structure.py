"""Do a file's parts follow each other? For those that FFmpeg resumes after a gap in silence.

It complains of broken MP4, Matroska and FLV by itself; in AVI, ASF and MPEG transport streams it
looks for the next part and says nothing, and of a GIF's pictures it takes what comes.
"""

import os
import struct

import numpy as np

_MOST_PARTS = 5_000_000
"""Parts after which an AVI is believed."""
_MOST_GIF_BYTES = 8 << 20
"""What is looked at of a GIF, at about a second for 5 MB."""
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_LIVE = 1
"""Written as a stream: the sizes were not known yet."""
_MOST_ASF_HEADER_BYTES = 1 << 20
_TS_PACKETS = 1 << 16
"""Packets of a transport stream looked at together."""


def contradiction(fd: int, container: str) -> str | None:
    """Name the first place where no part begins though one should, or None.

    Args:
        fd: the file, open for reading; its position is left alone.
        container: FFmpeg's demuxer, as `toto.video.sniff` names it.
    """
    try:
        if container == "mpegts":
            return _mpegts(fd)
        if container == "avi":
            return _avi(fd)
        if container == "asf":
            return _asf(fd)
        return _gif(os.pread(fd, _MOST_GIF_BYTES, 0)) if container == "gif" else None
    except (IndexError, ValueError, struct.error):
        return "it ends in the middle of a part"


def _mpegts(fd: int) -> str | None:
    size, first = os.fstat(fd).st_size, 0 if os.pread(fd, 1, 0) == b"\x47" else 4
    packet = 188 + first
    if size % packet:
        return "it ends in the middle of a packet"
    for at in range(0, size, _TS_PACKETS * packet):
        data = np.frombuffer(os.pread(fd, _TS_PACKETS * packet, at), np.uint8)
        if (data[first::packet] != 0x47).any():
            return "a packet begins without its sync byte"
    return None


def _avi(fd: int) -> str | None:
    """Go from chunk to chunk, into the lists that hold the frames."""
    at, end = 0, os.fstat(fd).st_size
    (riff_bytes,) = struct.unpack("<I", os.pread(fd, 4, 4))
    riff_end = 8 + riff_bytes
    for _ in range(_MOST_PARTS):
        header = os.pread(fd, 12, at)
        if at == end or len(header) < 8:
            return None
        kind, size = struct.unpack("<4sI", header[:8])
        if not all(0x20 <= byte < 0x7F for byte in kind):
            # What follows the first part's end is nobody's business.
            return f"no chunk begins at byte {at}" if at < riff_end else None
        if kind == b"RIFF" or (kind == b"LIST" and header[8:] in (b"movi", b"rec ")):
            at += 12
        else:
            at += 8 + size + size % 2
    return None


def _asf(fd: int) -> str | None:
    """Go from object to object: the header, the packets of one size, the indices."""
    at, end = 0, os.fstat(fd).st_size
    packet_bytes = 0
    while at < end:
        kind, size = struct.unpack("<16sQ", os.pread(fd, 24, at))
        if kind == _ASF_HEADER:
            header = os.pread(fd, min(size, _MOST_ASF_HEADER_BYTES), at)
            flags, least, packet_bytes = _asf_properties(header)
            if flags & _ASF_LIVE or least != packet_bytes:
                return None
        if size < 24 or at + size > end:
            return f"no object begins at byte {at}, or it does not end"
        if kind == _ASF_DATA and packet_bytes and (size - 50) % packet_bytes:
            return f"its packets are not {packet_bytes} bytes each"
        at += size
    return None


def _asf_properties(header: bytes) -> tuple[int, int, int]:
    """Read the flags and the least and most bytes of a packet."""
    return struct.unpack_from("<3I", header, header.index(_ASF_PROPERTIES) + 88)


def _gif(data: bytes) -> str | None:
    """Go from block to block, and count the pixels that each picture's codes stand for."""
    at = 13 + _palette(data, 10)
    while at < len(data):
        kind = data[at : at + 1]
        if kind == b";":
            return None
        if kind == b",":
            width, height = struct.unpack("<2H", data[at + 5 : at + 9])
            at += 10 + _palette(data, at + 9)
            bits, (codes, at) = data[at], _sub_blocks(data, at + 1)
            if len(data) < _MOST_GIF_BYTES and not 2 <= bits <= 8:
                return f"a picture of {bits} bits a pixel"
            if at <= len(data) and _pixels(codes, bits) != width * height:
                return f"a picture of more or fewer than {width} x {height} pixels"
        elif kind == b"!":
            _, at = _sub_blocks(data, at + 2)
        else:
            return f"no block begins at byte {at}"
    return None if len(data) == _MOST_GIF_BYTES else "it has no end"


def _palette(data: bytes, at: int) -> int:
    return 6 << (data[at] & 7) if data[at] & 0x80 else 0


def _sub_blocks(data: bytes, at: int) -> tuple[bytes, int]:
    parts = []
    while at < len(data) and data[at]:
        parts.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return b"".join(parts), at + 1


def _pixels(codes: bytes, bits: int) -> int:
    """Count what LZW codes stand for, without making the picture; -1 if they do not end well."""
    clear, count = 1 << bits, 0
    lengths: list[int] = []
    width, last, held, buffer = bits + 1, 0, 0, 0
    for byte in codes:
        buffer |= byte << held
        held += 8
        while held >= width:
            code = buffer & ((1 << width) - 1)
            buffer >>= width
            held -= width
            if code == clear:
                lengths, width, last = [1] * clear + [0, 0], bits + 1, 0
                continue
            if code == clear + 1:
                return count
            if code > len(lengths) or (code == len(lengths) and not last):
                return -1
            if last and len(lengths) < 4096:
                lengths.append(last + 1)
            if code >= len(lengths):
                return -1
            last = lengths[code]
            count += last
            if len(lengths) == 1 << width and width < 12:
                width += 1
    return count
