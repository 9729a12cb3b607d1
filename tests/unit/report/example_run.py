"""Writes the run folder of a run that never was: plausible numbers, small pictures, a video.

`PYTHONPATH=tests python tests/unit/report/example_run.py FOLDER` writes one to look at, with its
report.html.
"""

import io
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

from made_forecasts import forecasts
from toto.report.collect import STAGES, collect
from toto.report.page import write_report
from toto.report.study_plots import draw_transfer
from toto.studies.transfer import Cell, cells, summary

SIDE_PX = 64
LAYERS = ("embedding", *(f"block {n}" for n in range(1, 7)))
SEEDS = (0, 1, 2)


def write_example_run(run: Path) -> Path:
    """Write every stage's files under `run`, the same bytes each time."""
    random = np.random.default_rng(7)
    _write_lines(run / "stages.jsonl", _costs())
    for stage in [stage for stage in STAGES if stage != "layers"]:
        _write(run / stage / "config.json", _config(stage))
        _write(run / stage / "env.json", _environment(stage))
    _write(run / "data/results/ingest.json", _ingest())
    _write_lines(run / "tokenizer/metrics.jsonl", _tokenizer_log(random))
    _write(run / "tokenizer/results/tokenizer.json", _tokenizer())
    _write_png(run / "tokenizer/reconstructions.png", _strip(rows=2, blurred_from=1))
    _write(run / "shards/results/tokenize.json", _tokenize())
    _write_lines(run / "pretrain/metrics.jsonl", _pretrain_log(random))
    _write(run / "pretrain/results/pretrain.json", _pretrain())
    _write(run / "probe/results/probe.json", _probe(random))
    _write(run / "mup/results/study_mup.json", _mup())
    draw_transfer(run / "mup/mup.png", _mup())
    _write_lines(run / "finetune/metrics.jsonl", _finetune_log(random))
    _write(run / "finetune/results/finetune.json", _finetune())
    _write(run / "track/results/track.json", _track())
    _write_png(run / "track/overlay.png", _strip(rows=2, tinted=True))
    _write(run / "generate/results/generate.json", forecasts())
    for number in (1, 2):
        _write_png(
            run / f"generate/strip{number}.png", _strip(rows=3, blurred_from=1, shift=number)
        )
    _write_mp4(run / "generate/forecast.mp4")
    return run


def _costs() -> list[dict[str, Any]]:
    walls_s = {
        "ingest": 8.4,
        "tokenizer": 74.1,
        "tokenize": 6.3,
        "pretrain": 171.8,
        "probe": 96.5,
        "track": 11.2,
        "generate": 19.7,
    }
    return [
        {"stage": s, "wall_s": w, "cpu_s": 1.8 * w, "peak_memory_bytes": 5e8 + 6e6 * w}
        for s, w in walls_s.items()
    ]


def _config(stage: str) -> dict[str, Any]:
    config = {"seed": 0, "steps": 600, "model": {"width": 192, "depth": 6, "heads": 6}}
    return {"schema": 1, "kind": stage.capitalize(), "digest": "0f3a9c21d7be4410", "config": config}


def _environment(stage: str) -> dict[str, Any]:
    return {
        "time_utc": "2026-02-03T10:00:00+00:00",
        "command": ["toto", stage],
        "python": "3.11.9",
        "packages": {"torch": "2.12.0", "numpy": "2.2.1", "av": "16.0.1"},
        "device": "cpu",
        "cores": 2,
    }


def _ingest() -> dict[str, Any]:
    sources = (("clips", 3, 2, 540, 19.3), ("moving-digits", 1600, 0, 25600, 1066.7))
    names = ("name", "clips", "lost", "frames", "duration_s")
    return {
        "sources": [dict(zip(names, source, strict=True)) for source in sources],
        "lost": [
            {
                "path": "holiday.mp4",
                "status": "refused",
                "stage": "sniff",
                "reason": "no video container (HTML text)",
            },
            {"path": "empty.mov", "status": "refused", "stage": "size", "reason": "it is empty"},
        ],
        "damaged": [{"path": "carphone.mp4", "reason": "142 of 180 frames could be read"}],
    }


def _tokenizer_log(random: np.random.Generator) -> Iterable[dict[str, float]]:
    for step in range(10, 1501, 10):
        fall = math.exp(-step / 260)
        yield {
            "step": step,
            "loss": 0.9 * fall - 1.1 + 0.05 * random.standard_normal(),
            "nll": 0.9 * fall - 1.2 + 0.05 * random.standard_normal(),
            "kl": 1.2 - fall,
            "temperature": max(1 / 16, 1 - step / 1000),
            "perplexity": 212 * (1 - fall) + 12 + 5 * random.standard_normal(),
            "used_codes": round(480 * (1 - fall)),
            "time_s": step / 20,
        }


