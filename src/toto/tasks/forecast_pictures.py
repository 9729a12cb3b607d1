"""Forecasts drawn for people: what came, what was forecast, and where the model was surprised."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

GAP_PX = 4
WORDS_PX = 20
"""Height of words. Pages show wide pictures at half their size on a phone."""
COLOURS = "inferno"
"""From dark to light: it can be read in grey and by colour-blind readers."""
HEAT = 0.6
"""Share of the colour in an overlay; the rest is the frame, in grey."""


def heat_overlay(
    frames: UInt8[np.ndarray, "T H W 3"],
    values: Float[np.ndarray, "T Y X"],
    *,
    most: float,
) -> UInt8[np.ndarray, "T H W 3"]:
    """Tint the patches of grey frames by a value each.

    Args:
        frames: sRGB bytes.
        values: of each patch; those above `most` look like it, those that are not a number leave
            the patch grey.
        most: value of the brightest colour; 0 is the darkest.

    Raises:
        ValueError: if the patches do not divide the frames.
    """
    height, width = frames.shape[1:3]
    rows, columns = values.shape[1:]
    if len(frames) != len(values) or height % rows or width % columns:
        raise ValueError(f"values {values.shape} do not fit frames {frames.shape}")
    colour = 255 * np.asarray(colormaps[COLOURS](np.nan_to_num(values / most)))[..., :3]
    large = colour.repeat(height // rows, axis=1).repeat(width // columns, axis=2)
    known = np.isfinite(values).repeat(height // rows, axis=1).repeat(width // columns, axis=2)
    grey = (frames @ np.array([0.299, 0.587, 0.114]))[..., None]
    strength = HEAT * known[..., None]
    return np.rint(strength * large + (1 - strength) * grey).astype(np.uint8)


def shown_frames(prompt: int, frames: int, columns: int) -> list[int]:
    """Choose frames of a strip: the last of the prompt, and others evenly over what follows.

    Args:
        prompt: frames that were given.
        frames: that were forecast.
        columns: how many to show at most, 3 or more.

    Returns:
        Indices into the whole clip, increasing; the first and the last forecast frame are among
        them.
    """
    ahead = min(columns - 1, frames)
    if prompt + frames <= columns:
        return list(range(prompt + frames))
    steps = np.linspace(0, frames - 1, ahead).round().astype(int)
    given = list(range(max(0, prompt - (columns - ahead)), prompt))
    return [*given, *(prompt + steps).tolist()]


def strip(
    rows: Mapping[str, UInt8[np.ndarray, "T H W 3"]],
    *,
    prompt: int,
    shown: Sequence[int],
    most_nats: float | None = None,
    scale: int = 2,
) -> UInt8[np.ndarray, "H1 W1 3"]:
    """Draw rows of frames over each other, with their names and how far ahead each frame is.

    Args:
        rows: frames of the whole clip, by what they are called.
        prompt: frames that were given; a wider gap stands behind them.
        shown: which frames.
        most_nats: surprise of the brightest colour; draws the scale below. None draws none.
        scale: how many pixels a pixel becomes, each way.
    """
    font = ImageFont.load_default(WORDS_PX)
    margin = math.ceil(max(font.getlength(name) for name in rows)) + 3 * GAP_PX
    height, width = (scale * side for side in next(iter(rows.values())).shape[1:3])
    lefts, left = [], margin
    for place, frame in enumerate(shown):
        if place and shown[place - 1] < prompt <= frame:
            left += 3 * GAP_PX
        lefts.append(left)
        left += width + GAP_PX
    top = WORDS_PX + 2 * GAP_PX
    below = 3 * WORDS_PX if most_nats is not None else 0
    size = (left, top + len(rows) * (height + GAP_PX) + below)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for place, frame in zip(lefts, shown, strict=True):
        words = f"{frame - prompt + 1:+d}" if frame >= prompt else "given"
        draw.text((place + width / 2, top / 2), words, fill="black", font=font, anchor="mm")
    for number, (name, frames) in enumerate(rows.items()):
        y = top + number * (height + GAP_PX)
        draw.text((GAP_PX, y + height / 2), name, fill="black", font=font, anchor="lm")
        for place, frame in zip(lefts, shown, strict=True):
            large = frames[frame].repeat(scale, axis=0).repeat(scale, axis=1)
            canvas.paste(Image.fromarray(large), (place, y))
    if most_nats is not None:
        _scale(canvas, margin, size[1] - below, most_nats, font)
    return np.array(canvas)


def film(
    rows: Sequence[UInt8[np.ndarray, "T H W 3"]], *, prompt: int, scale: int = 3
) -> UInt8[np.ndarray, "T H1 W1 3"]:
    """Set videos side by side; a bar below grows darker once frames are forecast."""
    height = rows[0].shape[1]
    parts = [np.pad(row, ((0, 0), (0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=255)
             for row in rows]  # fmt: skip
    whole = np.concatenate(parts, axis=2)[:, :, :-GAP_PX].copy()
    whole[prompt:, height + 1 :] = (0, 114, 178)
    return whole.repeat(scale, axis=1).repeat(scale, axis=2)


def _scale(
    canvas: Image.Image,
    left: int,
    top: int,
    most_nats: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Draw the colours from 0 to `most_nats`, and what both ends mean."""
    draw = ImageDraw.Draw(canvas)
    middle = top + 1.5 * WORDS_PX
    low, high = "0 nats: expected  ", f"  {most_nats:.1f} nats: a uniform guess, or worse"
    start = left + math.ceil(font.getlength(low))
    width = max(40, min(400, canvas.width - start - math.ceil(font.getlength(high)) - GAP_PX))
    draw.text((left, middle), low, fill="black", font=font, anchor="lm")
    shares = np.linspace(0, 1, width)[None].repeat(WORDS_PX, axis=0)
    bar = (255 * np.asarray(colormaps[COLOURS](shares))[..., :3]).round().astype(np.uint8)
    canvas.paste(Image.fromarray(bar), (start, top + WORDS_PX))
    draw.text((start + width, middle), high, fill="black", font=font, anchor="lm")
