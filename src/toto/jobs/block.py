"""`toto data block`: make a block list of evaluation sets, for `toto tokenize --block`."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from toto.jobs.progress import bar
from toto.video.block_list import Blocked, BlockList, blocked_names, blocked_rows
from toto.video.collection import MANIFEST, TRAINING_SPLITS
from toto.video.manifest import Row, read_manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """List what training must not see, by id, by file and by what it looks like."""

    data: Positional[tuple[Path, ...]] = ()
    """Folders that `toto ingest` wrote of evaluation sets."""
    splits: tuple[str, ...] = ()
    """Which of their splits are evaluated on; empty takes all but train, pretrain and held-out."""
    ids: tuple[Path, ...] = ()
    """Text files of clip names or YouTube ids, one a line, for sets whose media are not here."""

    def __post_init__(self) -> None:
        if not self.data and not self.ids:
            raise ValueError("nothing to block: give folders of `toto ingest`, or files with --ids")

    def run(self, out: Path) -> dict[str, int]:
        """Write the block list as the file `out`; count what it can be searched by.

        Raises:
            ValueError: if a folder has no manifest or none of the splits, or `out` is a folder.
        """
        if out.is_dir():
            raise ValueError(f"{out} is a folder; name a file such as {out / 'block.parquet'}")
        clips: list[Blocked] = []
        with bar("block", len(self.data) + len(self.ids)) as progress:
            for folder in progress.over(self.data):
                clips += blocked_rows(self._evaluated(folder))
            for path in progress.over(self.ids):
                clips += blocked_names(path)
        BlockList(clips).write(out)
        return {
            "clips": len(clips),
            "files": len({one.sha256 for one in clips if one.sha256}),
            "fingerprints": sum(one.fingerprint is not None for one in clips),
        }

    def _evaluated(self, folder: Path) -> list[Row]:
        path = folder / MANIFEST
        if not path.is_file():
            raise ValueError(f"{folder} has no {MANIFEST}; `toto ingest` writes it")
        rows = read_manifest(path)
        wanted = self.splits or {row.split for row in rows} - TRAINING_SPLITS - {"held-out"}
        found = [row for row in rows if row.split in wanted]
        if not found:
            asked = " or ".join(self.splits) or "to evaluate on"
            there = ", ".join(sorted({row.split for row in rows})) or "no clip"
            raise ValueError(
                f"{folder} has no split {asked}, only {there}; name those to block with --splits"
            )
        return found
