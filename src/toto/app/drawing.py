"""Arrays as pieces of the page: films, stills and maps, written into it and no files beside it.

A film is one picture with its frames side by side, which the style sheet steps through. So films
that are drawn together run together, stop where a visitor asks for less motion, and need no player.
"""

import base64
import colorsys
import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from toto.report.elements import Html, element

FILM_FPS = 5
"""Slow enough to see what a model got wrong."""
IMAGINED = np.array([0, 114, 178], np.uint8)
REAL = np.array([0, 143, 104], np.uint8)
"""Colours of the bar below a frame that was imagined, or came and was not shown."""
STRIP_GAP_PX = 2
"""Between two frames of a strip."""
_TURNS = np.array([0.8191725133961645, 0.6710436067037893, 0.5497004779019702])
"""Steps that spread a sequence evenly over a cube: powers of 1 / 1.2207, the root of x^4 = x + 1.
One number for all three would tie hue to lightness, and give many codes the same colour."""


def picture_uri(image: UInt8[np.ndarray, "H W C"]) -> str:
    """Write a picture of 3 or 4 channels as a PNG inside an address."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def film(frames: UInt8[np.ndarray, "T H W 3"], says: str, *, sharp: bool = False) -> Html:
    """Show frames one after the other, for ever.

    Args:
        frames: sRGB bytes, or RGBA ones.
        says: what a screen reader says in its place.
        sharp: whether a pixel is drawn as a square, as tokens and maps should be.
    """
    count, height, width = frames.shape[:3]
    sheet = picture_uri(np.ascontiguousarray(np.concatenate(list(frames), axis=1)))
    style = (
        f"background-image:url({sheet});background-size:{100 * count}% 100%;"
        f"aspect-ratio:{width}/{height};"
    )
    if count > 1:
        style += f"animation:film {count / FILM_FPS:.2f}s steps({count},jump-none) infinite;"
    kind = "film sharp" if sharp else "film"
    return element("div", class_=kind, style=style, role="img", aria_label=says)


def still(image: UInt8[np.ndarray, "H W C"], says: str, *, sharp: bool = False) -> Html:
    """Show one picture as wide as there is room."""
    return element(
        "img", src=picture_uri(image), alt=says, class_="still sharp" if sharp else "still"
    )


def strip(
    frames: UInt8[np.ndarray, "T H W 3"], gap_px: int = STRIP_GAP_PX
) -> UInt8[np.ndarray, "H W1 4"]:
    """Lay frames side by side, with nothing between them but what lies behind."""
    count, height, width = frames.shape[:3]
    sheet = np.zeros((height, count * (width + gap_px) - gap_px, 4), np.uint8)
    for place, frame in enumerate(frames):
        left = place * (width + gap_px)
        sheet[:, left : left + width, :3] = frame
        sheet[:, left : left + width, 3] = 255
    return sheet


def enlarged(frame: UInt8[np.ndarray, "H W 3"], side_px: int) -> UInt8[np.ndarray, "S S 3"]:
    """Show a frame larger, smoothly."""
    return np.asarray(Image.fromarray(frame).resize((side_px, side_px), Image.Resampling.BICUBIC))


def marked(
    frames: UInt8[np.ndarray, "T H W 3"], first: int, colour: UInt8[np.ndarray, " 3"]
) -> UInt8[np.ndarray, "T H1 W 3"]:
    """Set a bar below each frame: grey, and from frame `first` on of this colour."""
    count, height, width, _ = frames.shape
    bars = np.full((count, max(2, height // 20), width, 3), 205, np.uint8)
    bars[first:] = colour
    return np.concatenate([frames, bars], axis=1)


def code_colours(ids: Int[np.ndarray, "T Y X"]) -> UInt8[np.ndarray, "T Y X 3"]:
    """Give each code a colour of its own, always the same, neighbours far apart."""
    codes, places = np.unique(ids, return_inverse=True)
    hue_P, light_P, saturation_P = (codes[:, None] * _TURNS % 1).T
    palette = np.array(
        [
            colorsys.hls_to_rgb(hue, 0.3 + 0.4 * light, 0.35 + 0.45 * saturation)
            for hue, light, saturation in zip(hue_P, light_P, saturation_P, strict=True)
        ]
    )
    return (255 * palette[places.reshape(ids.shape)]).round().astype(np.uint8)


def surprise_colours(
    nats: Float[np.ndarray, "T Y X"], most_nats: float
) -> UInt8[np.ndarray, "T Y X 3"]:
    """Draw surprise: dark where a token was expected, bright at `most_nats` and beyond."""
    shades = mpl.colormaps["magma"](np.clip(nats / most_nats, 0, 1))
    return (255 * shades[..., :3]).round().astype(np.uint8)


def glow(weights: Float[np.ndarray, "T Y X"]) -> UInt8[np.ndarray, "T Y X 4"]:
    """Draw weights as light to lay over frames: clear at 0, full at the largest of all frames."""
    # The root lifts what is small: attention has a few large weights and many small ones.
    share = np.sqrt(weights / max(float(weights.max()), 1e-12))
    light = np.zeros((*weights.shape, 4), np.uint8)
    light[..., 0] = 255
    light[..., 1] = (235 - 130 * share).round()
    light[..., 2] = (90 - 90 * share).round()
    light[..., 3] = (225 * share).round()
    return light


def card(title: str, *inside: str, note: str = "", kind: str = "") -> Html:
    """Set something under its name, with a line below it."""
    parts: Sequence[str] = [element("div", title, class_="name"), *inside]
    if note:
        parts = [*parts, element("div", note, class_="note")]
    return element("figure", *parts, class_=f"card {kind}".strip())


def cards(*inside: str, kind: str = "") -> Html:
    """Set cards side by side, as many as there is room for."""
    return element("div", *inside, class_=f"cards {kind}".strip())
