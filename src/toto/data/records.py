"""What the tokens of a shard are: what its clips share, and where each of them comes from.

A token means nothing without the tokenizer that made it and the pixels it stands for; the records
go beside the tokens as Parquet, one row a clip, so that any tool can list them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Int64
from torch import Tensor

from toto.types import TokenGrid


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What all clips of a shard share."""

    tokenizer: str
    tokenizer_digest: str
    """sha256 of the tokenizer's config and weights."""
    vocab_size: int
    patch_px: int
    grid: tuple[int, int]
    """Token rows and columns of a frame."""
    kind: Literal["video", "images"]
    """Whether the frames of a clip follow each other in time."""
    precision: str
    """In which number format the tokenizer computed."""
    resize_filter: str
    decoder: str
    """Name and version of what read the frames."""
    device: str = "cpu"
    """On which kind of device the tokenizer computed; recorded, never compared."""

    @property
    def frame_px(self) -> tuple[int, int]:
        """Height and width of the frames that were tokenised."""
        return self.grid[0] * self.patch_px, self.grid[1] * self.patch_px


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRecord:
    """Where one clip's tokens come from."""

    source: str
    """Name of the data set; of a clip that was made, how."""
    path: str = ""
    """Of the clip's file, below the data set's root; empty for a clip that was made."""
    clip: str = ""
    """Name that no other clip of the source has; empty where the source is this one clip."""
    source_sha256: str | None
    """Of the file's bytes; None for a clip that was made."""
    frame_indices: tuple[int, ...]
    """Which frames of the file, in presentation order."""
    times_s: tuple[float, ...]
    """When each is shown, in seconds from the file's first frame."""
    side_px: int
    crop: tuple[float, float]
    """Where the square crop lies in the free room, x and y in [0, 1]."""
    labels: dict[str, int] = field(default_factory=dict)
    label: str | None = None
    """The data set's own word for the clip."""

    @property
    def name(self) -> str:
        """Source and clip; for messages."""
        return _name(self.source, self.clip)


def require_fit(
    description: Description, record: ClipRecord, grid: TokenGrid, frames: Tensor | None
) -> None:
    """Refuse tokens or frames that are not what a shard says of its clips.

    Raises:
        ValueError: if they are of another vocabulary, shape or length.
    """
    if grid.vocab_size != description.vocab_size or tuple(grid.ids.shape[1:]) != description.grid:
        raise ValueError(
            f"{record.name}: {grid} does not fit a shard of {description.vocab_size} codes "
            f"on a grid of {description.grid}"
        )
    if not len(grid.ids) == len(record.times_s) == len(record.frame_indices):
        raise ValueError(
            f"{record.name}: {len(grid.ids)} frames of tokens, {len(record.times_s)} times, "
            f"{len(record.frame_indices)} indices"
        )
    if frames is None:
        return
    expected = (len(grid.ids), *description.frame_px, 3)
    if tuple(frames.shape) != expected or frames.dtype != torch.uint8:
        raise ValueError(
            f"{record.name}: frames {frames.dtype} {tuple(frames.shape)} beside tokens of "
            f"u8 {expected}"
        )


_COLUMNS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("clip", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string()),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("frame_indices", pa.list_(pa.int64()), nullable=False),
        pa.field("times_s", pa.list_(pa.float64()), nullable=False),
        pa.field("side_px", pa.int64(), nullable=False),
        pa.field("crop_x", pa.float64(), nullable=False),
        pa.field("crop_y", pa.float64(), nullable=False),
        pa.field("labels", pa.map_(pa.string(), pa.int64()), nullable=False),
        pa.field("label", pa.string()),
        # Of the clip's bytes in the data files: they name the clip that a fault has hit.
        pa.field("tokens_crc32", pa.int64(), nullable=False),
        pa.field("frames_crc32", pa.int64()),
    ]
)


_REPEATED = ["source", "source_sha256", "label", "side_px", "labels.key_value.key"]


def as_row(record: ClipRecord, tokens_crc32: int, frames_crc32: int | None) -> dict[str, Any]:
    """Turn a record into the row that `as_parquet` takes."""
    return {
        "source": record.source,
        "path": record.path,
        "clip": record.clip,
        "source_sha256": record.source_sha256,
        "frames": len(record.times_s),
        "frame_indices": record.frame_indices,
        "times_s": record.times_s,
        "side_px": record.side_px,
        "crop_x": record.crop[0],
        "crop_y": record.crop[1],
        # In one order, so that equal labels are equal bytes.
        "labels": sorted(record.labels.items()),
        "label": record.label,
        "tokens_crc32": tokens_crc32,
        "frames_crc32": frames_crc32,
    }