def _tokenizer() -> dict[str, Any]:
    return {
        "name": "dvae",
        "vocab_size": 512,
        "patch_px": 8,
        "psnr_db": 21.3,
        "psnr_db_mean_colour": 12.0,
        "psnr_db_grey": 16.4,
        "perplexity": 210.1,
        "used_codes": 480,
        "frames": 256,
        "parameters": 1_210_000,
    }


def _tokenize() -> dict[str, Any]:
    counts = [round(60_000 / (rank + 6) ** 1.15) if rank < 486 else 0 for rank in range(512)]
    histogram = [counts[(code * 173) % 512] for code in range(512)]
    rows = (
        ("clips", 3, 540, 34_560, 402, 151.2),
        ("moving-digits", 1600, 25600, 1638400, 311, 48.9),
    )
    names = ("name", "clips", "frames", "tokens", "used_codes", "perplexity")
    sources = [dict(zip(names, row, strict=True)) for row in rows]
    return {"vocab_size": 512, "grid": [8, 8], "sources": sources, "histogram": histogram}


def _pretrain_log(random: np.random.Generator) -> Iterable[dict[str, float]]:
    for step in range(2, 601, 2):
        loss = 2.1 + 4.0 * math.exp(-step / 90)
        yield {
            "step": step,
            "loss": loss + 0.09 * random.standard_normal(),
            "lr": 1e-3 * min(1, step / 50),
            "grad_norm": 0.7,
            "tokens_per_s": 14_500.0,
            "time_s": step / 3.6,
        }
        if step % 100 == 0:
            yield {"step": step, "validation_loss": loss + 0.12}


def _pretrain() -> dict[str, Any]:
    return {
        "parameters": 2_870_000,
        "steps": 600,
        "tokens": 2_457_600,
        "validation_loss": 2.22,
        "loss_per_frame": [3.42, *(2.05 + 0.75 / n for n in range(1, 16))],
        "loss_per_position_first": _arch(3.42, 1.4),
        "loss_per_position_later": _arch(2.2, 0.5),
        "loss_per_frame_untrained": [6.31 + 0.01 * math.sin(n) for n in range(16)],
        "unigram_loss": 3.9,
        "uniform_loss": math.log(512),
        "tokens_per_s": 14_500.0,
        "precision": "fp32",
    }


