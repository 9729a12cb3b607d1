"""What makes a folder of files a checkpoint: a record of their hashes, and the comparison with it.

The record is `commit.json`. It is sealed with a hash of itself, since nothing else vouches for it.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toto.runtime import durable

SCHEMA = 2
RECORD = "commit.json"
_STEP = re.compile(r"step-(\d{7,})")
_UNDONE = re.compile(r"step-(\d{7,})\.rewound-\d+")


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not what was written; the message names the file."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is on disk."""

    sha256: str
    bytes: int


def verify(path: Path) -> dict[str, Any]:
    """Compare every file of a checkpoint with its record, and return the record.

    Raises:
        DamagedCheckpointError: if a file is missing, extra or differs; the message names it.
        ValueError: if a newer version of toto wrote the checkpoint.
    """
    record = _read_record(path)
    wanted, present = {RECORD, *record["sha256"]}, set(os.listdir(path))
    for file in sorted(wanted ^ present):
        fault = "is missing" if file in wanted else "does not belong to this checkpoint"
        raise DamagedCheckpointError(f"{path / file} {fault}; use another checkpoint")
    for file, sha256 in record["sha256"].items():
        size, written = (path / file).stat().st_size, record["bytes"][file]
        if size != written:
            raise DamagedCheckpointError(
                f"{path / file} has {size} bytes and not the {written} that were written; "
                "use another checkpoint"
            )
        if durable.sha256_file(path / file) != sha256:
            raise DamagedCheckpointError(
                f"{path / file} is not what was written (its SHA-256 differs); "
                "use another checkpoint"
            )
    return record


def sealed(record: Mapping[str, Any]) -> bytes:
    """A record as JSON, with a hash of itself, since nothing else vouches for it."""
    seal = hashlib.sha256(json.dumps(record).encode()).hexdigest()
    return (json.dumps({**record, "seal": seal}, indent=1) + "\n").encode()


def unsealed(raw: bytes) -> dict[str, Any] | None:
    """The record these bytes were made from; None if no record gives exactly these."""
    try:
        record = json.loads(raw)
        record.pop("seal")
    except (ValueError, AttributeError, TypeError, KeyError):
        return None
    return record if raw == sealed(record) else None


def _read_record(path: Path) -> dict[str, Any]:
    file = path / RECORD
    if not file.is_file():
        raise DamagedCheckpointError(f"{file} is missing; use another checkpoint")
    record = unsealed(file.read_bytes())
    if record is None:
        raise DamagedCheckpointError(f"{file} is not what was written; use another checkpoint")
    if record["schema"] != SCHEMA:
        raise ValueError(
            f"{file} has schema {record['schema']}, this toto reads {SCHEMA}; "
            "use the version of toto that wrote it"
        )
    name = _STEP.fullmatch(path.name)
    if name and int(name[1]) != record["step"]:
        raise DamagedCheckpointError(f"{file} is of step {record['step']}; use another checkpoint")
    return record


def steps(folder: Path) -> list[tuple[int, Path]]:
    """All that stands under a final name, newest first."""
    return sorted(_named(folder, _STEP), reverse=True)


def undone(folder: Path) -> list[tuple[int, Path]]:
    """All that rewinds set aside, newest first; they do not count."""
    return sorted(_named(folder, _UNDONE), reverse=True)


def name_undone(path: Path) -> Path:
    """A free name that sets a checkpoint aside which a rewind undoes."""
    there = [other.name for _, other in undone(path.parent) if other.stem == path.name]
    taken = [int(name.rpartition("-")[2]) for name in there]
    return path.with_name(f"{path.name}.rewound-{max(taken, default=0) + 1}")


def _named(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[int, Path]]:
    for path in folder.iterdir() if folder.exists() else ():
        if name := pattern.fullmatch(path.name):
            yield int(name[1]), path
