"""Ask for more rows than a picture of H.264 has, so that a decoder shows where its slices end.

After wrong bits the arithmetic coder never finds back, but a decoder stops at a picture's last
block whatever the bits say. Told of more blocks, it goes on in a broken slice, past the end of the
bytes, and complains. A whole slice says itself that it ends, and how its bits are read does not
depend on the height.
"""

import re

MORE_ROWS_PX = 512
"""Rows added at most."""
_MORE_MAP_UNITS = 16
"""Rows of blocks, or of pairs of blocks where a picture may be two fields. With 4, broken slices of
small pictures had bytes left when the rows ended."""
_SEQUENCE, _PICTURE = 7, 8
"""Kinds of units: parameters of all pictures, and of some."""
# ITU-T H.264, 7.3.2.1.1: those whose parameters begin with the format of chroma.
_WITH_CHROMA_FORMAT = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}


def taller_parameters(extra: bytes) -> bytes | None:
    """Change the height in what a container says of the codec.

    Returns:
        The parameters with start codes; None if they are broken or missing, or if a picture is
        coded without arithmetic: there a strict decoder sees by itself that bits are left over.
    """
    try:
        units = _parameter_units(extra)
        pictures = [unit for unit in units if unit[0] & 31 == _PICTURE]
        if not pictures or not all(_arithmetic(unit) for unit in pictures):
            return None
        return taller_units(units)
    except IndexError:
        return None


def taller_units(units: list[bytes]) -> bytes:
    """Change the sequence parameters among units, and put a start code before each.

    Raises:
        IndexError: if some are cut off.
    """
    kept = [taller(unit) if unit[0] & 31 == _SEQUENCE else unit for unit in units]
    return b"".join(b"\0\0\1" + unit for unit in kept)


def _parameter_units(extra: bytes) -> list[bytes]:
    if extra[:1] != b"\1":
        parts = (part.rstrip(b"\0") for part in extra.split(b"\0\0\1"))
        return [part for part in parts if part]
    at, units = 5, []
    for mask in (0x1F, 0xFF):
        count, at = extra[at] & mask, at + 1
        for _ in range(count):
            end = at + 2 + (extra[at] << 8 | extra[at + 1])
            units.append(extra[at + 2 : end])
            at = end
    return units


def _arithmetic(unit: bytes) -> bool:
    """Read from a unit of picture parameters whether CABAC codes the pictures, not CAVLC."""
    bits = _Bits(unit)
    bits.take(8)
    bits.numbers(2)
    return bits.take(1) == 1


def taller(unit: bytes) -> bytes:
    """Change the height in a unit of sequence parameters.

    Raises:
        IndexError: if it is cut off.
    """
    bits = _Bits(unit.replace(b"\0\0\3", b"\0\0"))
    bits.take(8)
    profile = bits.take(8)
    bits.take(16)
    bits.number()
    if profile in _WITH_CHROMA_FORMAT:
        lists = 8
        if bits.number() == 3:
            bits.take(1)
            lists = 12
        bits.numbers(2)
        bits.take(1)
        if bits.take(1):
            for index in range(lists):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    bits.number()
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1)
        bits.numbers(2)
        bits.numbers(bits.number())
    bits.number()
    bits.take(1)
    bits.number()
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

    def numbers(self, count: int) -> None:
        """Skip so many codes."""
        for _ in range(count):
            self.number()
