"""Files that a list names: a text file, a CSV, JSON lines or a Parquet table."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from toto.video.datasets.listing import kind_of, number_at, read_csv, read_lines, require_name
from toto.video.entry import Entry, Kind

COLUMNS = ("path", "clip", "kind", "start_s", "end_s", "label", "split")
DEFAULT_LISTS = ("files.txt", "files.csv", "files.jsonl", "files.parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Clips that a list names, in the order of their first mention; clips of one file together.

    A text file has one path a line. A table has a column `path` and, as far as known, `clip`,
    `kind`, `start_s`, `end_s`, `label` and `split`; other columns are left alone. Paths are below
    `root`, or absolute and below it.
    """

    root: Path
    listing: Path | None = None
    """The list, below `root` or absolute; None takes the one of files.txt, files.csv, files.jsonl
    and files.parquet that is there."""
    name: str = "files"
    """What manifests and shards call these clips."""
    split: str = "train"
    """Of clips whose list does not say."""

    def __post_init__(self) -> None:
        require_name(self.name, "name")
        require_name(self.split, "split")

    def entries(self) -> Iterator[Entry]:
        """Yield the clips of the list, on disk or not.

        Raises:
            ValueError: if there is no list, or a line of it makes no sense; the message names it.
        """
        listing = self._listing()
        by_file: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
        for line, row in _rows(listing):
            by_file.setdefault(self._path(listing, line, row), []).append((line, row))
        if not by_file:
            raise ValueError(f"{listing} names no file")
        clips: dict[str, int] = {}
        for path, rows in by_file.items():
            kind = None
            for line, row in rows:
                kind = self._kind(listing, line, row) or kind or self._found_kind(path)
                entry = self._entry(listing, line, row, path, kind)
                if entry.clip in clips:
                    raise ValueError(
                        f"{listing} line {line}: clip {entry.clip!r} is that of line "
                        f"{clips[entry.clip]} again; remove one, or name both in a column `clip`"
                    )
                clips[entry.clip] = line
                yield entry

    def _listing(self) -> Path:
        if self.listing is not None:
            return self.root / self.listing
        found = [name for name in DEFAULT_LISTS if (self.root / name).is_file()]
        if len(found) != 1:
            raise ValueError(
                f"{self.root} has {' and '.join(found) or 'none of ' + ', '.join(DEFAULT_LISTS)}; "
                "name one list with --dataset.listing"
            )
        return self.root / found[0]

    def _path(self, listing: Path, line: int, row: Mapping[str, Any]) -> str:
        text = _value(row, "path")
        if text is None:
            raise ValueError(f"{listing} line {line} names no path")
        path = PurePosixPath(text)
        if path.is_absolute():
            try:
                path = path.relative_to(self.root.absolute())
            except ValueError as error:
                raise ValueError(
                    f"{listing} line {line}: {text} does not lie below {self.root}; "
                    "choose a root that holds all files"
                ) from error
        if ".." in path.parts or not path.parts or "\0" in text:
            raise ValueError(f"{listing} line {line}: {text!r} is not a path below {self.root}")
        return path.as_posix()

    def _kind(self, listing: Path, line: int, row: Mapping[str, Any]) -> Kind | None:
        text = _value(row, "kind")
        for kind in get_args(Kind):
            if text == kind:
                return kind
        if text is not None:
            known = ", ".join(get_args(Kind))
            raise ValueError(f"{listing} line {line}: kind {text!r} is not one of {known}")
        return None

    def _found_kind(self, path: str) -> Kind:
        return "frames" if (self.root / path).is_dir() else kind_of(self.root, path)

    def _entry(
        self, listing: Path, line: int, row: Mapping[str, Any], path: str, kind: Kind
    ) -> Entry:
        start, end = _value(row, "start_s"), _value(row, "end_s")
        start_s = 0.0 if start is None else number_at(listing, line, "start_s", start)
        end_s = None if end is None else number_at(listing, line, "end_s", end)
        if start_s < 0 or (end_s is not None and end_s <= start_s):
            raise ValueError(f"{listing} line {line}: a clip from {start_s} s to {end_s} s")
        split = _value(row, "split") or self.split
        try:
            require_name(split, "split")
        except ValueError as error:
            raise ValueError(f"{listing} line {line}: {error}") from error
        whole = start is None and end is None
        times = "" if whole else f"@{start_s:g}-{'' if end_s is None else f'{end_s:g}'}"
        return Entry(
            path=path,
            clip=_value(row, "clip") or f"{path}{times}",
            kind=kind,
            start_s=start_s,
            end_s=end_s,
            label=_value(row, "label"),
            split=split,
        )


def _rows(listing: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read a list by the ending of its name; a row's number is its line's."""
    suffix = listing.suffix.lower()
    if suffix == ".csv":
        yield from read_csv(listing, required=("path",))
    elif suffix in (".jsonl", ".ndjson"):
        for line, text in read_lines(listing):
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{listing} line {line} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{listing} line {line} is not a JSON object")
            yield line, row
    elif suffix == ".parquet":
        yield from _parquet_rows(listing)
    else:
        for line, text in read_lines(listing):
            yield line, {"path": text}


def _parquet_rows(listing: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    line = 0
    try:
        with listing.open("rb") as file:
            table = pq.ParquetFile(file)
            columns = [name for name in table.schema_arrow.names if name in COLUMNS]
            if "path" not in columns:
                raise ValueError(f"{listing} has no column 'path'")
            for batch in table.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    line += 1
                    yield line, row
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{listing} cannot be read as Parquet: {reason}") from error


def _value(row: Mapping[str, Any], column: str) -> str | None:
    """A value as text; None where the column or the value is missing."""
    value = row.get(column)
    return None if value is None or value == "" else str(value)
