"""`toto ingest`: check every file of a data set once, in isolation; write down what is usable."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toto.config import from_dict, to_dict
from toto.jobs.progress import Bar, bar
from toto.jobs.workers import Died, over_processes
from toto.runtime.durable import make_folder, write_new
from toto.runtime.folder import RunFolder
from toto.video.collection import MANIFEST, CollectionConfig
from toto.video.datasets import DATASETS, AnyDataset, SampleClips
from toto.video.decode import Decoder
from toto.video.entry import Dataset, Entry
from toto.video.ingest import by_file, held_out, images_apart, long_enough, rows_of_file
from toto.video.manifest import Row, read_manifest, write_manifest

VIDEOS_A_TASK, IMAGES_A_TASK = 4, 256
"""Files that one worker checks before it hands in their rows; a killed ingest repeats no more."""
LISTED = 1000
"""Lost and damaged clips that the result names; the manifest has them all."""
PARTS = "parts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """How the work is shared out; nothing that is written depends on it."""

    workers: int = 0
    """Worker processes; 0 takes one a core."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers {self.workers} must be at least 0")

    @property
    def count(self) -> int:
        """Worker processes to start."""
        return self.workers or len(os.sched_getaffinity(0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingest:
    """Decode each file of a data set once; list the good, the damaged and the lost."""

    dataset: AnyDataset = field(default_factory=SampleClips)
    """Which files, and what their data set says of them."""
    collection: CollectionConfig = field(default_factory=CollectionConfig)

    def run(self, out: Path, workers: Workers | None = None) -> dict[str, Any]:
        """Write the manifest into `out`, one row a clip; what was checked is not checked again.

        Raises:
            ValueError: if the data set is not laid out as its reader expects, or no file gives a
                clip.
        """
        dataset = _located(self.dataset)
        # Before the run folder: a mistyped path must leave nothing behind.
        first = next(dataset.entries(), None)
        if first is None:
            raise ValueError(f"{dataset.root}: {type(dataset).__name__} lists no clip there")
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("ingest"):
                return folder.result("ingest")
            rows = self._cut(self._checked(dataset, out / PARTS, workers or Workers()))
            if not any(row.status == "ok" for row in rows):
                raise ValueError(self._none_usable(dataset, rows))
            write_manifest(out / MANIFEST, rows)
            result = self._summary(dataset, rows)
            folder.write_result("ingest", result)
            shutil.rmtree(out / PARTS)
            return result

    def _checked(self, dataset: Dataset, parts: Path, workers: Workers) -> Iterator[Row]:
        """Check all files, over worker processes; give the rows in the order of the entries."""
        tasks = _list_tasks(dataset, parts)
        todo = [task for task in tasks if not Path(task.part).exists()]
        files = sum(task.files for task in tasks)
        done = files - sum(task.files for task in todo)
        stage = _Check(root=str(dataset.root), source=dataset.name)
        counts: Counter[str] = Counter()
        with bar("ingest", files, done=done) as progress:
            count = min(workers.count, max(1, len(todo)))
            with closing(over_processes(stage, todo, workers=count)) as outcomes:
                for number, outcome in outcomes:
                    if isinstance(outcome, Died):
                        part = todo[number].part
                        raise RuntimeError(f"a worker died twice over {part}: {outcome.reason}")
                    counts.update(outcome)
                    _show(progress, todo[number].files, counts)
        for task in tasks:
            yield from read_manifest(Path(task.part))

    def _cut(self, rows: Iterator[Row]) -> list[Row]:
        """Refuse clips that are too short, and hold out the ends of the others."""
        config, found = self.collection, []
        for checked in rows:
            row = long_enough(checked, config.frames_needed)
            if not config.held_out_share or row.split != "train" or row.kind != "video":
                found.append(row)
            elif row.status == "ok":
                found += held_out(row, config.held_out_share, config.stride, config.frames)
            else:
                found.append(replace(row, split="pretrain"))
        return images_apart(found)

    def _none_usable(self, dataset: Dataset, rows: Sequence[Row]) -> str:
        short = max((row.frames for row in rows), default=0)
        if short:
            needed = self.collection.frames_needed
            return (
                f"{dataset.root}: no video gives a clip of {self.collection.frames} frames at "
                f"stride {self.collection.stride}, which needs {needed} frames (the longest has "
                f"{short}); choose a smaller --collection.stride (in the demo "
                "--ingest.collection.stride)"
            )
        first = rows[0]
        return (
            f"{dataset.root}: none of {len(rows)} clips can be used; the first, {first.path}: "
            f"{first.reason}; point to the folder of {dataset.name}"
        )

    def _summary(self, dataset: Dataset, rows: Sequence[Row]) -> dict[str, Any]:
        good = [row for row in rows if row.status == "ok"]
        lost = [row for row in rows if row.status != "ok"]
        damaged = [row for row in good if row.reason]
        sources = [
            {
                "name": name,
                "clips": sum(row.status == "ok" for row in members),
                "lost": sum(row.status != "ok" for row in members),
                "frames": sum(row.frames for row in members if row.status == "ok"),
                "duration_s": sum(row.duration_s for row in members if row.status == "ok"),
            }
            for name, members in sorted(_by_set(rows).items())
        ]
        counts = self.collection.digit_clips
        for split, made in to_dict(counts).items():
            if made:
                frames = made * self.collection.frames
                sources.append(
                    {
                        "name": f"moving-digits/{split}",
                        "clips": made,
                        "lost": 0,
                        "frames": frames,
                        "duration_s": frames / self.collection.digits.fps,
                    }
                )
        return {
            "reader": next(name for name, cls in DATASETS.items() if type(dataset) is cls),
            "dataset": to_dict(dataset),
            "collection": to_dict(self.collection),
            "sources": sources,
            "losses": dict(sorted(Counter(f"{row.status} ({row.stage})" for row in lost).items())),
            "lost": [
                {"path": row.path, "status": row.status, "stage": row.stage, "reason": row.reason}
                for row in lost[:LISTED]
            ],
            "damaged": [{"path": row.path, "reason": row.reason} for row in damaged[:LISTED]],
            "damaged_clips": len(damaged),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """Some files to check: their entries lie in a file, since there may be millions."""

    entries: str
    part: str
    """Where the rows go; there once the task is done."""
    files: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Check:
    """What a worker does: decode files, write their rows."""

    root: str
    source: str

    @contextmanager
    def open(self) -> Iterator[Callable[[_Task], Counter[str]]]:
        """Start a decoder."""
        with Decoder() as decoder:
            yield lambda task: self._do(decoder, task)

    def _do(self, decoder: Decoder, task: _Task) -> Counter[str]:
        rows: list[Row] = []
        for file in json.loads(Path(task.entries).read_bytes()):
            entries = [from_dict(Entry, entry) for entry in file]
            rows += rows_of_file(decoder, Path(self.root), self.source, entries)
        write_manifest(Path(task.part), rows)
        return Counter(
            "damaged" if row.status == "ok" and row.reason else row.status for row in rows
        )


def _list_tasks(dataset: Dataset, parts: Path) -> list[_Task]:
    """Write down which files each task checks; what was checked of other entries is void."""
    make_folder(parts)
    tasks = []
    for number, files in enumerate(_batches(by_file(dataset.entries()))):
        listed, part = (parts / f"{number:06d}.{kind}" for kind in ("json", "parquet"))
        text = json.dumps(to_dict(files)).encode()
        if not listed.exists() or listed.read_bytes() != text:
            part.unlink(missing_ok=True)
            listed.unlink(missing_ok=True)
            write_new(listed, text)
        tasks.append(_Task(entries=str(listed), part=str(part), files=len(files)))
    return tasks


def _by_set(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Share rows out to the token sets that their clips will be in."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"{row.source}/{row.split}", []).append(row)
    return found


def _show(progress: Bar, files: int, counts: Counter[str]) -> None:
    lost = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()) if count)
    progress.advance(files, note=lost)


def _batches(files: Iterator[list[Entry]]) -> Iterator[list[list[Entry]]]:
    batch, share = [], 0.0
    for entries in files:
        batch.append(entries)
        share += 1 / (IMAGES_A_TASK if entries[0].kind == "image" else VIDEOS_A_TASK)
        if share >= 1:
            yield batch
            batch, share = [], 0.0
    if batch:
        yield batch


def _located(dataset: AnyDataset) -> AnyDataset:
    """The data set with its folder's full path: later stages may run from another folder."""
    if isinstance(dataset, SampleClips):
        return dataset
    return replace(dataset, root=dataset.root.resolve())
