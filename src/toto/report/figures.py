"""The panels of the page, one function each: named values in, SVG out."""

import math
import statistics
from collections.abc import Sequence
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from toto.report.collect import Curve
from toto.report.elements import Html
from toto.report.results import (
    Finetune,
    ForecastCurve,
    ForecastGroup,
    ForecastMeasure,
    Pretrain,
    Probe,
    Task,
)
from toto.report.svg import ROLES, render

DASHED = (0, (3.5, 2))
POOLING_LINES = {"attention": "-", "average": DASHED}
"""How the line of a pooling is drawn; one not named here is dotted."""

MOST_MARKERS = 16
"""A forecast of more frames is drawn without a dot at each."""
CURVE_POINTS = 200
"""A longer curve is drawn as the means of this many equal stretches."""


def over_steps(curve: Curve, *, name: str, title: str, unit: str) -> Html:
    """Draw one logged quantity against the optimiser step."""

    def draw(axes: Axes) -> None:
        axes.plot(*thin(curve), color=ROLES["trained"])
        axes.set(title=title, xlabel="optimiser step", ylabel=unit)
        _plain(axes)

    return render(draw, name=name, label=f"{title}, against the optimiser step")


def pretraining(training: Curve, validation: Curve | None, result: Pretrain) -> Html:
    """Draw the loss on training and held-out clips, with what two simple guesses would score."""

    def draw(axes: Axes) -> None:
        axes.plot(*thin(training), color=ROLES["trained"])
        if validation is not None:
            axes.plot(validation.steps, validation.values, "D", color=ROLES["limit"])
        for number, (guess, loss) in enumerate(result.guesses):
            _level(axes, loss, guess.removeprefix("a "), below=number > 0)
        axes.set(title="Next-token loss", xlabel="optimiser step", ylabel=result.unit)
        _plain(axes)

    return render(draw, name="loss", label="Next-token loss against the optimiser step")


def loss_per_frame(result: Pretrain) -> Html:
    """Draw how well each frame of a clip is predicted from those before it."""

    def draw(axes: Axes) -> None:
        for role, losses in (
            ("untrained", result.loss_per_frame_untrained),
            ("trained", result.loss_per_frame),
        ):
            axes.plot(_from_one(losses), _gaps(losses), "o-", color=ROLES[role])
        for guess, loss in result.guesses[-1:]:
            _level(axes, loss, guess.removeprefix("a "))
        axes.set(title="Loss by frame", xlabel="frame of the clip", ylabel=result.unit)
        _whole_frames(axes, result.loss_per_frame)

    return render(draw, name="frames", label="Loss against the place of the frame in its clip")


def loss_per_position(result: Pretrain) -> Html:
    """Draw how well each place of a frame is predicted, in the first frame and in those after."""

    def draw(axes: Axes) -> None:
        for role, losses in (
            ("limit", result.loss_per_position_first),
            ("trained", result.loss_per_position_later),
        ):
            axes.plot(_from_one(losses), _gaps(losses), color=ROLES[role], linewidth=1.3)
        axes.set(title="Loss by place in the frame", xlabel="place, row after row")
        axes.set(ylabel=result.unit)
        _plain(axes)

    return render(draw, name="positions", label="Loss against the place within a frame")


def code_use(histogram: Sequence[int]) -> Html:
    """Draw how often each code is used, the most frequent first, on a logarithmic scale."""
    used = sorted((n for n in histogram if n), reverse=True)
    floor = used[-1] / 2

    def draw(axes: Axes) -> None:
        ranks = _from_one(used)
        axes.set_yscale("log")
        axes.fill_between(ranks, used, floor, color=ROLES["trained"], alpha=0.18, linewidth=0)
        axes.plot(ranks, used, color=ROLES["trained"])
        _level(axes, sum(used) / len(histogram), "if all were equally frequent")
        axes.set(title="How often each code occurs", xlabel="code, most frequent first")
        axes.set(ylabel="occurrences, log scale", xlim=(0, len(histogram)))
        axes.set_ylim(bottom=floor)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        _plain(axes)

    return render(draw, name="codes", label="Occurrences of each code, most frequent first")


