"""`toto demo`: the whole path, from videos to a report, at a size that a laptop does in minutes."""

import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from toto.jobs.generate import Generate
from toto.jobs.ingest import Ingest
from toto.jobs.pretrain import Pretrain
from toto.jobs.probe import Probe
from toto.jobs.progress import console
from toto.jobs.report import WriteReport
from toto.jobs.tokenize import Tokenize
from toto.jobs.tokenizer_check import TokenizerCheck
from toto.jobs.track import Track
from toto.runtime import durable
from toto.runtime.devices import measure
from toto.runtime.folder import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """Ingest, check the tokenizer, tokenise, pre-train, probe, track, generate, report.

    Each stage is the job of the same name; its paths are set to the demo's folder.
    """

    ingest: Ingest
    tokenizer: TokenizerCheck
    tokenize: Tokenize
    pretrain: Pretrain
    probe: Probe
    track: Track
    generate: Generate

    def run(self, out: Path) -> Path:
        """Run every stage that has not finished in `out`; returns the report's path.

        Raises:
            ValueError: if the folder holds a demo of another config, or a stage refuses its input.
        """
        # Before the run folder: a mistyped --videos must leave nothing behind.
        next(self.ingest.dataset.entries(), None)
        with RunFolder.create(out, self, tensorboard=False):
            for name, stage in self._stages(out).items():
                if _finished(out / name, name):
                    console.print(f"{RESULTS[name]:<12} done before", style="dim")
                    continue
                with measure() as cost:
                    children = _children_cpu_s()
                    stage(out / name)
                line = {
                    "stage": RESULTS[name],
                    "wall_s": cost.wall_s,
                    "cpu_s": cost.cpu_s + _children_cpu_s() - children,
                    "peak_memory_bytes": cost.peak_bytes,
                    "finished_unix_s": time.time(),
                }
                durable.append(out / "stages.jsonl", (json.dumps(line) + "\n").encode())
                console.print(
                    f"{RESULTS[name]:<12} {cost.wall_s:6.1f} s, "
                    f"at most {cost.peak_bytes / 1e9:.1f} GB of memory",
                    style="dim",
                )
            return WriteReport().run(out)

    def _stages(self, out: Path) -> dict[str, Callable[[Path], object]]:
        """Tie each stage to the outcome of those before it."""
        data, shards, run = out / "data", out / "shards", out / "pretrain"
        check = replace(self.tokenizer, data=data)
        return {
            "data": self.ingest.run,
            "tokenizer": check.run,
            "shards": replace(self.tokenize, data=(data,)).run,
            "pretrain": replace(self.pretrain, shards=str(shards)).run,
            "probe": replace(self.probe, run_folder=run, shards=str(shards / "moving-digits")).run,
            "track": replace(self.track, run_folder=run, data=data).run,
            "generate": replace(self.generate, run_folder=run, data=data).run,
        }


RESULTS = {
    "data": "ingest",
    "tokenizer": "tokenizer",
    "shards": "tokenize",
    "pretrain": "pretrain",
    "probe": "probe",
    "track": "track",
    "generate": "generate",
}
"""Stage folder to the result that says it has finished."""


def _finished(folder: Path, name: str) -> bool:
    return (folder / "results" / f"{RESULTS[name]}.json").is_file()


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
