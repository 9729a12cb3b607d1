"""The manifest: one row a clip, read or lost, so that nothing goes missing in silence."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from toto.runtime.durable import make_folder, write_bytes
from toto.video.entry import Kind

_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("clip", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("file_bytes", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64()),
        pa.field("first_frame", pa.int64(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("fps", pa.float64()),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("packets_numbered", pa.bool_(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("fingerprint", pa.binary()),
    ]
)

Status = Literal["ok", "refused", "quarantined", "missing", "blocked"]
"""`refused`: not media, or beyond the limits. `quarantined`: it killed or hung the decoder, or is
no longer what ingest saw. `missing`: listed by its data set, not on disk. `blocked`: a copy of what
a block list holds. The clip of an `ok` row with a reason is damaged and used all the same."""
STATUSES: tuple[Status, ...] = ("ok", "refused", "quarantined", "missing", "blocked")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What became of one clip of a data set.

    Raises:
        ValueError: if the status is unknown, an ok row has no frame, or another one no reason.
    """

    source: str
    """Name of the data set."""
    path: str
    """Of the clip's file, as in its `Entry`."""
    clip: str
    """Name that no other clip of the data set has."""
    kind: Kind = "video"
    sha256: str | None
    """Of the file's bytes; None where it could not be read."""
    file_bytes: int = 0
    status: Status
    stage: str | None = None
    """Where the clip was lost: see `toto.video.decode.STAGES`."""
    reason: str | None = None
    """Why it was lost, or what is damaged in a clip that is used all the same."""
    start_s: float = 0.0
    """As the data set says, in seconds from the file's first frame."""
    end_s: float | None = None
    first_frame: int = 0
    """Index of the clip's first frame in its file."""
    frames: int = 0
    """Frames of the clip that can be read, by decoding the whole file once."""
    width: int = 0
    height: int = 0
    fps: float | None = None
    """Average rate that the container names; None where it names none."""
    duration_s: float = 0.0
    """From the clip's first frame to its last, in seconds."""
    packets_numbered: bool = False
    """Whether frames that nothing wants need not be decoded: see `toto.video.decoded.Scan`."""
    label: str | None = None
    split: str = "train"
    fingerprint: bytes | None = None
    """Perceptual hashes of some frames: see `toto.video.fingerprint`."""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            known = ", ".join(STATUSES)
            raise ValueError(f"{self.path}: status is one of {known}, got {self.status!r}")
        if self.status == "ok" and self.frames < 1:
            raise ValueError(f"{self.path}: an ok row has at least 1 frame, got {self.frames}")
        if self.status != "ok" and not (self.stage and self.reason):
            raise ValueError(f"{self.path}: a {self.status} row says its stage and reason")


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
            # Without threads: one that reads ahead can abort the process at its end.
            table = pq.ParquetFile(file, pre_buffer=False).read(use_threads=False)
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