def _arch(middle: float, first: float) -> list[float]:
    """Losses of 8 x 8 places: high in the middle rows, at each row's start, and at the first."""
    places = [(n // 8, n % 8) for n in range(64)]
    arch = [middle - 0.03 * (y - 3.5) ** 2 + 0.3 * (x == 0) for y, x in places]
    return [arch[0] + first, *arch[1:]]


def _probe(random: np.random.Generator) -> dict[str, Any]:
    tasks = {
        "digit": _task(random, classes=10, peak=0.61, untrained=0.38, passed=True),
        "motion": _task(random, classes=8, peak=0.33, untrained=0.32, passed=False),
    }
    return {
        "seeds": list(SEEDS),
        "layers": list(LAYERS),
        "poolings": ["attention", "average"],
        "tasks": tasks,
    }


def _task(
    random: np.random.Generator, *, classes: int, peak: float, untrained: float, passed: bool
) -> dict[str, Any]:
    hump = np.array([0.0, 0.35, 0.7, 0.95, 1.0, 0.85, 0.6])
    levels = {
        "trained": 0.3 + (peak - 0.3) * hump,
        "untrained": untrained - 0.02 * np.arange(len(LAYERS)),
    }
    loss = {"attention": 0.0, "average": 0.07}
    test = {
        weights: {
            pooling: [
                [round(float(v), 4) for v in level - lost + 0.012 * random.standard_normal(7)]
                for _ in SEEDS
            ]
            for pooling, lost in loss.items()
        }
        for weights, level in levels.items()
    }
    layer = {"trained": 4, "untrained": 0}
    chosen = {
        weights: [
            {
                "seed": seed,
                "pooling": "attention",
                "layer": layer[weights],
                "selection": round(test[weights]["attention"][seed][layer[weights]] + 0.02, 4),
                "test": test[weights]["attention"][seed][layer[weights]],
            }
            for seed in SEEDS
        ]
        for weights in levels
    }
    won = {"margin_in_sd": 12.3 if passed else 0.4, "beats_untrained": passed, "beats_chance": True}
    means = {
        "trained_mean": peak,
        "trained_sd": 0.011,
        "untrained_mean": untrained,
        "untrained_sd": 0.012,
    }
    sentence = (
        "Training raises test accuracy by far more than seeds differ."
        if passed
        else "The gain over the untrained network is within what seeds alone change."
    )
    return {
        "classes": classes,
        "chance": 1 / classes,
        "clips": {"train": 600, "selection": 200, "test": 400},
        "test": test,
        "chosen": chosen,
        "verdict": {**means, **won, "sentence": sentence},
    }


def _mup() -> dict[str, Any]:
    widths, log2_lrs, base = (32, 64, 128, 256), range(-9, -1), {"base_width": 32}
    scores: dict[Cell, float | None] = {}
    for cell in cells(widths, log2_lrs, 3, **base):
        wider = math.log2(cell.width / 32)
        best = -4 if cell.parametrisation == "mup" else -4 - wider
        scores[cell] = 2.4 - 0.1 * wider + 0.06 * (cell.log2_lr - best) ** 2
    asked = {"widths": list(widths), "log2_lrs": list(log2_lrs), "seeds": 3, "depth": 2, **base}
    said = {"unit": "nats a token", "data": "made sequences", "steps": 100}
    return {**said, **asked, **summary(scores, widths, log2_lrs, **base)}


def _finetune_log(random: np.random.Generator) -> Iterable[dict[str, float]]:
    for step in range(5, 501, 5):
        fall = math.exp(-step / 160)
        yield {"step": step, "loss": 6.9 * (0.3 + 0.7 * fall) + 0.1 * random.standard_normal()}
        if step % 50 == 0:
            yield {
                "step": step,
                "epoch": step // 50,
                "selection_accuracy": 0.1 + 0.62 * (1 - fall) + 0.01 * random.standard_normal(),
            }


def _finetune() -> dict[str, Any]:
    return {
        "protocol": "stop-gradient",
        "attention": "causal",
        "init": "trained",
        "task": "digit",
        "classes": 10,
        "chance": 0.1,
        "clips": {"train": 600, "selection": 200, "test": 300},
        "steps": 500,
        "layer": 4,
        "test_accuracy": 0.683,
        "test_accuracies": {"0": 0.31, "1": 0.45, "2": 0.57, "3": 0.64, "4": 0.683, "5": 0.66},
        "views": "10x3",
        "test_accuracy_one_view": 0.652,
        "lost": ["digits-17"],
    }


def _track() -> dict[str, Any]:
    scores = {"trained": 0.571, "untrained": 0.508, "first mask kept": 0.241}
    return {
        "protocol": {"context_frames": 4, "radius": 3, "topk": 7, "temperature": 0.07},
        "layer": 3,
        "clips": [
            {"source": f"digits-{n}", "j": 0.55, "f": 0.6, "j_and_f": 0.575} for n in range(8)
        ],
        "scores": {k: {"j": v - 0.02, "f": v + 0.02, "j_and_f": v} for k, v in scores.items()},
        "where": "moving digits",
    }


def _frame(time: int, shift: int = 0) -> Image.Image:
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), (24, 26, 38))
    draw = ImageDraw.Draw(image)
    for number, color in enumerate(((236, 200, 84), (96, 180, 232))):
        x = 6 + (3 * time + 22 * number + 9 * shift) % 44
        y = 8 + abs((2 * time + 17 * number) % 64 - 32)
        draw.rectangle((x, y, x + 3, y + 17), fill=color)
        draw.rectangle((x, y, x + 11 - 5 * number, y + 3), fill=color)
        draw.rectangle((x, y + 14, x + 11, y + 17), fill=color)
    return image


def _strip(
    *, rows: int, blurred_from: int = 9, tinted: bool = False, shift: int = 0
) -> Image.Image:
    gap = 2
    step = SIDE_PX + gap
    strip = Image.new("RGB", (16 * step - gap, rows * step - gap), (255, 255, 255))
    for row in range(rows):
        for time in range(16):
            frame = _frame(time + (row == 2), shift)
            if row >= blurred_from:
                frame = frame.resize((16 // row, 16 // row), Image.Resampling.BOX)
                frame = frame.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
            if tinted:
                tint = Image.new("RGB", frame.size, (220, 60, 90))
                frame = Image.blend(frame, tint, 0.25 + 0.2 * row)
            strip.paste(frame, (time * step, row * step))
    return strip


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def _write_lines(path: Path, values: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def _write_png(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _write_mp4(path: Path) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 4 * SIDE_PX
        stream.pix_fmt = "yuv420p"
        for time in range(16):
            image = _frame(time).resize((4 * SIDE_PX, 4 * SIDE_PX), Image.Resampling.NEAREST)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    folder = write_example_run(Path(sys.argv[1]))
    print(write_report(collect(folder), folder / "report.html"))
