"""Walk folders and read lists the same way in every reader: in order, nothing left out in silence.

Names come as the system gives them. One that is not UTF-8 stays as it is, and ingest refuses it.
"""

import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toto.video.entry import Entry, Kind
from toto.video.limits import DecodeLimits
from toto.video.members import ArchiveError, Member, list_members, member_of
from toto.video.refused import VideoRefusedError
from toto.video.sniff import HEAD_BYTES, image_of
from toto.video.source_file import regular_file

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".ts", ".mpg", ".mpeg", ".gif"}
)
"""Only to find the file of an id, and to tell media from what lies beside it; never trusted."""


def require_name(name: str, what: str) -> str:
    """Let a name through that can be a folder's: shards of a data set lie in SOURCE/SPLIT.

    Raises:
        ValueError: if it cannot.
    """
    if not re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII):
        raise ValueError(f"{what} {name!r} must be letters, digits, '_', '.' and '-'")
    return name


def visible(folder: Path | str) -> list[os.DirEntry[str]]:
    """List what lies in a folder, hidden names left out, in the order of whole paths below it."""
    with os.scandir(folder) as found:
        names = [entry for entry in found if not entry.name.startswith(".")]
    # A folder's files have a slash after its name, and sort there among files beside it.
    return sorted(names, key=lambda entry: entry.name + "/" * is_folder(entry))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether this is a folder and no link to one, which could lead back to where it lies."""
    return entry.is_dir(follow_symlinks=False)


def files_below(root: Path, *, linked_parts: bool = False) -> Iterator[str]:
    """Walk the files below a folder in the order of their paths, which it yields relative to it.

    A link to a folder counts as a file: it could lead back to where it lies, or to what is no part
    of the data set. So ingest refuses it by name.

    Args:
        root: the folder.
        linked_parts: follow links right below it: large data sets are put together of such parts.
    """
    open_folders = [("", iter(visible(root)))]
    while open_folders:
        below, entries = open_folders[-1]
        entry = next(entries, None)
        if entry is None:
            open_folders.pop()
        elif is_folder(entry) or (linked_parts and not below and entry.is_dir()):
            path = f"{below}{entry.name}/"
            open_folders.append((path, iter(visible(f"{root}/{path}"))))
        else:
            yield f"{below}{entry.name}"


def kind_of(root: Path, path: str) -> Kind:
    """Say what a file or member is by its first bytes; all but still images are for FFmpeg."""
    file, member = member_of(root, path)
    try:
        if member is not None:
            found = list_members(file).get(member)
            return (found and found.kind) or "video"
        with regular_file(file, DecodeLimits()) as fd:
            return "image" if image_of(os.pread(fd, HEAD_BYTES, 0)) else "video"
    except (ArchiveError, VideoRefusedError, OSError):
        return "video"


def archive_members(root: Path, archive: str) -> list[Member] | Entry:
    """List an archive's members, or make the one entry of an archive that is refused whole.

    That entry names no member, so that reading it says what is wrong with the archive.
    """
    try:
        return list(list_members(root / archive).values())
    except ArchiveError:
        return Entry(path=f"{archive}#", clip=f"{archive}#")


def read_csv(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a CSV file with a header line, row by row.

    Yields:
        The line's number and its values by column.

    Raises:
        ValueError: if a column is missing, or a line has fewer or more values.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            for column in required:
                if column not in columns:
                    raise ValueError(
                        f"{path} has no column {column!r}; it has {', '.join(columns)}"
                    )
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(
                        f"{path} line {reader.line_num}: expected {len(columns)} values"
                    )
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error


def csv_columns(path: Path) -> list[str]:
    """Read the header of a CSV file; empty if it is none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: if it is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read the lines of a text file that are not empty, with their numbers.

    Raises:
        ValueError: if it is not text.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}") from error


def number_at(path: Path, line: int, column: str, text: str) -> float:
    """Read a number of a list.

    Raises:
        ValueError: if it is none, or not finite; the message names the line.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise ValueError(f"{path} line {line}: {column} {text!r} is not a number")
    return value
