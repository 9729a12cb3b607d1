"""`toto data duplicates`: clips that are there twice, within a data folder or in two."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from toto.jobs.progress import bar
from toto.runtime.durable import write_bytes
from toto.runtime.folder import RunFolder
from toto.video.block_list import overlap
from toto.video.collection import MANIFEST
from toto.video.copies import CROPS, Copy, CopyIndex
from toto.video.fingerprint import WHOLE, Crop
from toto.video.manifest import Row, read_manifest

PRINTED = 100
"""Pairs in the readable table; the JSON has `listed` of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two clips with the same pictures."""

    clip: str
    """Source, split and clip."""
    copy_of: str
    kind: str
    """`exact`: the same bytes. `near`: re-encoded, resized, another brightness. Else `cropped`,
    `flipped` or `flipped, cropped`."""
    likeness: float = 1.0
    frames: int = 0
    """That agree, where frames were compared."""
    crop: Crop = WHOLE
    """What the first shows of the second clip's frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicates:
    """Find exact and near duplicates within and between data folders."""

    data: Positional[tuple[Path, ...]]
    """Folders that `toto ingest` wrote."""
    cropped: bool = True
    """Look for cropped copies too: 3 kB of memory a frame that was fingerprinted instead of 1."""
    listed: int = 10_000
    """Pairs that the JSON names at most, the most alike first; all are counted."""

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("give at least one folder that `toto ingest` wrote")
        if len({folder.resolve() for folder in self.data}) < len(self.data):
            raise ValueError("a data folder is given twice; all its clips would be duplicates")
        if self.listed < 0:
            raise ValueError(f"listed {self.listed} must be at least 0")

    def run(self, out: Path) -> dict[str, Any]:
        """Write `results/duplicates.json`, and the same for people as `duplicates.md`.

        Raises:
            ValueError: if a folder has no manifest.
        """
        for folder in self.data:
            if not (folder / MANIFEST).is_file():
                raise ValueError(f"{folder} has no {MANIFEST}; `toto ingest` writes it")
        with RunFolder.create(out, self, tensorboard=False) as folder:
            # Nothing is kept from an earlier call: manifests may be new.
            rows = [
                (number, row)
                for number, path in enumerate(self.data)
                for row in read_manifest(path / MANIFEST)
            ]
            exact = dict(_exact(rows))
            pairs = [_pair(rows, first, second, None) for first, second in exact.items()]
            pairs += [_pair(rows, *ends, copy) for ends, copy in self._near(rows).items()]
            pairs.sort(key=lambda pair: (pair.kind != "exact", -pair.likeness, pair.clip))
            counts = Counter((_set(pair.clip), _set(pair.copy_of), pair.kind) for pair in pairs)
            result = {
                "clips": len(rows),
                "compared": sum(row.fingerprint is not None for _, row in rows),
                "counts": [
                    {"of": of, "and": other, "kind": kind, "pairs": count}
                    for (of, other, kind), count in sorted(counts.items())
                ],
                "pairs": [asdict(pair) for pair in pairs[: self.listed]],
            }
            folder.write_result("duplicates", result)
            write_bytes(out / "duplicates.md", _page(result).encode())
            return result

    def _near(self, rows: list[tuple[int, Row]]) -> dict[tuple[int, int], Copy]:
        """Pairs of rows that look alike and are not the same bytes, nor parts of one file."""
        crops = CROPS if self.cropped else (WHOLE,)
        index = CopyIndex([row.fingerprint for _, row in rows], crops=crops)
        found: dict[tuple[int, int], Copy] = {}
        with bar("compare", len(rows)) as progress:
            for number, (_, row) in progress.over(enumerate(rows)):
                for copy in index.find(row.fingerprint, beside=number):
                    if row.sha256 == rows[copy.clip][1].sha256:
                        continue
                    # Either may be found in the other; the better fit says which shows less.
                    ends, back = (number, copy.clip), (copy.clip, number)
                    if back not in found:
                        found[ends] = copy
                    elif copy.likeness > found[back].likeness:
                        del found[back]
                        found[ends] = copy
        return found


def _exact(rows: list[tuple[int, Row]]) -> Iterator[tuple[int, int]]:
    """Each row of which an earlier one has the same bytes and frames in common, and that one."""
    seen: dict[str, list[int]] = {}
    for number, (folder, row) in enumerate(rows):
        if row.sha256 is None:
            continue
        earlier = seen.setdefault(row.sha256, [])
        for first in earlier:
            other_folder, other = rows[first]
            # Windows of one file overlap because their data set says so.
            same = (folder, row.path, row.split) == (other_folder, other.path, other.split)
            if not same and overlap(row, other):
                yield number, first
                break
        earlier.append(number)


def _pair(rows: list[tuple[int, Row]], first: int, second: int, copy: Copy | None) -> Pair:
    names = [f"{row.source}/{row.split}/{row.clip}" for _, row in (rows[first], rows[second])]
    if copy is None:
        return Pair(clip=names[0], copy_of=names[1], kind="exact")
    words = [word for word in ("flipped", "cropped") if getattr(copy, word)]
    return Pair(
        clip=names[0],
        copy_of=names[1],
        kind=", ".join(words) or "near",
        likeness=round(copy.likeness, 4),
        frames=copy.frames,
        crop=copy.crop,
    )


def _set(name: str) -> str:
    return "/".join(name.split("/")[:2])


def _page(result: dict[str, Any]) -> str:
    """The counts, and the first pairs, as Markdown."""
    lines = ["# Duplicates", ""]
    lines += [
        f"{result['clips']} clips, {result['compared']} of them compared by their frames.",
        "",
    ]
    if not result["counts"]:
        return "\n".join([*lines, "None found.", ""])
    lines += ["| clips of | and of | copies | pairs |", "|---|---|---|---|"]
    for row in result["counts"]:
        lines.append(f"| {row['of']} | {row['and']} | {row['kind']} | {row['pairs']} |")
    lines += ["", "| clip | copy of | how | likeness | frames |", "|---|---|---|---|---|"]
    for pair in result["pairs"][:PRINTED]:
        names = [pair[name].replace("|", "\\|") for name in ("clip", "copy_of")]
        frames = pair["frames"] or ""
        lines.append(
            f"| {names[0]} | {names[1]} | {pair['kind']} | {pair['likeness']:.2f} | {frames} |"
        )
    more = sum(row["pairs"] for row in result["counts"]) - min(PRINTED, len(result["pairs"]))
    if more > 0:
        lines += ["", f"{more} more; results/duplicates.json names {len(result['pairs'])}."]
    return "\n".join([*lines, ""])
