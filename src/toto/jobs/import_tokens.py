"""`toto data import`: token files that others publish become token sets.

They can be trained on and compared with. They cannot be decoded, drawn or made anew: the tokenizer
is not ours, and `tokenizer/foreign.json` stands in its place to say so.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from toto.config import to_dict
from toto.data.foreign import FORMATS, ForeignClip, ForeignFormat, RefusedRecord
from toto.data.shards import ClipRecord, write_shard
from toto.data.token_set import shard_name, write_index
from toto.jobs.progress import Bar, bar
from toto.runtime import durable
from toto.runtime.folder import RunFolder
from toto.types import TokenGrid

PARTS = "parts"
"""One JSON a file that is done; a killed import begins again with the first file without one."""
PLAN = "files.json"
LISTED = 100
"""Refused records of a file that its row names; all are counted."""
TRAINING, HELD_OUT = "pretrain", "held-out"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportTokens:
    """Turn token files into shards, as `OUT/FORMAT/pretrain` and `OUT/FORMAT/held-out`."""

    format: Positional[str]
    """commavq (archives or arrays) or lvm (lines of JSON)."""
    root: Positional[Path]
    """One file, or the folder they lie in."""
    held_out: tuple[str, ...] = ()
    """Files that are not to be trained on, named from the root, such as data-0040.tar.gz."""
    shard_frames: int = 65536
    """Frames of a shard, unless one record alone has more: 17 MB of commaVQ, 34 MB of LVM."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(
                f"no token format {self.format!r}; `toto data import` reads: {', '.join(FORMATS)}"
            )
        if self.shard_frames < 1:
            raise ValueError(f"shard_frames {self.shard_frames} must be at least 1")

    def run(self, out: Path) -> dict[str, Any]:
        """Write the token sets into `out`; files that are done are kept.

        Raises:
            FileNotFoundError: if there is no root.
            ValueError: if no file gives a token, `held_out` names a file that is not there, or the
                files are not those that an earlier call began with.
        """
        kind = FORMATS[self.format]
        files = kind.files(self.root)
        unknown = sorted({*self.held_out} - {name for _, name in files})
        if unknown:
            raise ValueError(f"{self.root} has no {unknown[0]}, which --held-out names")
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("import"):
                return folder.result("import")
            _require_plan(out / PLAN, files)
            _describe(kind, out / "tokenizer")
            rows = list(self._rows(out, kind, files))
            splits = sorted({row["split"] for row in rows if row["shards"]})
            if not splits:
                raise ValueError(
                    f"{self.root}: no file gives a token; the first, {rows[0]['path']}: "
                    f"{rows[0]['reason']}"
                )
            for split in splits:
                write_index(out / kind.name / split)
            result = _summary(kind, rows)
            folder.write_result("import", result)
            return result

    def _rows(
        self, out: Path, kind: ForeignFormat, files: list[tuple[Path, str]]
    ) -> Iterator[dict[str, Any]]:
        """Import file after file; give a row for each, as it was written when it was done."""
        durable.make_folder(out / PARTS)
        shards = {TRAINING: 0, HELD_OUT: 0}
        with bar("import", len(files)) as progress:
            for number, (path, name) in enumerate(files):
                split = HELD_OUT if name in self.held_out else TRAINING
                part = out / PARTS / f"{number:06d}.json"
                if not part.exists():
                    target = out / kind.name / split
                    # What a killed import has left; the lock says that nobody else writes here.
                    for left in target.glob(".*.tmp-*"):
                        shutil.rmtree(left)
                    row = self._import(kind, path, name, target, shards[split], progress)
                    durable.write_json(part, {**row, "split": split})
                row = json.loads(part.read_bytes())
                shards[split] += row["shards"]
                progress.advance()
                yield row

    def _import(
        self, kind: ForeignFormat, path: Path, name: str, target: Path, first: int, progress: Bar
    ) -> dict[str, Any]:
        """Write the shards of one file, from number `first` on."""
        refused: list[RefusedRecord] = []
        counts = {"records": 0, "frames": 0, "refused_records": 0, "shards": 0}

        def good() -> Iterator[ForeignClip]:
            for record in kind.records(path, name):
                if isinstance(record, ForeignClip):
                    yield record
                    continue
                counts["refused_records"] += 1
                if len(refused) < LISTED:
                    refused.append(record)

        for clips in _parts(good(), self.shard_frames):
            folder = target / shard_name(first + counts["shards"])
            if not folder.exists():
                described = ((clip.grid, _record(kind, name, clip)) for clip in clips)
                write_shard(folder, kind.description(), described)
            counts["shards"] += 1
            counts["records"] += len(clips)
            counts["frames"] += sum(_frames(clip.grid) for clip in clips)
            progress.advance(0, note=f"{name}: {counts['records']:,} records")
        reason = None
        if refused:
            reason = f"{counts['refused_records']} refused: {refused[0].source}: "
            reason += refused[0].reason
        elif not counts["records"]:
            reason = "it is empty"
        return {
            "path": name,
            "sha256": durable.sha256_file(path),
            "file_bytes": path.stat().st_size,
            "status": "ok" if counts["records"] else "refused",
            "reason": reason,
            **counts,
            "refused": [to_dict(record) for record in refused],
        }


