"""The HTML pieces the sections are made of.

What a stranger's file says (paths, reasons, names) ends up in this page, so escaping is the rule
and not a habit: a string is text and gets escaped, unless this file made it and it is `Html`.
"""

import base64
import html
import math
from collections.abc import Iterable, Sequence
from typing import Literal

from toto.report.collect import Media


class Html(str):
    """Markup that is safe as it stands."""

    __slots__ = ()


def join(parts: Iterable[str]) -> Html:
    """Put pieces one after the other, escaping those that are plain text."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def element(tag: str, /, *children: str, **attributes: str) -> Html:
    """Make one element; a trailing underscore (`class_`) frees a Python word, others are hyphens.

    Args:
        tag: its name.
        children: `Html`, or text to escape.
        attributes: text to escape; an empty one stands alone, as `controls` does.
    """
    opening = tag
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        opening += f' {key}="{html.escape(value)}"' if value else f" {key}"
    if tag in {"img", "meta"}:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{join(children)}</{tag}>")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> Html:
    """Make a table that scrolls sideways in itself where the screen is too narrow.

    Args:
        headers: one a column.
        rows: cells, as many as headers.
        words: how many of the first columns hold words; the others hold numbers.
    """
    styles = ["word" if n < words else "number" for n in range(len(headers))]
    head = [element("th", h, scope="col", class_=s) for h, s in zip(headers, styles, strict=True)]
    body = [
        element("tr", *(element("td", c, class_=s) for c, s in zip(row, styles, strict=True)))
        for row in rows
    ]
    whole = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", whole, class_="scroll", tabindex="0", role="group", aria_label="table")


def caption(*, axes: str, look: str, limits: str) -> Html:
    """Say what a figure is to someone who has never seen one like it.

    Args:
        axes: what is drawn against what.
        look: what is worth noticing.
        limits: what it does not show.
    """
    parts = (("What it is.", axes), ("What to look for.", look), ("What it does not show.", limits))
    return element(
        "figcaption", *(element("p", element("b", label), " ", text) for label, text in parts)
    )


def figure(
    panels: Sequence[Html], words: Html, *, keys: Html | None = None, wide: bool = False
) -> Html:
    """Set panels side by side where there is room.

    Args:
        panels: what is shown.
        words: the caption.
        keys: the legend.
        wide: panels take the whole width; otherwise a single one has its caption beside it.
    """
    style = "wide" if wide else "beside" if len(panels) == 1 else "below"
    drawn = element("div", keys or "", element("div", *panels, class_="panels"))
    return element("figure", drawn, words, class_=style)


def key(role: str, label: str, shape: Literal["line", "dashed", "ring", "dot"] = "line") -> Html:
    """Make one entry of a legend: the line or point as it is drawn, and its name."""
    swatch = element("span", class_=f"swatch {shape}", style=f"color: var(--{role})")
    return element("span", swatch, label, class_="key")


def legend(*entries: Html) -> Html:
    """Put legend entries in a row."""
    return element("div", *entries, class_="keys")


def picture(media: Media, alt: str, *, plot: bool = False) -> Html:
    """Show a PNG; a wide one scrolls in itself.

    Args:
        media: the picture.
        alt: what a screen reader says in its place.
        plot: a plot is scaled smoothly; other pixels are kept square and sharp.
    """
    image = element("img", src=data_uri(media, "image/png"), alt=alt)
    kind = "picture plot" if plot else "picture"
    return element("div", image, class_=kind, tabindex="0", role="group", aria_label=alt)


def bar(share: float, role: str) -> Html:
    """Draw a share in [0, 1] as a bar; an unknown one (NaN) has no length."""
    width = 100 * min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    inside = element("span", style=f"width: {width:.1f}%; background: var(--{role})")
    return element("span", inside, class_="bar", aria_hidden="true")


def unfinished(verb: str, *, started: bool) -> Html:
    """Say in one quiet line that a stage has no result, and which command makes it."""
    state = "started, not finished" if started else "not run"
    return element("p", f"{state}: ", element("code", f"toto {verb} …"), class_="quiet")


def details(summary: str, *children: str) -> Html:
    """Fold something away until it is asked for."""
    return element("details", element("summary", summary), *children)


def data_uri(media: Media, kind: str) -> str:
    """Write a file into the page, so that the page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(media.data).decode()}"
