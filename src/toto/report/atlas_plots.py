"""The curves and the table of a layer atlas; from its JSON alone."""

import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toto.report.token_plots import STYLE
from toto.runtime.durable import write_bytes

NAMES = {
    "average": "average pooling, linear",
    "attention": "attention pooling (the paper's)",
    "attention-mlp": "attention and MLP (Table 16)",
    "aim": "AIM's attentive probe",
    "v-jepa": "V-JEPA's attentive probe",
}
# Okabe and Ito's colours, told apart by most who see few; each head has a marker too.
COLOURS = {
    "average": "#0072B2",
    "attention": "#D55E00",
    "attention-mlp": "#009E73",
    "aim": "#CC79A7",
    "v-jepa": "#8A6D00",
}
MARKERS = {"average": "o", "attention": "s", "attention-mlp": "^", "aim": "D", "v-jepa": "v"}
PAIR = ("average", "attention")
DPI = 110


def draw_atlas(path: Path, result: Mapping[str, Any]) -> None:
    """Draw accuracy over the layers: two poolings against untrained, and all heads.

    Args:
        path: the PNG.
        result: what `toto study layers` wrote.
    """
    heads = result["heads"]
    pair = [head for head in heads if head in PAIR] or heads
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 5.2), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for head in pair:
            _curve(left, result, "trained", head)
            _curve(left, result, "untrained", head)
        for head in heads:
            _curve(right, result, "trained", head)
        for axes in (left, right):
            axes.axhline(100 * result["chance"], color="#555555", linestyle=":", linewidth=1.2)
            _mark_layers(axes, result["layers"])
        left.annotate(
            f"chance {100 * result['chance']:.1f} %",
            (len(result["layers"]) - 1, 100 * result["chance"]),
            xytext=(0, -12),
            textcoords="offset points",
            ha="right",
            color="#555555",
            fontsize=9,
        )
        left.set(title="Trained and untrained", ylabel="accuracy on the test clips, %")
        left.set_ylim(bottom=0)
        right.set(title="Every head, trained")
        for axes in (left, right):
            axes.legend(frameon=False, fontsize=9, loc="best")
        figure.suptitle("\n".join(_title(result)), x=0.01, ha="left", fontsize=11)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
    write_bytes(path, buffer.getvalue())


def atlas_table(result: Mapping[str, Any]) -> str:
    """Give every head's curve and what the selection split chose of it, as Markdown."""
    lines = [". ".join(_title(result)) + ".", "", result["verdict"]["sentence"], ""]
    for kind, curves in result["curves"].items():
        lines += [
            f"Test accuracy, {kind}, %:",
            "",
            "| head | " + " | ".join(result["layers"]) + " | layer chosen | at that layer |",
            "|---" * (len(result["layers"]) + 3) + "|",
        ]
        for head, curve in curves.items():
            cells = [_percent(column) for column in zip(*curve["test"], strict=True)]
            chosen = [result["layers"][one["layer"]] for one in curve["chosen"]]
            scores = _percent([one["test"] for one in curve["chosen"]])
            names = ", ".join(dict.fromkeys(chosen))
            lines.append(f"| {NAMES[head]} | " + " | ".join(cells) + f" | {names} | {scores} |")
        lines.append("")
    for kind, picks in result["chosen"].items():
        words = [
            f"{result['layers'][one['layer']]}, {one['head']}, {one['rate']:g}" for one in picks
        ]
        score = _percent([one["test"] for one in picks])
        lines += [f"Chosen of all, {kind}: {'; '.join(words)}: {score} %.", ""]
    return "\n".join(lines[:-1]) + "\n"


def _title(result: Mapping[str, Any]) -> tuple[str, str]:
    clips = result["clips"]
    return (
        f"What does each layer know? {result['classes']} classes; {clips['train']:,} clips train "
        f"the heads, {clips['selection']:,} choose, {clips['test']:,} are reported",
        f"{len(result['seeds'])} seeds, mean and one standard deviation; "
        f"{result['heads_tried']} heads tried a seed",
    )


def _curve(axes: Axes, result: Mapping[str, Any], kind: str, head: str) -> None:
    columns = list(zip(*result["curves"][kind][head]["test"], strict=True))
    means = [100 * statistics.mean(column) for column in columns]
    spreads = [100 * _spread(column) for column in columns]
    layers = range(len(means))
    trained = kind == "trained"
    axes.plot(
        layers,
        means,
        linestyle="-" if trained else "--",
        marker=MARKERS[head],
        markersize=4.5,
        markerfacecolor=COLOURS[head] if trained else "white",
        color=COLOURS[head],
        label=NAMES[head] + ("" if trained else ", untrained"),
    )
    axes.fill_between(
        layers,
        [mean - spread for mean, spread in zip(means, spreads, strict=True)],
        [mean + spread for mean, spread in zip(means, spreads, strict=True)],
        color=COLOURS[head],
        alpha=0.18,
        linewidth=0,
    )


def _mark_layers(axes: Axes, layers: Sequence[str]) -> None:
    step = max(1, round((len(layers) - 1) / 12))
    places = list(range(0, len(layers), step))
    names = [layers[place].removeprefix("block ") for place in places]
    axes.set_xticks(places, names)
    axes.set_xlabel("layer: the embedding, then the blocks of the decoder")


def _percent(values: Sequence[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} +- {100 * _spread(values):.1f}"


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
