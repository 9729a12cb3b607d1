"""Masks drawn over frames, with words that say whose they are, for people to look at."""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from toto.metrics.segmentation import VOID

COLOURS = np.array(
    [
        [230, 159, 0],
        [86, 180, 233],
        [0, 158, 115],
        [240, 228, 66],
        [0, 114, 178],
        [213, 94, 0],
        [204, 121, 167],
    ],
    np.uint8,
)
"""Okabe and Ito's palette, which colour-blind readers can tell apart; object 1 has the first."""
GAP_PX = 2
"""White between two frames."""


def overlay(
    frames: UInt8[np.ndarray, "T H W 3"],
    ids: UInt8[np.ndarray, "T H W"],
    columns: int = 8,
    scale: int = 3,
) -> UInt8[np.ndarray, "H1 W1 3"]:
    """Draw masks over frames and lay the frames out in rows.

    Args:
        frames: sRGB bytes.
        ids: an object's id at each pixel; 0 and 255 are left as they are.
        columns: how many frames a row holds.
        scale: how many pixels a pixel becomes, each way.

    Returns:
        One sRGB image; `GAP_PX` white pixels part the frames.

    Raises:
        ValueError: if the masks do not match the frames.
    """
    if ids.shape != frames.shape[:3]:
        raise ValueError(f"masks {ids.shape} do not match frames {frames.shape[:3]}")
    shown = (ids != 0) & (ids != VOID)
    colour = COLOURS[(ids.astype(np.int64) - 1) % len(COLOURS)]
    tinted = np.where(shown[..., None], frames // 2 + colour // 2, frames)
    drawn = np.where((shown & _outline(ids))[..., None], colour, tinted)
    drawn = drawn.repeat(scale, axis=1).repeat(scale, axis=2)

    columns = min(columns, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    _, height, width, _ = drawn.shape
    canvas = np.full(
        (rows * (height + GAP_PX) - GAP_PX, columns * (width + GAP_PX) - GAP_PX, 3), 255, np.uint8
    )
    for index, picture in enumerate(drawn):
        top = index // columns * (height + GAP_PX)
        left = index % columns * (width + GAP_PX)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def captioned(picture: UInt8[np.ndarray, "H W 3"], words: str) -> UInt8[np.ndarray, "H1 W 3"]:
    """Write words into a white band above a picture; they shrink where it is too narrow."""
    width = picture.shape[1]
    # Pages show wide pictures smaller than they are.
    size_px = max(14, width // 64)
    band = Image.new("RGB", (width, round(1.5 * size_px)), "white")
    font = ImageFont.load_default(size_px)
    while font.getlength(words) > 0.97 * width and size_px > 4:
        size_px -= 1
        font = ImageFont.load_default(size_px)
    place = (0.01 * width, band.height / 2)
    ImageDraw.Draw(band).text(place, words, fill="black", font=font, anchor="lm")
    return np.concatenate([np.array(band), picture])


def compared(
    frames: UInt8[np.ndarray, "T H W 3"],
    found: UInt8[np.ndarray, "T H W"],
    true: UInt8[np.ndarray, "T H W"],
    words: str,
    columns: int = 8,
    scale: int = 3,
) -> UInt8[np.ndarray, "H1 W1 3"]:
    """Draw the same frames twice, one above the other, and say in the picture which is which.

    Args:
        frames: sRGB bytes.
        found: the masks of a method, above.
        true: the annotated ones, below.
        words: name of the method, and whatever else belongs to it.
        columns: how many frames a row holds.
        scale: how many pixels a pixel becomes, each way.
    """
    upper = captioned(overlay(frames, found, columns, scale), f"found: {words}")
    lower = captioned(overlay(frames, true, columns, scale), "true: the annotated masks")
    return np.concatenate([upper, lower])


def film(
    frames: UInt8[np.ndarray, "T H W 3"],
    found: UInt8[np.ndarray, "T H W"],
    words: str,
    scale: int = 1,
) -> UInt8[np.ndarray, "T H1 W1 3"]:
    """Draw masks over the frames of a video, below words that stay."""
    return np.stack(
        [
            captioned(overlay(frame[None], ids[None], columns=1, scale=scale), f"found: {words}")
            for frame, ids in zip(frames, found, strict=True)
        ]
    )


def _outline(ids: np.ndarray) -> np.ndarray:
    """Mark the pixels that have a neighbour of another id: bool [T H W]."""
    padded = np.pad(ids, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = (padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
    return np.logical_or.reduce([ids != other for other in around])
