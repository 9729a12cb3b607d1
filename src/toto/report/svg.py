"""Turns a matplotlib drawing into SVG that belongs to the page: its colours, its font.

Colours are drawn as the codes of `ROLES` and become CSS variables of the same name, so that one
drawing serves the light and the dark page.
"""

import html
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toto.report.elements import Html

ROLES = {
    "ink": "#010101",
    "muted": "#020202",
    "rule": "#030303",
    "trained": "#040404",
    "untrained": "#050505",
    "limit": "#060606",
    "baseline": "#070707",
}
"""What a colour stands for. The codes only mark places in the SVG: page.css has the palette."""

WIDTH_PT, HEIGHT_PT = 360, 240
"""One size for every panel, drawn for a phone's width; wider pages set panels side by side."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "toto",
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.titlecolor": ROLES["ink"],
    "axes.labelcolor": ROLES["muted"],
    "axes.edgecolor": ROLES["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": ROLES["rule"],
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.9,
    "lines.markersize": 4.5,
    "text.color": ROLES["ink"],
    "text.parse_math": False,
    "xtick.color": ROLES["muted"],
    "ytick.color": ROLES["muted"],
}


def render(draw: Callable[[Axes], None], *, name: str, label: str) -> Html:
    """Draw one panel.

    Args:
        draw: puts the curves and the words on the axes.
        name: one word that no other panel of the page has; keeps SVG ids apart.
        label: what a screen reader says in place of the picture.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_PT / 72, HEIGHT_PT / 72), layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg")
    return _inline(buffer.getvalue(), name, label)


def _inline(svg: str, name: str, label: str) -> Html:
    inside = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    # matplotlib's <style> would reach the whole page, its metadata names the machine's clock.
    inside = re.sub(r"<(metadata|style)\b.*?</\1>", "", inside, flags=re.DOTALL)
    inside = re.sub(r'<g id="[^"]*"', "<g", inside)
    inside = re.sub(r'\bid="', f'id="{name}-', inside)
    inside = inside.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    inside = re.sub(
        r"font: (?:(\d+) )?([\d.]+px) [^;\"]*", r"font-size: \2; font-weight: \1", inside
    )
    inside = inside.replace("font-weight: ;", "").replace('font-weight: "', '"')
    inside = re.sub(r"font-family: [^;\"]*;?", "", inside)
    for role, code in ROLES.items():
        inside = inside.replace(code, f"var(--{role})")
    inside = re.sub(r"\s+", " ", inside)
    box = f'viewBox="0 0 {WIDTH_PT} {HEIGHT_PT}"'
    return Html(f'<svg {box} role="img" aria-label="{html.escape(label)}">{inside}</svg>')
