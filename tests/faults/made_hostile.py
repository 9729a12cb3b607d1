"""Files made to make a decoder open, fetch, allocate or wait: texts that name others, and bombs."""

import gzip
import io
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

URLS = {
    "path": "{canary}",
    "file": "file:{canary}",
    "http": "http://127.0.0.1:{port}/canary.mp4",
    "name": "canary.mp4",
    "environ": "/proc/self/environ",
    "nested": "subfile,,start,0,end,0,,:{canary}",
}
TEXTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
    "hls-bom": "\ufeff#EXTM3U\n#EXTINF:1,\n{url}\n",
    "hls-blank": "\n\n#EXTM3U\n#EXTINF:1,\n{url}\n",
    "hls-master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}\n",
    "hls-key": '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF:1,\nx.ts\n',
    "hls-map": '#EXTM3U\n#EXT-X-MAP:URI="{url}"\n#EXTINF:1,\n{url}\n',
    "m3u": "{url}\n",
    "concat": "ffconcat version 1.0\nfile '{url}'\n",
    "concat-bare": "file '{url}'\n",
    "dash": '<?xml version="1.0"?><MPD type="static"><Period><AdaptationSet mimeType="video/mp4">'
    "<Representation><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "dash-bare": "<MPD><Period><BaseURL>{url}</BaseURL></Period></MPD>",
    "entity": '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "{url}">]><x>&e;</x>',
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>',
    "smil": '<smil><body><video src="{url}"/></body></smil>',
    "asx": '<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
    "xspf": "<playlist><trackList><track><location>{url}</location></track></trackList></playlist>",
    "pls": "[playlist]\nNumberOfEntries=1\nFile1={url}\n",
    "shortcut": "[InternetShortcut]\nURL={url}\n",
    "reference": "[Reference]\nRef1={url}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=control:{url}\n",
    "html": "<!DOCTYPE html><video src='{url}'></video>",
    "avisynth": 'DirectShowSource("{url}")\n',
    "subtitles": "1\n00:00:00,000 --> 00:00:09,000\n{url}\n",
    "vtt": "WEBVTT\n\n00:00.000 --> 00:09.000\n{url}\n",
    "script": "#!/bin/sh\ncat {url}\n",
    "crypto": "crypto:{url}\n",
    "lavfi": "movie={url}[out0]\n",
    "json": '{{"url": "{url}"}}',
    "lfs": "version https://git-lfs.github.com/spec/v1\noid {url}\n",
}


def texts(canary: Path, port: int) -> Iterator[tuple[str, bytes]]:
    for text, body in TEXTS.items():
        for name, url in URLS.items():
            filled = body.format(url=url.format(canary=canary, port=port), port=port)
            yield f"{text} {name}", filled.encode()


def box(kind: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def nested_boxes(depth: int) -> bytes:
    kinds = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"udta", b"meta")
    data = b""
    for level in range(depth):
        data = box(kinds[level % len(kinds)], data)
    return data


def element(identity: bytes, body: bytes) -> bytes:
    return identity + (len(body) | 1 << 56).to_bytes(8, "big") + body


def with_field(whole: bytes, kind: bytes, offset: int, value: bytes) -> bytes:
    """Overwrite a field of an mp4's first box of a kind, `offset` bytes into its body."""
    at = whole.index(kind) + 4 + offset
    return whole[:at] + value + whole[at + len(value) :]


def reference(name: bytes, url: bytes) -> bytes:
    """A QuickTime movie whose media lies in another file."""
    data = box(b"rdrf", bytes(4), name, struct.pack(">I", len(url) + 1), url, b"\0")
    return box(b"ftyp", b"qt  ", bytes(4)) + box(b"moov", box(b"rmra", box(b"rmda", data)))


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.mp4", bytes(16 << 20))
    return file.getvalue()


