"""Damage that a decoder passes over in silence, found in the decode child by decoding twice.

Entropy decoders make a picture of any bits: after one that is wrong, the rest of a frame is noise,
and mostly nothing complains. But noise seldom ends where its bytes do. So a frame is decoded again
in a way that must not change it, or must: by another decoder, by the same one at its strictest,
with bytes added behind its end, with its end altered, with rows added below it.
"""

import re
import zlib

import numpy as np
from av.codec import CodecContext
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from toto.video.taller import MORE_ROWS_PX, taller_parameters, taller_units

_STRICT = "crccheck+bitstream+buffer+careful+compliant+aggressive"
# Old encoders of the MPEG-4 family broke the rules that these flags hold them to; AV1's decoder is
# strict by itself; for the rest nothing is gained, by measurement.
_OTHERS: dict[str, tuple[str, dict[str, str]]] = {
    "vp8": ("libvpx", {}),
    "vp9": ("libvpx-vp9", {}),
    "hevc": ("hevc", {}),
    **{
        name: (name, {"err_detect": _STRICT})
        for name in ("h264", "mpeg1video", "mpeg2video", "mjpeg", "wmv1", "wmv2", "ffv1")
    },
}
_EMULATED = re.compile(rb"\x00\x00[\x00\x01\x02]")
"""Never inside a unit of H.264 or HEVC: there a 3 is put before the third byte."""
_TAIL_BYTES = 16
"""Altered at a key frame's end. Black frames of HEVC look the same after fewer: with 5, whole files
were flagged, and nothing more was found."""
_LONGEST_ROW_PX = 1 << 14
"""Of H.264, whose levels end there."""
_SMALLEST_TAILED = 200
"""Bytes of a key frame below which its end may well be one that says nothing."""


class SecondOpinion:
    """Decodes a stream's packets beside the decoder whose frames are used, and compares.

    Attributes:
        complaint: the first sign of damage, or None; nothing is decoded after it.

    Args:
        stream: opened and not yet decoded.
        max_pixels: of a frame.
    """

    def __init__(self, stream: VideoStream, max_pixels: int) -> None:
        self.complaint: str | None = None
        self._stream = stream
        self._limits = {"max_pixels": str(max_pixels)}
        context = stream.codec_context
        self._name = context.name
        self._units = _Units.of(context) if self._name in ("h264", "hevc", "vp8") else None
        other = _OTHERS.get(self._name)
        self._other = (
            None if other is None else _decoder(other[0], context, other[1] | self._limits)
        )
        extra = context.extradata or b""
        parameters = taller_parameters(extra) if self._name == "h264" else None
        # Taller pictures are not compared: only whether they upset the decoder counts.
        self._is_taller = parameters is not None
        if parameters is not None:
            assert self._other is not None
            pixels = max_pixels + _LONGEST_ROW_PX * MORE_ROWS_PX
            cheaper = {"max_pixels": str(pixels), "skip_loop_filter": "all", "enable_er": "0"}
            self._other.options = {"err_detect": _STRICT, **cheaper}
            self._other.extradata = parameters
        if self._other is not None and self._name == "hevc":
            # Rows of blocks then begin where the slice's header says, not where the row before
            # happened to end.
            self._other.thread_type, self._other.thread_count = "SLICE", 2
        self._first: dict[int, int] = {}
        self._second: dict[int, int] = {}

    def frame(self, frame: VideoFrame) -> None:
        """Take a frame of the decoder that is used."""
        self._compare(frame, self._first, self._second)

    def key_frame(self, packet: Packet) -> None:
        """Alter the end of a key frame: a decoder that read up to there shows something else."""
        if self._units is None or not packet.is_keyframe or packet.size < _SMALLEST_TAILED:
            return
        units = self._units.split(bytes(packet))
        altered = self._units.altered(units or [])
        if units is None or altered is None:
            return
        whole = self._alone(self._units.join(units))
        if whole and whole == self._alone(self._units.join(altered)):
            self.complaint = f"the end of a key frame is never read {self._when(packet)}"

    def packet(self, packet: Packet) -> None:
        """Decode a packet once more, in the way that its codec allows."""
        if self.complaint or packet.size == 0:
            return
        if packet.has_sidedata("new_extradata"):
            self._other = self._units = None
        altered = packet
        if self._units is not None:
            units = self._units.split(bytes(packet))
            if units is None or self._units.broken(units):
                self.complaint = f"a broken unit of {self._name} {self._when(packet)}"
                return
            if self._is_taller:
                try:
                    altered = _like(packet, taller_units(units))
                except IndexError:
                    self.complaint = f"broken parameters of {self._name} {self._when(packet)}"
                    return
            elif self._name != "h264":
                altered = _like(packet, self._units.join(self._units.longer(units)))
        if self._other is not None:
            self._decode(altered)

    def end(self) -> None:
        """Compare what the other decoder still holds."""
        if self._other is not None and not self.complaint:
            self._decode(None)

    def _decode(self, packet: Packet | None) -> None:
        assert self._other is not None
        try:
            for frame in self._other.decode(packet):
                self._compare(frame, self._second, self._first)
        except MemoryError:
            raise
        except FFmpegError as error:
            where = "at its end" if packet is None else self._when(packet)
            self.complaint = f"a stricter decoder finds {error.strerror} {where}"

    def _compare(self, frame: VideoFrame, mine: dict[int, int], others: dict[int, int]) -> None:
        if self._other is None or self._is_taller or self.complaint or frame.pts is None:
            return
        checksum = _checksum(frame)
        if frame.pts not in others:
            mine[frame.pts] = checksum
        elif others.pop(frame.pts) != checksum:
            self.complaint = f"two ways to decode it differ {self._when(frame)}"

    def _alone(self, data: bytes) -> list[int]:
        # Explode: what is broken is otherwise painted over, and on black nobody sees where.
        options = {**self._limits, "err_detect": "explode"}
        context = _decoder(self._name, self._stream.codec_context, options)
        try:
            frames = [*context.decode(Packet(data)), *context.decode(None)]
        except MemoryError:
            raise
        except FFmpegError:
            return []
        return [_checksum(frame) for frame in frames]

    def _when(self, timed: Packet | VideoFrame) -> str:
        ticks, unit = timed.pts, timed.time_base or self._stream.time_base
        return "" if ticks is None or unit is None else f"near {float(ticks * unit):.2f} s"


