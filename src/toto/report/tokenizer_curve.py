"""A picture of a tokenizer's training: quality, use of codes and loss against the step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PANELS = (
    ("psnr_db", "Quality on held-out frames", "PSNR, dB"),
    ("perplexity", "Codes in effective use there", "perplexity"),
    ("loss", "Loss of the training batches", "as optimised"),
)


def draw_curve(metrics: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw what a run logged; measurements that found the codebook collapsed are marked.

    Args:
        metrics: rows of `metrics.jsonl`, each with its `step`.
        path: of the PNG.
        title: what was trained.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained", dpi=120)
    figure.suptitle(f"Training of {title}")
    for axes, (name, what, unit) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        rows = [(row["step"], row[name]) for row in metrics if row.get(name) is not None]
        axes.plot(*zip(*rows, strict=True), marker="o" if len(rows) < 40 else "", markersize=3)
        lost = [(row["step"], row[name]) for row in metrics if row.get("collapsed") and name in row]
        if lost:
            axes.plot(*zip(*lost, strict=True), "rx", label="codebook collapsed")
            axes.legend()
        axes.set(title=what, xlabel="optimiser step", ylabel=unit)
        axes.grid(alpha=0.3)
    figure.savefig(path)