def _parts(clips: Iterable[ForeignClip], shard_frames: int) -> Iterator[list[ForeignClip]]:
    part, frames = [], 0
    for clip in clips:
        more = _frames(clip.grid)
        if part and frames + more > shard_frames:
            yield part
            part, frames = [], 0
        part.append(clip)
        frames += more
    if part:
        yield part


def _record(kind: ForeignFormat, name: str, clip: ForeignClip) -> ClipRecord:
    frames = _frames(clip.grid)
    return ClipRecord(
        source=kind.name,
        path=name,
        clip=clip.source,
        source_sha256=clip.sha256,
        frame_indices=tuple(range(frames)),
        # Where no rate is known the times count frames, as the shard's description says.
        times_s=tuple(index / (kind.fps or 1.0) for index in range(frames)),
        side_px=min(kind.description().frame_px),
        crop=(0.5, 0.5),
    )


def _frames(grid: TokenGrid) -> int:
    return len(grid.ids)


def _require_plan(path: Path, files: list[tuple[Path, str]]) -> None:
    """Write down which files there are; refuse others when an import goes on."""
    plan = [[name, file.stat().st_size] for file, name in files]
    if not path.exists():
        durable.write_json(path, plan)
    begun = json.loads(path.read_bytes())
    if begun != plan:
        changed = next(
            entry for entry in [*begun, *plan] if entry not in begun or entry not in plan
        )
        raise ValueError(
            f"{changed[0]} has come, gone or changed since {path.parent} was begun; import into "
            "another --out"
        )


def _describe(kind: ForeignFormat, folder: Path) -> None:
    """Say beside the shards which tokenizer made them, where a tokenizer of ours would lie."""
    durable.make_folder(folder)
    durable.write_json(
        folder / "foreign.json",
        {"name": kind.name, "origin": kind.origin, "digest": kind.digest},
    )


def _summary(kind: ForeignFormat, rows: list[dict[str, Any]]) -> dict[str, Any]:
    frame_tokens = kind.grid[0] * kind.grid[1]
    sources = []
    for split in sorted({row["split"] for row in rows}):
        of_split = [row for row in rows if row["split"] == split]
        totals = {
            name: sum(row[name] for row in of_split)
            for name in ("records", "refused_records", "frames", "shards")
        }
        sources.append(
            {
                "name": f"{kind.name}/{split}",
                "files": len(of_split),
                **totals,
                "tokens": totals["frames"] * frame_tokens,
            }
        )
    return {
        "format": kind.name,
        "origin": kind.origin,
        "vocab_size": kind.vocab_size,
        "grid": list(kind.grid),
        "sources": sources,
        "files": rows,
    }