def as_parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """Write rows as a Parquet file; equal rows give equal bytes with the same pyarrow."""
    columns = [
        pa.array([row[column.name] for row in rows], type=column.type) for column in _COLUMNS
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(columns, schema=_COLUMNS),
        sink,
        compression="zstd",
        use_dictionary=cast(Any, _REPEATED),  # its stub knows only yes and no
        # Indices rise evenly and times share their leading bytes: a tenth of their plain size.
        column_encoding={
            "frame_indices.list.element": "DELTA_BINARY_PACKED",
            "times_s.list.element": "BYTE_STREAM_SPLIT",
        },
        write_statistics=False,
    )
    return sink.getvalue().to_pybytes()


class Clips(Sequence[ClipRecord]):
    """The records of a shard, each made when it is asked for."""

    def __init__(self, data: bytes, *, where: str) -> None:
        """Read what `as_parquet` wrote.

        Raises:
            ValueError: if it is no Parquet file or has other columns.
        """
        try:
            # Threads would outlive this call, and a process that has them cannot fork in safety.
            table = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{where} is damaged: {str(error).splitlines()[0]}") from error
        if not table.schema.equals(_COLUMNS):
            raise ValueError(f"{where} does not have the columns of this toto; tokenise again")
        self.table, self._where = table, where

    def frames(self) -> np.ndarray:
        """Count the frames of each clip, i64 [N]."""
        return self.table.column("frames").to_numpy()

    def checksums(self, of: Literal["tokens", "frames"]) -> np.ndarray:
        """CRC-32 of each clip's bytes in a data file, i64 [N]."""
        return self.table.column(f"{of}_crc32").to_numpy()

    def labels(self, name: str) -> Int64[Tensor, " N"]:
        """Read one label of every clip.

        Raises:
            ValueError: if a clip does not carry it.
        """
        labels = self.table.column("labels").combine_chunks()
        options = pc.MapLookupOptions(pa.scalar(name), "first")
        found = pc.call_function("map_lookup", [labels], options)
        if found.null_count:
            known = ", ".join(sorted(self[0].labels)) or "none"
            raise ValueError(f"{self._where}: clips have no label {name!r} (they have: {known})")
        return torch.from_numpy(found.to_numpy().copy())

    def names(self) -> list[str]:
        """Source and clip of each, as `ClipRecord.name`; far quicker than the records."""
        columns = (self.table.column(name).to_pylist() for name in ("source", "clip"))
        return [_name(source, clip) for source, clip in zip(*columns, strict=True)]

    def crops(self) -> list[tuple[float, float]]:
        """Where the square of each lies in the free room, x and y in [0, 1]."""
        columns = (self.table.column(name).to_pylist() for name in ("crop_x", "crop_y"))
        return list(zip(*columns, strict=True))

    def words(self) -> list[str]:
        """Read the data set's own word for every clip, such as its class.

        Raises:
            ValueError: if a clip has none.
        """
        words = self.table.column("label")
        if words.null_count:
            index = words.to_pylist().index(None)
            known = ", ".join(sorted(self[index].labels)) or "none"
            raise ValueError(
                f"{self._where}: {self[index].name} has no class of its data set; name a label "
                f"that it carries ({known})"
            )
        return words.to_pylist()

    def __len__(self) -> int:
        return self.table.num_rows

    @overload
    def __getitem__(self, number: int) -> ClipRecord: ...
    @overload
    def __getitem__(self, number: slice) -> list[ClipRecord]: ...
    def __getitem__(self, number: int | slice) -> ClipRecord | list[ClipRecord]:
        if isinstance(number, slice):
            return [self[index] for index in range(*number.indices(len(self)))]
        index = range(len(self))[number]
        return _record(self.table.slice(index, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[ClipRecord]:
        for part in self.table.to_batches(max_chunksize=1024):
            yield from map(_record, part.to_pylist())


def _name(source: str, clip: str) -> str:
    return f"{source}/{clip}" if clip else source


def _record(row: dict[str, Any]) -> ClipRecord:
    return ClipRecord(
        source=row["source"],
        path=row["path"],
        clip=row["clip"],
        source_sha256=row["source_sha256"],
        frame_indices=tuple(row["frame_indices"]),
        times_s=tuple(row["times_s"]),
        side_px=row["side_px"],
        crop=(row["crop_x"], row["crop_y"]),
        labels=dict(row["labels"]),
        label=row["label"],
    )
