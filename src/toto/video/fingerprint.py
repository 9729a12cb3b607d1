"""Perceptual fingerprints: what stays of a clip when it is re-encoded, resized, flipped or cropped.

A frame is kept as its 16 x 16 lowest cosine frequencies, of which any crop and the mirror image
can be computed later. So one small record serves a training clip and an evaluation clip alike, and
neither the crops to look for nor their number is decided when files are read. docs/log.md,
2026-11-21, has the measured recall and false alarms.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8, UInt64

VERSION = 1
"""First byte of a fingerprint; goes up when its meaning changes."""
THUMBNAIL_PX = 64
FREQUENCIES = 16
"""Cosine frequencies kept an axis."""
FRAME_BYTES = FREQUENCIES * FREQUENCIES // 2
"""Four bits a coefficient."""
KEY_BITS = 64
VECTOR_TERMS = 96
"""Longer waves than a crop to 70 % loses."""

_LEVELS = 7
# Waves that a picture lacks stay zero to this in its crops: the weakest that is kept has 9e-4.
_ROUNDING = 1e-5
# Grey levels: standard deviation without the nine longest waves. Fades and plain colours have less,
# and what is left of them after compression is chance.
_LEAST_DETAIL, _LONGEST_WAVES = 2.5, 9
# Of 96: photographs have 50, all but one in a thousand at least 14; ramps from dark to bright have
# 3 to 9, and all are alike.
_FEWEST_WAVES = 12
# Grey levels: bars are black to this in all frames of the clip, and the picture beside them is
# somewhere this bright at once; a dark corner of a photograph is no bar. White bars are left alone:
# photographs have white edges of their own, and trimming those loses more copies than it finds.
_BLACK, _BESIDE_A_BAR = 24, 48
_WIDEST_BAR = 24 / 64

_FREQUENCY = np.hypot(*np.mgrid[:FREQUENCIES, :FREQUENCIES]).astype(np.float32)
_BY_FREQUENCY = np.argsort(_FREQUENCY.ravel(), kind="stable")[1:]  # the first is the mean
_FLIP = np.where(np.arange(FREQUENCIES) % 2, -1, 1).astype(np.float32)


class Crop(NamedTuple):
    """A part of a frame, in percent of its width and height."""

    left: int
    top: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height} % at {self.left}, {self.top} %"


WHOLE = Crop(0, 0, 100, 100)


def fingerprint(thumbnails: UInt8[np.ndarray, "N 64 64"]) -> bytes:
    """Describe a clip by some of its frames.

    Black bars at the edges are left out, so that letterboxing does not matter. A frame
    with next to no detail (black, a fade, a plain colour) is kept as zeros and never matches.

    Args:
        thumbnails: grey whole frames, squashed to 64 x 64.

    Returns:
        One byte of version, then 128 bytes a frame: its lowest 16 x 16 cosine coefficients, each
        multiplied by its frequency (which makes photographs' equally strong), of which the signed
        square root is kept in four bits relative to the frame's largest.

    Raises:
        ValueError: if the shape is another.
    """
    if thumbnails.shape[1:] != (THUMBNAIL_PX, THUMBNAIL_PX):
        raise ValueError(f"a fingerprint is made of [N 64 64] pixels, not {thumbnails.shape}")
    if not len(thumbnails):
        return bytes([VERSION])
    rows, columns = _without_bars(thumbnails)
    content = thumbnails[:, rows, columns].astype(np.float32)
    waves = _cosines(content.shape[1]) @ content @ _cosines(content.shape[2]).T * _FREQUENCY
    strength = np.abs(waves).max(axis=(1, 2), keepdims=True)
    waves *= _detailed(waves)[:, None, None]
    shares = waves / np.maximum(strength, np.finfo(np.float32).tiny)
    levels = np.rint(_LEVELS * np.sign(shares) * np.sqrt(np.abs(shares))).astype(np.int8)
    nibbles = (levels + _LEVELS + 1).astype(np.uint8).reshape(len(levels), -1)
    return bytes([VERSION]) + (nibbles[:, ::2] << 4 | nibbles[:, 1::2]).tobytes()


def spectra(fingerprint: bytes) -> Float32[np.ndarray, "N 16 16"]:
    """Cosine coefficients [row frequency, column frequency] of each frame, to a factor.

    Raises:
        ValueError: if these bytes are no fingerprint of this version.
    """
    if not fingerprint or fingerprint[0] != VERSION or (len(fingerprint) - 1) % FRAME_BYTES:
        raise ValueError(
            f"{len(fingerprint)} bytes that begin with {fingerprint[:1].hex() or 'nothing'} are no "
            f"fingerprint of version {VERSION}; ingest the data again"
        )
    packed = np.frombuffer(fingerprint, np.uint8, offset=1).reshape(-1, FRAME_BYTES)
    nibbles = np.stack([packed >> 4, packed & 15], axis=-1)
    shares = (nibbles.reshape(-1, FREQUENCIES, FREQUENCIES).astype(np.float32) - 8) / _LEVELS
    return np.sign(shares) * shares**2 / np.maximum(_FREQUENCY, 1)


def informative(waves: Float32[np.ndarray, "N 16 16"]) -> Bool[np.ndarray, " N"]:
    """Which frames have enough detail to be compared at all."""
    return np.any(waves != 0, axis=(1, 2))


def flipped(waves: Float32[np.ndarray, "... 16 16"]) -> Float32[np.ndarray, "... 16 16"]:
    """Spectra of the mirror images: columns run the other way."""
    return waves * _FLIP


def cropped(
    waves: Float32[np.ndarray, "... 16 16"], crop: Crop
) -> Float32[np.ndarray, "... 16 16"]:
    """Spectra of a part of the frames.

    The higher frequencies of a part need some that the whole's spectrum has not kept, so they are
    too weak: at 70 % those above 11 waves an image.
    """
    down = resampled(crop.top, crop.height)
    across = resampled(crop.left, crop.width)
    return down @ waves @ across.T


@cache
def resampled(start: int, length: int) -> Float32[np.ndarray, "16 16"]:
    """Matrix from the coefficients of an axis to those of its part, both in percent."""
    points = 2 * THUMBNAIL_PX
    places = (start + length * (np.arange(points) + 0.5) / points) / 100
    waves = 2 * np.cos(np.pi * np.outer(places, np.arange(FREQUENCIES)))
    waves[:, 0] = 1
    return _cosines(points) @ waves.astype(np.float32)


@cache
def _cosines(points: int) -> Float32[np.ndarray, "16 N"]:
    """Matrix from the values at the middles of so many equal parts to their coefficients.

    The values are coefficient 0 plus twice the sum of the others times their cosines.
    """
    places = (np.arange(points) + 0.5) / points
    waves = np.cos(np.pi * np.outer(np.arange(FREQUENCIES), places)) / points
    return waves.astype(np.float32)


def keys(waves: Float32[np.ndarray, "... 16 16"]) -> UInt64[np.ndarray, "..."]:
    """Signs of the 64 longest waves: few bits differ between a frame and its copy."""
    flat = waves.reshape(*waves.shape[:-2], FREQUENCIES**2)
    return pack_signs(flat[..., _BY_FREQUENCY[:KEY_BITS]])


def pack_signs(waves: Float32[np.ndarray, "... 64"]) -> UInt64[np.ndarray, "..."]:
    """Pack the signs of 64 waves so that each 16 bits of the key have long and short ones alike."""
    spread = (waves > _ROUNDING).reshape(*waves.shape[:-1], 16, 4).swapaxes(-1, -2)
    packed = np.packbits(spread.reshape(waves.shape), axis=-1)
    return np.ascontiguousarray(packed).view(np.uint64)[..., 0]


def key_matrix(crop: Crop) -> Float32[np.ndarray, "256 64"]:
    """Matrix from flat spectra to the 64 waves of a part of the frame that make its key."""
    down, across = resampled(crop.top, crop.height), resampled(crop.left, crop.width)
    return np.kron(down, across)[_BY_FREQUENCY[:KEY_BITS]].T


def vectors(waves: Float32[np.ndarray, "... 16 16"]) -> Float32[np.ndarray, "... 96"]:
    """Unit vectors of the 96 longest waves; the product of two is the frames' likeness."""
    weighted = (waves * _FREQUENCY).reshape(*waves.shape[:-2], FREQUENCIES**2)
    weighted = weighted[..., _BY_FREQUENCY[:VECTOR_TERMS]]
    roots = np.sign(weighted) * np.sqrt(np.abs(weighted))
    return roots / np.maximum(np.linalg.norm(roots, axis=-1, keepdims=True), 1e-12)


def _detailed(waves: Float32[np.ndarray, "N 16 16"]) -> Bool[np.ndarray, " N"]:
    """Say which frames have detail, from coefficients that are multiplied by their frequency."""
    weighted = waves.reshape(len(waves), FREQUENCIES**2)[:, _BY_FREQUENCY]
    # A wave of coefficient 1 has amplitude 2 and power 1/2 an axis along which it varies.
    varying = (np.mgrid[:FREQUENCIES, :FREQUENCIES] > 0).sum(axis=0).ravel()[_BY_FREQUENCY]
    plain = weighted / _FREQUENCY.ravel()[_BY_FREQUENCY]
    power = (plain**2 * 2.0**varying)[:, _LONGEST_WAVES:].sum(axis=1)
    strong = np.abs(weighted[:, :VECTOR_TERMS])
    # The participation ratio: as many waves as this, equally strong, would be spread as much.
    count = strong.sum(axis=1) ** 2 / np.maximum((strong**2).sum(axis=1), 1e-12)
    return (np.sqrt(power) >= _LEAST_DETAIL) & (count >= _FEWEST_WAVES)


def _without_bars(thumbnails: UInt8[np.ndarray, "N 64 64"]) -> tuple[slice, slice]:
    """Rows and columns of the picture inside bars that are black in every frame."""
    brightest = thumbnails.max(axis=0)
    return _inner(brightest.max(axis=1)), _inner(brightest.max(axis=0))


def _inner(lines: UInt8[np.ndarray, " 64"]) -> slice:
    """What is left of lines, of which the brightest pixel is given, without bars at both ends."""
    return slice(_bar(lines), len(lines) - _bar(lines[::-1]))


def _bar(lines: UInt8[np.ndarray, " 64"]) -> int:
    """Width of the bar at the beginning."""
    black = int(np.argmax(lines > _BLACK))
    # The line beside a bar is part bar, part picture, so it goes too.
    if not 0 < black < _WIDEST_BAR * len(lines) or lines[black + 1] < _BESIDE_A_BAR:
        return 0
    return black + 1
