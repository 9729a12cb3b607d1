"""`toto status`: where a pre-training or a fine-tuning stands, read from its files alone.

It never imports torch, so that it answers at once, on a login node too, beside a run that is being
written.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from toto.jobs.forecast import Forecast, Point, forecast, smoothed, troubles
from toto.jobs.terminal_plot import PLOT_COLUMNS, plot
from toto.runtime import checkpoint_record
from toto.train.schedule import WarmupCosine

RESULTS = {"Pretrain": "pretrain", "Finetune": "finetune"}
"""The kinds of run that have a state, and the result that each ends with."""
RECENT_LINES = 20
SLOW_DATA = 0.1
"""Share of the time spent waiting for data that is worth a word."""
SILENT_S, SILENT_LINES = 120.0, 20
"""A run is silent when it has not logged for so long, and for so many lines' usual time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """One that stands under its final name."""

    step: int
    bytes: int
    state: Literal["complete", "verified", "damaged"]
    """`complete`: all files are there in the size that was written. `verified`: their SHA-256 are
    those that were written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Accuracies of a fine-tuning, in [0, 1].

    Attributes:
        selection: the newest of the selection split, with its step.
        best: the highest of the selection split, with its step.
        test: of the test split, which is read once, at the end; None before.
        chance: of guessing among balanced classes.
    """

    selection: Point
    best: Point
    test: float | None
    chance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """Where a run stands. Numbers are None where the run has not logged them.

    Attributes:
        run: its folder.
        state: `dead` is a run that no process holds and that did not save where it ended.
        why: what the state is known from.
        step: of the last line.
        steps: of the whole run.
        left_s: expected time to the end, at the recent speed.
        recent: of the newest lines: tokens_per_s, mfu, loading_share, grad_norm, memory_bytes.
        loss: median of the newest training losses.
        validation_loss: the newest of a pre-training, with its step.
        score: of a fine-tuning.
        forecast: of the training loss at the last step.
        counts: steps that were skipped, spikes, not finite, and rewinds.
        troubles: what is not well, in words.
        checkpoints: the newest first.
        set_aside: checkpoints that no longer count: damaged, or undone by a rewind.
        curve: training losses, smoothed.
    """

    run: str
    state: Literal["new", "running", "stopped", "dead", "finished"]
    why: str
    step: int
    steps: int
    left_s: float | None
    recent: dict[str, float | None]
    loss: float | None
    validation_loss: Point | None
    score: Score | None
    forecast: Forecast | None
    counts: dict[str, int]
    troubles: list[str]
    checkpoints: list[Checkpoint]
    set_aside: list[str]
    curve: list[Point]


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Where a run stands, how fast it goes, whether its curve looks well, and what it scores."""

    run_folder: Path
    """Of the run, or one that has it as `pretrain`."""
    verify: bool = False
    """Read every checkpoint and compare its hashes."""
    json: bool = False
    """Print one JSON object in place of text."""

    def run(self) -> RunStatus:
        """Read the run's files.

        Raises:
            ValueError: if the folder is no pre-training or fine-tuning that has begun.
        """
        folder = self.run_folder
        if not (folder / "config.json").is_file() and (folder / "pretrain/config.json").is_file():
            folder = folder / "pretrain"
        saved = _saved(folder)
        kind, schedule = saved["kind"], _schedule(folder, saved)
        lines = _lines(folder / "metrics.jsonl")
        logged = [line for line in lines if "loss" in line]
        points = [(n["step"], n["loss"]) for n in logged if n["loss"] is not None]
        validation = [(n["step"], n["validation_loss"]) for n in lines if "validation_loss" in n]
        step = max((line["step"] for line in lines), default=0)
        checkpoints = list(_checkpoints(folder / "checkpoints", verify=self.verify))
        seconds_a_step = _seconds_a_step(logged)
        result = folder / "results" / f"{RESULTS[kind]}.json"
        state, why = _state(folder, result, step, checkpoints, logged, seconds_a_step)
        counts = {
            name: int((logged[-1].get(name) or 0) if logged else 0)
            for name in ("skipped", "spikes", "nonfinite")
        }
        counts["rewinds"] = _rewinds(folder)
        recent = _recent(logged)
        left = schedule.steps - step
        return RunStatus(
            run=str(folder),
            state=state,
            why=why,
            step=step,
            steps=schedule.steps,
            left_s=left * seconds_a_step if seconds_a_step and state == "running" else None,
            recent=recent,
            loss=median(loss for _, loss in points[-RECENT_LINES:]) if points else None,
            validation_loss=validation[-1] if validation else None,
            score=_score(lines, result, saved["config"]) if kind == "Finetune" else None,
            forecast=None if state == "finished" else forecast(points, schedule),
            counts=counts,
            troubles=[
                *_incidents(counts, recent, " (incidents.jsonl)" if kind == "Pretrain" else ""),
                *troubles(points, validation, schedule),
            ],
            checkpoints=checkpoints,
            set_aside=sorted(
                path.name
                for what in ("damaged", "rewound")
                for path in (folder / "checkpoints").glob(f"step-*.{what}*")
            ),
            curve=smoothed(points, 2 * PLOT_COLUMNS) if points else [],
        )


def as_json(status: RunStatus) -> str:
    """One JSON object."""
    return json.dumps(asdict(status), indent=1)


def as_text(status: RunStatus) -> list[str]:
    """Lines for a terminal."""
    share = status.step / status.steps
    done = round(24 * share)
    lines = [
        f"{status.run}: {status.state.upper()}, {status.why}",
        "",
        f"step         {status.step:,} of {status.steps:,}  {'█' * done}{'░' * (24 - done)}  "
        f"{100 * share:.0f} %{_ending(status)}",
    ]
    if speed := ", ".join(_speed(status.recent)):
        lines.append(f"speed        {speed}")
    if status.loss is not None:
        held_out = status.validation_loss
        beside = f", held out {held_out[1]:.4g} at step {held_out[0]:,}" if held_out else ""
        lines.append(f"loss         {status.loss:.4g}{beside}")
        if status.forecast:
            expected = status.forecast
            lines.append(
                f"forecast     {expected.loss:.4g} ± {expected.spread:.2g} at step "
                f"{status.steps:,}, from {expected.points:,} lines; ± is how far it moves without "
                "the newest 10 to 40 %"
            )
        elif status.state != "finished":
            lines.append("forecast     too early to tell")
    if status.score:
        lines.append(f"accuracy     {', '.join(_accuracies(status.score))}")
    if len(status.curve) > 1:
        lines += ["", *plot(status.curve, status.steps), ""]
    if status.troubles:
        lines += [f"health       {trouble}" for trouble in status.troubles]
    elif status.loss is not None:
        lines.append("health       well: no spike, nothing skipped, nothing not finite")
    lines += [
        f"checkpoint   step {there.step:,}, {there.bytes / 1e6:,.1f} MB, {there.state}"
        for there in status.checkpoints
    ] or ["checkpoint   none yet"]
    lines += [f"set aside    {name}" for name in status.set_aside]
    return lines


def _speed(recent: dict[str, float | None]) -> Iterator[str]:
    for name, unit, form in (
        ("tokens_per_s", 1, "{:,.0f} tokens/s"),
        ("mfu", 0.01, "MFU {:.0f} %"),
        ("loading_share", 0.01, "{:.1f} % waiting for data"),
        ("memory_bytes", 1e9, "{:.1f} GB"),
    ):
        value = recent[name]
        if value is not None:
            yield form.format(value / unit)


def _accuracies(score: Score) -> Iterator[str]:
    (step, newest), (best_step, best) = score.selection, score.best
    better = f", {100 * best:.1f} % at best, step {best_step:,}" if best > newest else ""
    yield f"selection {100 * newest:.1f} % at step {step:,}{better}"
    if score.test is not None:
        yield f"test {100 * score.test:.1f} %"
    yield f"chance {100 * score.chance:.1f} %"


def _ending(status: RunStatus) -> str:
    if status.left_s is None:
        return ""
    at = time.strftime("%a %H:%M", time.localtime(time.time() + status.left_s))
    return f", {_duration(status.left_s)} to go ({at})"


def _duration(seconds: float) -> str:
    for unit, length_s in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _saved(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} is not a run folder (no config.json); give a folder that "
            "`toto pretrain --out` or `toto finetune --out` made"
        )
    saved = json.loads(file.read_text())
    if saved["kind"] not in RESULTS:
        raise ValueError(
            f"{folder} is a run of {saved['kind']}; give one of `toto pretrain` or `toto finetune`"
        )
    return saved


def _schedule(folder: Path, saved: dict[str, Any]) -> WarmupCosine:
    config = saved["config"]
    if saved["kind"] == "Pretrain":
        return WarmupCosine(peak=config["lr"], warmup=config["warmup"], steps=config["steps"])
    # Its config counts epochs: the steps follow from the clips.
    file = folder / "results" / "schedule.json"
    if not file.is_file():
        raise ValueError(f"{folder} has not begun (no {file.name}); give its command again")
    return WarmupCosine(**json.loads(file.read_text()))


def _score(lines: Sequence[dict[str, Any]], result: Path, config: dict[str, Any]) -> Score | None:
    name = "selection_accuracy"
    found = [(line["step"], line[name]) for line in lines if name in line]
    if not found:
        return None
    return Score(
        selection=found[-1],
        best=max(found, key=lambda point: point[1]),
        test=json.loads(result.read_text())["test_accuracy"] if result.is_file() else None,
        chance=1 / config["task"]["classes"],
    )


def _lines(file: Path) -> list[dict[str, Any]]:
    """All whole lines; the last may be in writing."""
    text = file.read_bytes() if file.exists() else b""
    return [json.loads(line) for line in text.split(b"\n")[:-1]]


def _rewinds(folder: Path) -> int:
    file = folder / "results" / "rewinds.json"
    return len(json.loads(file.read_text())["rewinds"]) if file.is_file() else 0


def _checkpoints(folder: Path, *, verify: bool) -> Iterator[Checkpoint]:
    for step, path in checkpoint_record.steps(folder):
        state: Literal["complete", "verified", "damaged"]
        try:
            if verify:
                checkpoint_record.verify(path)
                state = "verified"
            else:
                sizes = json.loads((path / checkpoint_record.RECORD).read_bytes())["bytes"]
                whole = all((path / file).stat().st_size == size for file, size in sizes.items())
                state = "complete" if whole else "damaged"
        except (ValueError, KeyError, OSError):
            state = "damaged"
        yield Checkpoint(
            step=step, bytes=sum(file.stat().st_size for file in path.glob("*")), state=state
        )


def _seconds_a_step(logged: Sequence[dict[str, Any]]) -> float | None:
    """Mean over the newest lines of one process; its clock begins anew at each start."""
    newest = list(logged[-RECENT_LINES:])
    for last, (one, two) in enumerate(pairwise(newest), start=1):
        if two["time_s"] < one["time_s"]:
            newest = newest[last:]
            return _seconds_a_step(newest)
    if len(newest) < 2:
        return None
    steps = newest[-1]["step"] - newest[0]["step"]
    return (newest[-1]["time_s"] - newest[0]["time_s"]) / steps if steps > 0 else None


def _recent(logged: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in ("tokens_per_s", "mfu", "loading_share", "grad_norm", "memory_bytes"):
        values = [line[name] for line in logged[-RECENT_LINES:] if line.get(name) is not None]
        found[name] = fmean(values) if values else None
    return found


def _incidents(
    counts: dict[str, int], recent: dict[str, float | None], where: str
) -> Iterator[str]:
    if counts["nonfinite"]:
        yield f"{counts['nonfinite']:,} steps were not finite and passed over{where}"
    if counts["spikes"]:
        passed = counts["skipped"] - counts["nonfinite"]
        yield f"{counts['spikes']:,} spikes, {passed:,} of them passed over{where}"
    if counts["rewinds"]:
        yield f"{counts['rewinds']:,} rewinds that left batches out (results/rewinds.json)"
    waiting = recent["loading_share"]
    if waiting is not None and waiting > SLOW_DATA:
        yield f"{100 * waiting:.0f} % of the time goes into waiting for data"


def _state(
    folder: Path,
    result: Path,
    step: int,
    checkpoints: Sequence[Checkpoint],
    logged: Sequence[dict[str, Any]],
    seconds_a_step: float | None,
) -> tuple[Literal["new", "running", "stopped", "dead", "finished"], str]:
    if result.is_file():
        return "finished", "its result is written"
    metrics = folder / "metrics.jsonl"
    silent_s = time.time() - metrics.stat().st_mtime if metrics.exists() else 0.0
    holder = _holder(folder / ".lock")
    if holder:
        every = logged[-1]["step"] - logged[-2]["step"] if len(logged) > 1 else 0
        usual_s = (seconds_a_step or 0.0) * every
        silent = silent_s > max(SILENT_S, SILENT_LINES * usual_s)
        word = f", silent for {_duration(silent_s)}" if silent else ""
        return "running", f"{holder}{word}"
    if not logged and not checkpoints:
        return "new", "nothing was logged"
    newest = max((there.step for there in checkpoints), default=0)
    ended = f"nobody writes it, the last line is {_duration(silent_s)} old"
    if newest >= step:
        return "stopped", f"{ended}; the same command goes on from step {newest:,}"
    stacks = sorted((folder / "stacks").glob("rank-*.txt"))
    hung = f"; it hung, see {stacks[0]}" if stacks else ""
    return "dead", (
        f"{ended}{hung}; the same command goes on from step {newest:,}, "
        f"{step - newest:,} before the last line"
    )


def _holder(lock: Path) -> str:
    """Who holds the lock, as the holder wrote it; empty if nobody does."""
    if not lock.exists():
        return ""
    descriptor = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 1000).decode() or "another process"
    else:
        return ""
    finally:
        os.close(descriptor)
