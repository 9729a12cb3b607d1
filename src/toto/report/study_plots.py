"""The picture and the table of a sweep of learning rates over widths; from its JSON alone."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toto.report.token_plots import STYLE
from toto.runtime.durable import write_bytes

NAMES = {"mup": "With muP", "standard": "Without (standard parametrisation)"}
DPI = 110


def draw_transfer(path: Path, result: Mapping[str, Any]) -> None:
    """Draw the loss against the learning rate, a line for each width, with muP and without.

    Args:
        path: the PNG.
        result: what `toto study mup` wrote.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.8), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, kind in zip(panels, NAMES, strict=True):
            _draw_one(axes, result, kind)
        panels[0].set_ylabel(f"loss at the end, {result['unit']}")
        low, high = _span(result)
        panels[0].set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        panels[1].legend(title="width of the model", frameon=False, fontsize=9)
        seeds = "1 seed" if result["seeds"] == 1 else f"mean of {result['seeds']} seeds"
        figure.suptitle(
            f"Which learning rate is best? {result['data']}, {result['depth']} layers, "
            f"{result['steps']} steps, {seeds}; rings mark each width's best",
            x=0.01,
            ha="left",
            fontsize=11,
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
    write_bytes(path, buffer.getvalue())


def transfer_table(result: Mapping[str, Any]) -> str:
    """Give the best rate of every width, and what the narrowest one's costs it, as Markdown."""
    seeds = "1 seed" if result["seeds"] == 1 else f"{result['seeds']} seeds"
    lines = [
        f"Best learning rate by width: {result['data']}, {result['depth']} layers, "
        f"{result['steps']} steps, {seeds}; base width {result['base_width']}.",
        "",
        "| | width | best rate | between the rates tried | loss, nats a token "
        "| lost by the narrowest width's rate |",
        "|---|---|---|---|---|---|",
    ]
    for kind, name in NAMES.items():
        for width in result["widths"]:
            best = result[kind]["best"][str(width)]
            lost = result[kind]["lost_by_keeping"][str(width)]
            if best is None:
                lines.append(f"| {name} | {width} | none was finite | | | |")
                continue
            edge = " (at the edge)" if best["at_edge"] else ""
            between = "-" if best["between"] is None else f"2^{best['between']:.2f}"
            kept = "not finite" if lost is None else f"{lost:.3f}"
            lines.append(
                f"| {name} | {width} | 2^{best['log2_lr']}{edge} | {between} "
                f"| {best['loss']:.3f} | {kept} |"
            )
    for kind, name in NAMES.items():
        lines += ["", f"{name}: {how_it_moved(result[kind]['moved'], result['widths'])}."]
    return "\n".join(lines) + "\n"


def how_it_moved(moved: int | None, widths: Sequence[int]) -> str:
    """Say how far the best rate moves from the narrowest width to the widest.

    Args:
        moved: in powers of two; None where a width has no best rate.
        widths: the narrowest first.
    """
    over = f"over {widths[-1] / widths[0]:g}x the width"
    if moved is None:
        return f"no rate was finite for some width {over}"
    if moved == 0:
        return f"the best rate stays {over}"
    return f"the best rate moves by a factor of {2**moved:,} {over}"


def _draw_one(axes: Axes, result: Mapping[str, Any], kind: str) -> None:
    colours = mpl.colormaps["viridis_r"]
    widths, rates = result["widths"], result["log2_lrs"]
    for number, width in enumerate(widths):
        colour = colours(0.12 + 0.88 * number / max(1, len(widths) - 1))
        losses = result[kind]["mean_loss"][str(width)]
        shown = [float("nan") if loss is None else loss for loss in losses]
        axes.plot(rates, shown, "o-", color=colour, markersize=3.5, label=str(width))
        best = result[kind]["best"][str(width)]
        if best is not None:
            axes.plot(best["log2_lr"], best["loss"], "o", color=colour, markersize=10,
                      markerfacecolor="none", markeredgewidth=1.8)  # fmt: skip
    moved = how_it_moved(result[kind]["moved"], widths)
    axes.set(title=f"{NAMES[kind]}:\n{moved}", xlabel="learning rate")
    axes.set_xticks(rates, [f"2$^{{{rate}}}$" for rate in rates], parse_math=True)


def _span(result: Mapping[str, Any]) -> tuple[float, float]:
    """The losses worth seeing: from the best to what no training would give, about."""
    losses = [
        loss
        for kind in NAMES
        for row in result[kind]["mean_loss"].values()
        for loss in row
        if loss is not None
    ]
    ordered = sorted(losses) or [0.0, 1.0]
    return ordered[0], ordered[min(len(ordered) - 1, round(0.9 * len(ordered)))]
