"""Ask a decoder of H.264 for more rows than a picture has, so that it shows where its slices end.

After wrong bits its arithmetic coder never finds back, but a decoder stops at a picture's last block
whatever the bits say. Told of more blocks, it goes on in a broken slice, past the end of the bytes,
and complains. A whole one says itself that it ends. Nothing else in a slice depends on the height.
"""

import re

MORE_ROWS_PX = 128
"""Rows added at most."""
_MORE_MAP_UNITS = 4
"""Rows of blocks, or of pairs of blocks where a picture may be two fields."""
# ITU-T H.264, 7.3.2.1.1: those whose parameters begin with the format of chroma.
_WITH_CHROMA_FORMAT = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}
_SEQUENCE_PARAMETERS = 7


def taller_units(units: list[bytes]) -> list[bytes]:
    """Change the sequence parameters among a packet's units."""
    return [taller(unit) if unit[0] & 31 == _SEQUENCE_PARAMETERS else unit for unit in units]


def taller_extradata(extra: bytes) -> bytes:
    """Change the sequence parameters in what a container says of the codec.

    Raises:
        IndexError: if it is cut off.
    """
    if extra[:1] != b"\1":
        units = [unit for unit in extra.split(b"\0\0\1") if unit.rstrip(b"\0")]
        return b"".join(b"\0\0\1" + unit for unit in taller_units(units))
    at, changed = 6, extra[:6]
    for _ in range(extra[5] & 31):
        end = at + 2 + (extra[at] << 8 | extra[at + 1])
        unit = taller(extra[at + 2 : end])
        changed += len(unit).to_bytes(2, "big") + unit
        at = end
    return changed + extra[at:]


def taller(unit: bytes) -> bytes:
    """Change the height in a unit of sequence parameters.

    Raises:
        IndexError: if it is cut off.
    """
    bits = _Bits(unit.replace(b"\0\0\3", b"\0\0"))
    _, profile, _ = bits.take(8), bits.take(8), bits.take(16)
    bits.number()
    if profile in _WITH_CHROMA_FORMAT:
        lists = 8
        if bits.number() == 3:
            bits.take(1)
            lists = 12
        bits.number(), bits.number(), bits.take(1)
        if bits.take(1):
            for index in range(lists):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    bits.number()
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1), bits.number(), bits.number()
        for _ in range(bits.number()):
            bits.number()
    bits.number(), bits.take(1), bits.number()
    before = bits.at
    height = bits.number()
    coded = f"{height + _MORE_MAP_UNITS + 1:b}"
    coded = "0" * (len(coded) - 1) + coded
    text = (bits.text[:before] + coded + bits.text[bits.at :]).rstrip("0")
    text += "0" * (-len(text) % 8)
    data = bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))
    return re.sub(rb"\x00\x00(?=[\x00-\x03])", lambda _: b"\0\0\3", data)


def _skip_scaling_list(bits: "_Bits", size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            coded = bits.number()
            following = (last + (coded + 1) // 2 * (1 if coded % 2 else -1)) % 256
        last = following or last


class _Bits:
    """Reads the bits of a few bytes."""

    def __init__(self, data: bytes) -> None:
        self.text = "".join(f"{byte:08b}" for byte in data)
        self.at = 0

    def take(self, count: int) -> int:
        if self.at + count > len(self.text):
            raise IndexError("the parameters are cut off")
        self.at += count
        return int(self.text[self.at - count : self.at], 2)

    def number(self) -> int:
        """Read an Exp-Golomb code, ITU-T H.264, 9.1."""
        one = self.text.find("1", self.at)
        if one < 0:
            raise IndexError("the parameters are cut off")
        zeros = one - self.at
        self.at = one
        return self.take(zeros + 1) - 1
