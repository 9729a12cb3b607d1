"""Pictures of what was measured of tokenizers; from the results' JSON and from arrays alone."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from toto.metrics.ngrams import sorted_curve
from toto.runtime.durable import write_bytes

DPI = 100
COLOURS = ("#1f5fa8", "#c2541b", "#3a8a4d", "#8a4fa3", "#a0870f", "#4a4a4a")
STYLES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "text.parse_math": False,
}
SHOWN_PX = 128
"""Smaller pictures are enlarged by a whole factor to about this side."""


def draw_ngrams(
    path: Path, measured: Mapping[str, Mapping[str, Any]], frames: Mapping[str, Any]
) -> None:
    """Draw how often each 1-, 2- and 3-gram occurs, the most frequent first, on two log axes.

    Args:
        path: the PNG.
        measured: for each tokenizer's label a result with `ngrams` and `tokenizer`.
        frames: what they were measured on.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 4.4 + 0.2 * len(measured)), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for place, axes in enumerate(panels):
            for number, (label, result) in enumerate(measured.items()):
                ngrams = result["ngrams"][place]
                words = f"{label}: {ngrams['distinct']:,} distinct"
                if ngrams["n"] == 1:
                    words = (
                        f"{label}: {ngrams['distinct']:,} of "
                        f"{result['tokenizer']['vocab_size']:,} codes"
                    )
                line = {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.8}
                style = STYLES[number // len(COLOURS) % len(STYLES)]
                axes.loglog(*sorted_curve(ngrams), style, label=words, **line)
            n = place + 1
            title = "Single tokens" if n == 1 else f"Runs of {n} tokens ({n}-grams)"
            what = "token" if n == 1 else f"{n}-gram"
            axes.set(title=title, xlabel=f"rank of the {what}, most frequent first")
            axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(0, -0.14), frameon=False)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(numticks=8))
                axis.set_major_formatter(FuncFormatter(_short))
                axis.set_minor_formatter(NullFormatter())
        panels[0].set_ylabel("occurrences")
        title = f"How often tokens occur in {_set(frames)}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        _save(figure, path)


def draw_stability(path: Path, label: str, result: Mapping[str, Any]) -> None:
    """Draw the share of tokens that stay the same under each small change, as bars.

    Args:
        path: the PNG.
        label: the tokenizer.
        result: what `tokenizer stats` wrote.
    """
    flips = result["flips"]
    kept: Mapping[str, float | None] = result["stability"]["kept"]
    still = "next frame of a still image, noise of {} grey levels"
    bars = {still.format(sigma): 1 - rate for sigma, rate in flips["still"].items()}
    if flips["clips"] is not None:
        bars["next kept frame of a real clip"] = 1 - flips["clips"]
    words = {
        "shift 1 px": "moved by 1 pixel",
        "bf16 autocast": "computed in bf16 instead of fp32",
        "batch of 1": "computed one by one, not in batches",
    }
    for name, share in kept.items():
        if share is not None:
            bars[words.get(name, name.replace("jpeg", "saved as JPEG of quality"))] = share
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.8 + 0.36 * len(bars)), layout="constrained")
        axes = figure.subplots()
        drawn = axes.barh(list(bars), [100 * share for share in bars.values()], color=COLOURS[0])
        axes.bar_label(drawn, [f"{100 * share:.1f}" for share in bars.values()], padding=3)
        axes.set(
            title=f"{label}: tokens that stay the same",
            xlabel="% of tokens at the same place",
            xlim=(0, 116),
            xticks=range(0, 101, 20),
        )
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        _save(figure, path)


def draw_comparison(
    path: Path, rows: Mapping[str, UInt8[np.ndarray, "K S S 3"]], frames: Mapping[str, Any]
) -> None:
    """Set pictures below each other, one row a tokenizer with its name beside it.

    Args:
        path: the PNG.
        rows: pictures of the same frames by label, which may have several lines; the first are
            the originals.
        frames: what they were chosen from.
    """
    shown, side_px = next(iter(rows.values())).shape[:2]
    title = f"{shown} of {_set(frames)}: original and what the tokens draw"
    scale = max(1, round(SHOWN_PX / side_px))
    strips = [_strip(row, scale) for row in rows.values()]
    height, width = strips[0].shape[:2]
    longest = max(len(line) for label in rows for line in label.split("\n"))
    left, top, gap = 26 + 8 * longest, 36, 6
    whole_width, whole_height = left + width + 4, top + len(strips) * (height + gap) + 4
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(whole_width / DPI, whole_height / DPI))
        figure.text(
            10 / whole_width, 1 - 12 / whole_height, title,
            va="top", fontsize=10, fontweight="bold",
        )  # fmt: skip
        for number, (label, strip) in enumerate(zip(rows, strips, strict=True)):
            down = top + number * (height + gap)
            # Whole pixels, so that nothing is resampled.
            figure.figimage(strip, left, whole_height - down - height, origin="upper")
            middle = 1 - (down + height / 2) / whole_height
            figure.text(10 / whole_width, middle, label, va="center", fontsize=9.5)
        _save(figure, path)


def _strip(pictures: UInt8[np.ndarray, "K S S 3"], scale: int) -> UInt8[np.ndarray, "H W 3"]:
    large = pictures.repeat(scale, axis=1).repeat(scale, axis=2)
    spaced = np.pad(large, ((0, 0), (0, 0), (0, 6), (0, 0)), constant_values=255)
    return np.concatenate(list(spaced), axis=1)


def _short(value: float, _: int | None = None) -> str:
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _set(frames: Mapping[str, Any]) -> str:
    return (
        f"{frames['frames']:,} frames of {frames['name']} at "
        f"{frames['side_px']} x {frames['side_px']} px"
    )


def _save(figure: Figure, path: Path) -> None:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI)
    write_bytes(path, data.getvalue())
