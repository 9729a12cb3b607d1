"""What a pre-training run does about steps that went wrong: it writes them down, and may go back.

`incidents.jsonl` in the run folder has a line for each, with the clips of its batch. A rewind is a
resume from an earlier checkpoint with a note of what to leave out, `results/rewinds.json`; it is
written before anything is taken again, so that a run that dies in between goes on the same way.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from toto.data.loader import Loader
from toto.jobs.progress import console
from toto.runtime import checkpoint_record, durable
from toto.runtime.devices import Ranks
from toto.runtime.folder import RunFolder
from toto.train.health import Incident, Judge

INCIDENTS = "incidents.jsonl"
REWINDS = "rewinds"


class RewindError(Exception):
    """The run is to begin anew from its newest checkpoint, which is now an earlier one."""


class Incidents:
    """The steps of a run that went wrong; the first rank writes them down.

    Args:
        folder: of the run.
        loader: of the run's batches.
        sources: their names, as the mixture has them.
        batch: sequences a step, over all ranks.
        ranks: that train together.
    """

    def __init__(
        self, folder: RunFolder, loader: Loader, sources: list[str], batch: int, ranks: Ranks
    ) -> None:
        self._folder, self._loader, self._sources = folder, loader, sources
        self._batch, self._ranks = batch, ranks

    def passed_over(self) -> list[tuple[int, int]]:
        """First and last step of each stretch that the run's rewinds left out."""
        return [(first, last) for first, last in (r["passed_over"] for r in self._rewinds())]

    def rewind(self, step: int) -> None:
        """Drop the lines of later steps: they will be taken again."""
        lines = [line for line in self._lines() if line["step"] <= step]
        if lines or self._file.exists():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            durable.write_bytes(self._file, text.encode())

    def note(self, judge: Judge) -> None:
        """Write down what went wrong at the step judged last, if anything, and see to it.

        Every rank must call this.

        Raises:
            ValueError: if the run must end.
            RewindError: if it must go back; its later checkpoints are set aside by then.
        """
        incident, stretch = judge.incident, judge.rewind
        if incident is None:
            return
        if self._ranks.rank == 0:
            line = {**dataclasses.asdict(incident), "batch": self._clips(incident.step)}
            durable.append(self._file, (json.dumps(_plain(line)) + "\n").encode())
            console.print(_sentence(incident), markup=False, soft_wrap=True)
        if judge.complaint:
            raise ValueError(judge.complaint)
        if stretch is not None:
            if self._ranks.rank == 0:
                self._go_back(incident.step, stretch)
            self._ranks.barrier()
            raise RewindError

    @property
    def _file(self) -> Path:
        return self._folder.path / INCIDENTS

    def _lines(self) -> list[dict[str, Any]]:
        """All whole lines; what a crash left of the last one is passed over."""
        text = self._file.read_bytes() if self._file.exists() else b""
        return [json.loads(line) for line in text.split(b"\n")[:-1]]

    def _rewinds(self) -> list[dict[str, Any]]:
        return self._folder.result(REWINDS)["rewinds"] if self._folder.has_result(REWINDS) else []

    def _clips(self, step: int) -> dict[str, list[list[Any]]]:
        """Clips and first frames of a step's batch over all ranks, by source."""
        named: dict[str, list[list[Any]]] = {}
        places = self._loader.order.step(step - 1, batch=self._batch)
        for source, clips, starts in self._loader.cuts(places):
            records = self._loader.shards[source].clips
            named.setdefault(self._sources[source], []).extend(
                [clip, records[clip].name, start] for clip, start in zip(clips, starts, strict=True)
            )
        return named

    def _go_back(self, step: int, stretch: tuple[int, int]) -> None:
        first, last = stretch
        # The newest is renamed first: a run that dies here resumes from before what it meets again.
        there = checkpoint_record.steps(self._folder.checkpoints)
        later = [path for saved, path in there if saved >= first]
        for path in later:
            durable.crash_point("rewind.before_rename")
            durable.rename(path, checkpoint_record.name_undone(path))
        incidents = [line for line in self._lines() if first <= line["step"] <= last]
        rewind = {"at_step": step, "passed_over": [first, last], "incidents": incidents}
        durable.crash_point("rewind.before_record")
        self._folder.write_result(REWINDS, {"rewinds": [*self._rewinds(), rewind]})
        durable.crash_point("rewind.after_record")
        console.print(
            f"going back: steps {first} to {last} will be passed over, {len(later)} later "
            "checkpoints are set aside",
            markup=False,
            soft_wrap=True,
        )


def _sentence(incident: Incident) -> str:
    what = "not finite" if incident.what == "nonfinite" else f"{incident.deviations:.0f} deviations"
    done = "taken" if incident.taken else "passed over"
    return (
        f"step {incident.step}: loss {incident.loss:.4g}, gradient {incident.grad_norm:.4g} "
        f"({what}); {done}, clips in {INCIDENTS}"
    )


def _plain(line: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it, which knows neither NaN nor infinity: these become words."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in line.items()
    }