def code_coverage(histogram: Sequence[int]) -> Html:
    """Draw which share of all tokens the most frequent codes make up."""
    total = max(sum(histogram), 1)
    shares = [100 * n / total for n in accumulate(sorted(histogram, reverse=True))]

    def draw(axes: Axes) -> None:
        axes.plot([0, *_from_one(shares)], [0, *shares], color=ROLES["trained"])
        axes.plot([0, len(shares)], [0, 100], color=ROLES["baseline"], linestyle=DASHED, lw=1.2)
        axes.set(title="Share of all tokens they make up", xlabel="codes kept, most frequent first")
        axes.set(ylabel="% of tokens", xlim=(0, len(shares)), ylim=(0, 104))
        _plain(axes)

    return render(draw, name="coverage", label="Share of tokens the most frequent codes make up")


def accuracy_per_layer(title: str, task: Task, probe: Probe, *, name: str) -> Html:
    """Draw the test accuracy of the probes on every layer: mean and spread over seeds."""
    places = range(len(probe.layers))

    def draw(axes: Axes) -> None:
        for weights in ("untrained", "trained"):
            color = ROLES[weights]
            for pooling, by_seed in task.test.get(weights, {}).items():
                means, spreads = _over_seeds(by_seed)
                low = [m - s for m, s in zip(means, spreads, strict=True)]
                high = [m + s for m, s in zip(means, spreads, strict=True)]
                line = POOLING_LINES.get(pooling, ":")
                axes.fill_between(places, low, high, color=color, alpha=0.14, linewidth=0)
                axes.plot(places, means, marker="o", markersize=3.4, color=color, linestyle=line)
                chosen = {c.layer for c in task.chosen.get(weights, ()) if c.pooling == pooling}
                for layer in chosen:
                    axes.plot(layer, means[layer], "o", markersize=11, markerfacecolor="none",
                              markeredgecolor=ROLES["ink"], markeredgewidth=1.2)  # fmt: skip
        # Below the line it is clear of the curves, but for many classes there is no room there.
        _level(axes, 100 * task.chance, "chance", below=task.chance > 0.06)
        axes.set(title=title, xlabel="layer that is read", ylabel="test accuracy, %")
        every = math.ceil(len(places) / 13)
        axes.set_xticks(places[::every], [_short(layer) for layer in probe.layers[::every]])
        axes.set_ylim(bottom=0)

    return render(draw, name=name, label=f"Test accuracy of {title} against the layer that is read")


def tuned_accuracy(selection: Curve, result: Finetune) -> Html:
    """Draw the accuracy on the selection clips over a fine-tuning, and that of the test clips."""

    def draw(axes: Axes) -> None:
        values = [100 * value for value in selection.values]
        axes.plot(selection.steps, values, "o-", color=ROLES["trained"])
        axes.plot(result.steps, 100 * result.test_accuracy, "D", color=ROLES["limit"])
        _level(axes, 100 * result.chance, "chance", below=result.chance > 0.06)
        axes.set(title="Accuracy", xlabel="optimiser step", ylabel="%", ylim=(0, None))
        _plain(axes)

    return render(draw, name="finetune-accuracy", label="Accuracy against the optimiser step")


def tuned_layers(result: Finetune) -> Html:
    """Draw the test accuracy of the probe behind each layer; a ring marks the chosen one."""

    def draw(axes: Axes) -> None:
        layers = [int(layer) for layer in result.test_accuracies]
        values = [100 * value for value in result.test_accuracies.values()]
        axes.plot(layers, values, "D-", color=ROLES["limit"])
        axes.plot(result.layer, values[layers.index(result.layer)], "o", markersize=11,
                  markerfacecolor="none", markeredgecolor=ROLES["ink"],
                  markeredgewidth=1.2)  # fmt: skip
        _level(axes, 100 * result.chance, "chance", below=result.chance > 0.06)
        axes.set(title="Test accuracy by layer", xlabel="layer that is read", ylabel="%")
        axes.set_ylim(bottom=0)
        _plain(axes)

    return render(draw, name="finetune-layers", label="Test accuracy against the layer")


