"""The manifest: one row a source file, read or refused, so that nothing goes missing in silence."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from toto.runtime.durable import make_folder, write_bytes

_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("fps", pa.float64()),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("split", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What became of one source file.

    Raises:
        ValueError: if the status is unknown, an ok row has no frame, or a refused one no reason.
    """

    source: str
    """Name of the dataset."""
    path: str
    """Relative to the dataset's root, with slashes; or the name of a clip that was made."""
    sha256: str | None
    """Of the file's bytes; None where it could not be read."""
    status: Literal["ok", "refused"]
    stage: str | None = None
    """Where a refused file was stopped: see `toto.video.decode.STAGES`."""
    reason: str | None = None
    """Why it was refused, or what is damaged in a file that is used all the same."""
    frames: int = 0
    """Frames that can be read, by decoding the whole file once."""
    width: int = 0
    height: int = 0
    fps: float | None = None
    """Average rate that the container names; None where it names none."""
    duration_s: float = 0.0
    """When the last frame is shown, in seconds from the first."""
    label: str | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        if self.status not in ("ok", "refused"):
            raise ValueError(f"{self.path}: status is ok or refused, got {self.status!r}")
        if self.status == "ok" and self.frames < 1:
            raise ValueError(f"{self.path}: an ok row has at least 1 frame, got {self.frames}")
        if self.status == "refused" and not (self.stage and self.reason):
            raise ValueError(f"{self.path}: a refused row says its stage and reason")


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as Parquet, whole or not at all."""
    names = [field.name for field in fields(Row)]
    table = pa.Table.from_pylist(
        [{name: getattr(row, name) for name in names} for row in rows], schema=_SCHEMA
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    make_folder(path.parent)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_manifest(path: Path) -> list[Row]:
    """Read what `write_manifest` wrote.

    Raises:
        ValueError: if the file is not a manifest, or its columns are not those of this version.
    """
    try:
        # Through a file object: given a path, pyarrow would add columns from names like `a=b/`.
        with path.open("rb") as file:
            table = pq.ParquetFile(file).read()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a manifest: {str(error).splitlines()[0]}") from error
    expected = {field.name: field.type for field in _SCHEMA}
    found = {field.name: field.type for field in table.schema}
    for name in {**expected, **found}:
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{path}: column {name} is {found.get(name, 'missing')}, expected "
                f"{expected.get(name, 'no such column')}; ingest the videos again"
            )
    return [Row(**values) for values in table.to_pylist()]
