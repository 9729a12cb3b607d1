"""From source files to manifest rows: each file is decoded once, whole, before anything uses it.

A file that opens is not yet intact: most random damage shows only as missing or marked frames, or
not at all. So rows carry the hash of the bytes and what the one full decoding found.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from toto.video.decode import (
    DecodeLimits,
    Decoder,
    Scan,
    VideoRefusedError,
    regular_file,
)
from toto.video.manifest import Row


@runtime_checkable
class Dataset(Protocol):
    """A set of source videos; `toto.video.datasets.DATASETS` lists them by name."""

    def __len__(self) -> int:
        """How many rows there will be."""
        ...

    def rows(self, decoder: Decoder) -> Iterator[Row]:
        """Decode every source once, and yield its row: ok or refused, none left out."""
        ...


def rows_of_files(
    decoder: Decoder,
    root: Path,
    files: Sequence[Path],
    *,
    source: str,
    split: str,
    label_is_folder: bool = False,
) -> Iterator[Row]:
    """Yield one row for each file, in the order given.

    Args:
        decoder: decodes them.
        root: the folder that rows name files from.
        files: below `root`.
        source: name of the dataset.
        split: of all these files.
        label_is_folder: label each file with the name of the folder it lies in.

    Raises:
        ValueError: after the last row, if not one file is a video.
    """
    refused: Row | None = None
    good = 0
    for file in files:
        label = file.parent.name if label_is_folder and file.parent != root else None
        row = row_of_file(decoder, root, file, source=source, split=split, label=label)
        good += row.status == "ok"
        refused = refused or (row if row.status == "refused" else None)
        yield row
    if not good:
        first = f"; the first, {refused.path}: {refused.reason}" if refused else ""
        raise ValueError(
            f"{root}: none of {len(files)} files is a video{first}; point to a folder with videos"
        )


def row_of_file(
    decoder: Decoder, root: Path, file: Path, *, source: str, split: str, label: str | None
) -> Row:
    """Decode a whole file and say what it holds, or why it is refused."""
    name = file.relative_to(root).as_posix()
    # Parquet holds only UTF-8, and a file's name may be any bytes.
    plain, plain_label = _utf8(name), None if label is None else _utf8(label)
    sha256 = _sha256(file, decoder.limits)
    try:
        if plain != name:
            raise VideoRefusedError(file, "open", "its name is not UTF-8; rename it")
        scan = decoder.scan(file)
        if sha256 is None:
            raise VideoRefusedError(file, "open", "its bytes could not be read to be hashed")
    except VideoRefusedError as refused:
        return Row(
            source=source,
            path=plain,
            sha256=sha256,
            status="refused",
            stage=refused.stage,
            reason=refused.reason,
            label=plain_label,
            split=split,
        )
    return Row(
        source=source,
        path=name,
        sha256=sha256,
        status="ok",
        reason=damage(scan),
        frames=scan.shown_frames,
        width=scan.info.width,
        height=scan.info.height,
        fps=scan.info.fps,
        duration_s=scan.last_time_s,
        label=plain_label,
        split=split,
    )


def damage(scan: Scan) -> str | None:
    """Say in words what is wrong with a file that decodes, or None."""
    claimed = scan.info.frames_claimed or 0
    found = []
    if scan.decoded_frames < claimed:
        missing = claimed - scan.decoded_frames
        found.append(f"{missing} of {claimed} frames could not be decoded")
    if scan.decode_errors:
        found.append(f"{scan.decode_errors} packets or frames are damaged")
    if scan.dropped_times:
        found.append(f"{scan.dropped_times} frames without an increasing time were left out")
    return "; ".join(found) or None


def _utf8(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _sha256(file: Path, limits: DecodeLimits) -> str | None:
    """Hash a file's bytes; None if it cannot be read, which decoding it then reports."""
    try:
        with regular_file(file, limits) as fd, os.fdopen(fd, "rb", closefd=False) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (VideoRefusedError, OSError):
        return None