def closeness(group: ForecastGroup, name: str, measure: ForecastMeasure, *, panel: str) -> Html:
    """Draw one measure of every method by how far ahead the frame is, with the spread over clips.

    Args:
        group: the clips.
        name: of the measure.
        measure: how it reads.
        panel: one word that no other panel of the page has.
    """

    def draw(axes: Axes) -> None:
        for method, curve in group.curves[name].items():
            role, dashed = forecast_style(method)
            _with_spread(axes, curve, ROLES[role], dashed=dashed)
        unit = f", {measure.unit}" if measure.unit else ""
        way = "higher" if measure.higher_is_closer else "lower"
        axes.set(title=f"{measure.label}: {way} is closer", xlabel="frames ahead")
        axes.set(ylabel=f"{measure.label}{unit}")
        _whole_frames(axes, next(iter(group.curves[name].values())).mean)

    label = f"{measure.label} of each method against the number of frames ahead"
    return render(draw, name=panel, label=label)


def forecast_surprise(group: ForecastGroup, uniform_nats: float, *, panel: str) -> Html:
    """Draw how little the model expected the tokens that came, and those it drew itself."""

    def draw(axes: Axes) -> None:
        for which, curve in group.surprise_nats.items():
            _with_spread(axes, curve, ROLES["limit" if which == "real" else "trained"])
        _level(axes, uniform_nats, "uniform guess", below=True)
        axes.set(title="Surprise: lower is expected", xlabel="frames ahead", ylabel="nats a token")
        axes.set_ylim(bottom=0)
        _whole_frames(axes, next(iter(group.surprise_nats.values())).mean)

    return render(draw, name=panel, label="Surprise at tokens against the number of frames ahead")


def forecast_style(method: str) -> tuple[str, bool]:
    """Say which colour a method of `generate.json` has, and whether its line is dashed."""
    roles = {"forecast": "trained", "copy last frame": "untrained", "tokenizer limit": "limit"}
    best = method.startswith("best of")
    return roles.get(method, "trained" if best else "baseline"), best


def thin(curve: Curve) -> tuple[list[float], list[float]]:
    """Average a long curve over equal stretches: what one batch more or less does is no news."""
    stretch = math.ceil(len(curve.steps) / CURVE_POINTS)
    starts = range(0, len(curve.steps), max(stretch, 1))
    steps = [statistics.fmean(curve.steps[n : n + stretch]) for n in starts]
    return steps, [statistics.fmean(curve.values[n : n + stretch]) for n in starts]


def _over_seeds(by_seed: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Give each layer's mean and standard deviation over seeds, in percent."""
    layers = [[100 * value for value in layer] for layer in zip(*by_seed, strict=True)]
    spreads = [statistics.stdev(layer) if len(layer) > 1 else 0.0 for layer in layers]
    return [statistics.fmean(layer) for layer in layers], spreads


def _with_spread(axes: Axes, curve: ForecastCurve, color: str, *, dashed: bool = False) -> None:
    """Draw a mean and, unless dashed, one standard deviation over clips to either side."""
    places, means = _from_one(curve.mean), _gaps(curve.mean)
    if curve.deviation is not None and not dashed:
        low = [m - d for m, d in zip(means, curve.deviation, strict=True)]
        high = [m + d for m, d in zip(means, curve.deviation, strict=True)]
        axes.fill_between(places, low, high, color=color, alpha=0.12, linewidth=0)
    marker = "o" if len(means) <= MOST_MARKERS else ""
    line = DASHED if dashed else "-"
    axes.plot(places, means, marker=marker, markersize=3.4, color=color, linestyle=line)


def _level(axes: Axes, value: float, words: str, *, below: bool = False) -> None:
    """Draw a level to compare with, its name at the right end."""
    axes.axhline(value, color=ROLES["baseline"], linestyle=DASHED, linewidth=1.2)
    axes.annotate(
        words,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(-2, -3 if below else 3),
        textcoords="offset points",
        ha="right",
        va="top" if below else "bottom",
        color=ROLES["muted"],
        fontsize=9.5,
    )


def _plain(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _whole_frames(axes: Axes, frames: Sequence[object]) -> None:
    axes.set_xticks(range(1, len(frames) + 1, math.ceil(len(frames) / 8)))


def _from_one(values: Sequence[object]) -> list[int]:
    return list(range(1, len(values) + 1))


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _short(layer: str) -> str:
    """Keep tick labels apart: `block 3` is 3, other names keep their first five letters."""
    return layer.removeprefix("block ")[:5]