class _Units:
    """The units that packets are made of: of H.264 and HEVC, by length or by start code.

    A packet of VP8 is one unit.
    """

    def __init__(self, name: str, length_bytes: int | None) -> None:
        self._name = name
        self._length_bytes = length_bytes

    @classmethod
    def of(cls, context: VideoCodecContext) -> "_Units":
        """Read how a stream's packets are split from what its container says of the codec."""
        extra, at = context.extradata or b"", 21 if context.name == "hevc" else 4
        with_lengths = len(extra) > at and extra[0] == 1
        return cls(context.name, (extra[at] & 3) + 1 if with_lengths else None)

    def split(self, data: bytes) -> list[bytes] | None:
        """Take a packet apart; None if its lengths do not add up."""
        if self._name == "vp8":
            return [data]
        if self._length_bytes is None:
            parts = re.split(rb"\x00\x00\x01", data)
            return [part for part in (part.rstrip(b"\0") for part in parts) if part]
        at, units = 0, []
        while at < len(data):
            size = int.from_bytes(data[at : at + self._length_bytes], "big")
            at += self._length_bytes
            if size == 0 or at + size > len(data):
                return None
            units.append(data[at : at + size])
            at += size
        return units

    def broken(self, units: list[bytes]) -> bool:
        """Whether a unit holds what its codec never writes."""
        if self._name == "vp8":
            return False
        return any(_EMULATED.search(unit) or unit[0] & 0x80 for unit in units)

    def join(self, units: list[bytes]) -> bytes:
        if self._name == "vp8":
            return units[0]
        if self._length_bytes is None:
            return b"".join(b"\0\0\1" + unit for unit in units)
        return b"".join(len(unit).to_bytes(self._length_bytes, "big") + unit for unit in units)

    def longer(self, units: list[bytes]) -> list[bytes]:
        """Put bytes behind every slice, where no decoder has a reason to read."""
        return [unit + b"\xa5\x5a" * 12 if self._is_slice(unit) else unit for unit in units]

    def altered(self, units: list[bytes]) -> list[bytes] | None:
        """Alter the last bytes of the last slice; None if there is none of some length."""
        number = max((n for n, unit in enumerate(units) if self._is_slice(unit)), default=None)
        if number is None:
            return None
        whole = units[number]
        used = whole
        while used.endswith((b"\0\0\3", b"\0")):
            used = used[:-3] if used.endswith(b"\0\0\3") else used[:-1]
        if len(used) < 4 * _TAIL_BYTES:
            return None
        end = len(used) - 1
        other = bytes(byte ^ 0x5A for byte in used[end - _TAIL_BYTES : end])
        changed = used[: end - _TAIL_BYTES] + other + whole[end:]
        return [*units[:number], changed, *units[number + 1 :]]

    def _is_slice(self, unit: bytes) -> bool:
        if self._name == "vp8":
            return True
        return unit[0] >> 1 & 63 < 32 if self._name == "hevc" else unit[0] & 31 in (1, 5)


def _decoder(name: str, like: VideoCodecContext, options: dict[str, str]) -> VideoCodecContext:
    context = CodecContext.create(name, "r")
    assert isinstance(context, VideoCodecContext)
    context.extradata = like.extradata
    context.width, context.height = like.width, like.height
    context.thread_count = 1
    context.options = options
    return context


def _like(packet: Packet, data: bytes) -> Packet:
    other = Packet(data)
    other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
    return other


def _checksum(frame: VideoFrame) -> int:
    """Sum up the bytes that are seen, without those that only fill up lines."""
    sum_ = zlib.crc32(f"{frame.width} {frame.height} {frame.format.name}".encode())
    bytes_each = max((item.bits + 7) // 8 for item in frame.format.components)
    for plane in frame.planes:
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        seen = lines[: plane.height, : plane.width * bytes_each]
        sum_ = zlib.crc32(np.ascontiguousarray(seen).data, sum_)
    return sum_