def tarred(whole: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("../../canary.mp4")
        member.size = len(whole)
        archive.addfile(member, io.BytesIO(whole))
    return file.getvalue()


def large_frames(count: int) -> bytes:
    """A gif of frames of 16 million pixels and 24 bytes."""
    screen = b"GIF89a" + struct.pack("<2H", 4000, 4000) + b"\x80\0\0" + bytes(6)
    spot = b"!\xf9\4\4\4\0\0\0," + struct.pack("<4H", 0, 0, 1, 1) + b"\0\x02\x02\x44\x01\0"
    return screen + spot * count + b";"


def binaries(canary: Path, port: int, whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes.

    Args:
        canary: a file that must stay unread.
        port: of a listener that must hear nothing.
        whole: an intact H.264 mp4, to be made worse.
    """
    ftyp = box(b"ftyp", b"isom", bytes(4), b"isom")
    most = b"\xff" * 4
    path, http = str(canary).encode(), b"http://127.0.0.1:%d/x.mp4" % port
    yield "movie that refers to a path", reference(b"url ", path)
    yield "movie that refers to a url", reference(b"url ", http)
    yield "movie that refers by alias", reference(b"alis", path)
    external = box(b"url ", bytes(4), path, b"\0")
    dref = whole.index(b"dref") - 4
    size = int.from_bytes(whole[dref : dref + 4], "big")
    other = box(b"dref", bytes(4), b"\0\0\0\1", external)
    yield "media elsewhere", whole[:dref] + other + whole[dref + size :]
    yield "media elsewhere in place", with_field(whole, b"url ", 0, bytes(4))
    packed = zlib.compress(bytes(64 << 20), 9)
    header = box(b"dcom", b"zlib") + box(b"cmvd", struct.pack(">I", 64 << 20), packed)
    yield "compressed header bomb", ftyp + box(b"moov", box(b"cmov", header))
    for depth in (100, 10_000, 100_000):
        yield f"boxes {depth} deep", ftyp + nested_boxes(depth)
    yield "box of 2^63 bytes", ftyp + struct.pack(">I4sQ", 1, b"moov", 1 << 63)
    yield "box of 4 GiB", ftyp + struct.pack(">I4s", 0xFFFFFFFF, b"moov") + bytes(100)
    yield "box shorter than its header", ftyp + struct.pack(">I4s", 3, b"moov") * 50
    yield "empty boxes", ftyp + box(b"free") * 200_000
    yield "tracks", ftyp + box(b"moov", box(b"mvhd", bytes(100)), box(b"trak", b"") * 5000)
    for kind, offset in (
        *((b"stsz", 8), (b"stts", 4), (b"stsc", 4), (b"stco", 4), (b"stss", 4), (b"ctts", 4)),
        *((b"elst", 4), (b"stsd", 4), (b"dref", 4), (b"stts", 8), (b"stts", 12), (b"stsc", 12)),
        *((b"mdhd", 12), (b"mdhd", 16), (b"mvhd", 12), (b"mvhd", 16), (b"stco", 8), (b"tkhd", 76)),
        *((b"tkhd", 80), (b"elst", 8), (b"elst", 12), (b"stsz", 4), (b"hdlr", 8), (b"avcC", 0)),
    ):
        yield f"{kind.decode()} {offset} at its most", with_field(whole, kind, offset, most)
    yield "no clock", with_field(whole, b"mdhd", 12, bytes(4))
    yield "picture of 65535", with_field(whole, b"avc1", 24, most)
    for identity in (b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75", b"\xa0"):
        data = b""
        for _ in range(3000):
            data = element(identity, data)
        yield f"elements in themselves {identity.hex()}", element(b"\x1a\x45\xdf\xa3", b"") + data
    entry = element(b"\xd7", b"\1") + element(b"\x83", b"\1") + element(b"\x86", b"V_VP8")
    tracks = element(b"\xae", entry) * 20_000
    matroska = element(b"\x1a\x45\xdf\xa3", element(b"\x42\x82", b"webm"))
    segment = element(b"\x16\x54\xae\x6b", tracks)
    yield "twenty thousand tracks", matroska + element(b"\x18\x53\x80\x67", segment)
    coded = element(b"\x50\x34", element(b"\x42\x54", b"\0"))
    picture = element(b"\xe0", element(b"\xb0", b"\xff" * 4) + element(b"\xba", b"\xff" * 4))
    encoding = element(b"\x6d\x80", element(b"\x62\x40", coded))
    track = element(b"\x16\x54\xae\x6b", element(b"\xae", entry + picture + encoding))
    block = element(b"\xa3", b"\x81\0\0\x80" + zlib.compress(bytes(32 << 20), 9))
    cluster = element(b"\x1f\x43\xb6\x75", element(b"\xe7", b"\0") + block * 20)
    yield "compressed blocks", matroska + element(b"\x18\x53\x80\x67", track + cluster)
    yield "element of 2^56 bytes", matroska + b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + bytes(100)
    screen = b"GIF89a" + struct.pack("<2H", 65535, 65535) + b"\0\0\0"
    image = b"," + struct.pack("<4H", 0, 0, 65535, 65535) + b"\0\x02\x02\x4c\x01\0"
    yield "gif of 65535", screen + image * 50 + b";"
    yield "gif of many large frames", large_frames(count=60)
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 1000
    yield "gif without end", large_frames(count=10)[:-1] + comment
    riff = b"RIFF" + most + b"AVI LIST" + most + b"hdrl"
    yield "avi of 4 GiB", riff + b"avih" + struct.pack("<I", 56) + most * 14
    yield "avi lists in themselves", b"RIFF" + most + b"AVI " + (b"LIST" + most + b"hdrl") * 5000
    yield "flv with a huge tag", b"FLV\1\1\0\0\0\x09" + bytes(4) + b"\x09" + most * 4
    yield "flv of empty tags", b"FLV\1\1\0\0\0\x09" + bytes(4) + (b"\x09" + bytes(14)) * 100_000
    packet = b"\x47\x1f\xff\x10" + b"\xff" * 184
    yield "transport stream of nothing", packet * 20_000
    programs = b"".join(
        b"\x47" + struct.pack(">H", 0x4000 | pid) + b"\x10\0" + bytes(183) for pid in range(8000)
    )
    yield "transport stream of 8000 streams", programs
    yield "packs of nothing", b"\0\0\1\xba" + bytes(10) + (b"\0\0\1\xe0" + b"\xff\xff") * 10_000
    yield "ogg pages of nothing", (b"OggS\0\2" + bytes(20) + b"\1\0") * 20_000
    yield "ogg page of its most", b"OggS\0\2" + bytes(20) + b"\xff" * 4000
    asf = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c"
    yield "asf of 2^63 bytes", asf + b"\xff" * 8 + most * 100
    yield "asf without parts", asf + struct.pack("<QI", 30, 0xFFFFFFFF) + b"\1\2" + bytes(5000)
    yield "zip", zipped()
    yield "gzip", gzip.compress(bytes(16 << 20))
    yield "tar", tarred(whole)
    yield "mp4 and zip", whole + zipped()
    yield "pickle", pickle.dumps({"file": str(canary)})
    yield "elf", b"\x7fELF\2\1\1" + bytes(5000)
    yield "pdf", b"%PDF-1.7\n" + bytes(5000)
    yield "nothing", b""
    yield "one byte", b"\0"
    yield "zeros", bytes(10 << 20)
    yield "ones", b"\xff" * (1 << 20)
    yield "noise", random.Random(0).randbytes(1 << 20)
    for start in (b"\x1a\x45\xdf\xa3", b"FLV\1", b"OggS", b"GIF89a", b"\0\0\1\xba", asf[:8]):
        yield f"noise as {start.hex()}", start + random.Random(1).randbytes(1 << 18)
    for kind in (b"ftyp", b"moov", b"mdat"):
        yield f"noise as {kind.decode()}", box(kind, random.Random(2).randbytes(1 << 18))
