"""Checkpoints that count only when they are whole, and are known to be whole when they are read.

A checkpoint is a folder of safetensors files with a record beside them: the step, the config's
digest, the commit, and the SHA-256 of every file. No weight format notices a flipped bit by
itself, and a file that exists may still be half of one; so a checkpoint is hashed, written under a
temporary name and renamed, and its hashes are compared before a tensor is used. None is a pickle.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from toto.runtime import durable, provenance

SCHEMA = 1
_RECORD = "commit.json"
_STEP = re.compile(r"step-(\d{7,})")
_FILE = re.compile(r"[a-z][a-z0-9_]*")


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not what was written; the message names the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The checkpoint to go on from."""

    path: Path
    step: int
    damaged: tuple[Path, ...]
    """Newer ones that were not whole, under the names they were just set aside by."""


def save(
    folder: Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    config_digest: str,
    keep: int = 2,
) -> Path:
    """Write a checkpoint, and remove old ones once enough newer ones are known to be good.

    One process writes to a folder at a time; what an earlier one left unfinished is swept first.
    If this fails or dies anywhere, the checkpoints from before still stand. Each group of tensors
    is held in memory once more while it is written.

    Args:
        folder: where the checkpoints of the run are; made if need be.
        step: how many optimizer steps the tensors have behind them.
        tensors: ordinary (not sharded) tensors on any device, by group ("model", "optimizer",
            ...) and name; a group becomes a file.
        config_digest: `toto.config.digest` of the run's config.
        keep: how many good checkpoints to keep; damaged ones do not count.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: if the step has a checkpoint with other contents, or an argument makes no
            sense.
        DiskFullError: if it does not fit; nothing half-written stands under its final name.
    """
    _check(step, tensors, keep)
    durable.make_folder(folder)
    for orphan in folder.glob("step-*.tmp-*"):
        shutil.rmtree(orphan)
    final = folder / f"step-{step:07d}"
    if final.exists():
        _require_same(final, tensors, config_digest)
        return final
    sizes = [tensor.nbytes for group in tensors.values() for tensor in group.values()]
    durable.require_space(folder, needed_bytes=sum(sizes))
    temporary = folder / f"{final.name}.tmp-{uuid.uuid4().hex}"
    durable.crash_point("checkpoint.before_write")
    try:
        with durable.explain_disk_errors(temporary, needed_bytes=sum(sizes)):
            temporary.mkdir()
        record = {
            "schema": SCHEMA,
            "step": step,
            "config_digest": config_digest,
            "git_commit": provenance.git_commit(),
            "sha256": {},
            "bytes": {},
        }
        for group, named in tensors.items():
            data = _serialise(named)
            durable.write_new(temporary / f"{group}.safetensors", data)
            record["sha256"][f"{group}.safetensors"] = hashlib.sha256(data).hexdigest()
            record["bytes"][f"{group}.safetensors"] = len(data)
            durable.crash_point("checkpoint.mid_write")
        durable.crash_point("checkpoint.before_commit")
        durable.write_new(temporary / _RECORD, _sealed(record))
        durable.commit_folder(temporary, final, what="checkpoint")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _prune(folder, keep)
    return final


def latest(folder: Path) -> Found | None:
    """Find the newest checkpoint that is whole.

    Newer ones that are not are renamed to `step-....damaged`, never deleted.

    Returns:
        The checkpoint; None if the folder has never had one.

    Raises:
        ValueError: if there were checkpoints and none is whole: beginning again in silence would
            throw the run away.
    """
    damaged = []
    for step, path in _steps(folder):
        try:
            verify(path)
        except DamagedCheckpointError:
            damaged.append(_set_aside(path))
        else:
            return Found(path=path, step=step, damaged=tuple(damaged))
    aside = sorted(path.name for path in folder.glob("step-*.damaged*"))
    if aside:
        raise ValueError(
            f"{folder} has no whole checkpoint, only damaged ones ({', '.join(aside)}); "
            "restore one from a copy, or remove them to begin again"
        )
    return None


def verify(path: Path) -> dict[str, Any]:
    """Compare every file of a checkpoint with its record, and return the record.

    Raises:
        DamagedCheckpointError: if a file is missing, extra or differs; the message names it.
        ValueError: if a newer version of toto wrote the checkpoint.
    """
    record = _read_record(path)
    wanted, present = {_RECORD, *record["sha256"]}, set(os.listdir(path))
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


def load(path: Path, *, config_digest: str | None) -> dict[str, dict[str, Tensor]]:
    """Read a checkpoint's tensors to the CPU, by group and name, after `verify`.

    Args:
        path: the checkpoint's folder.
        config_digest: the config it has to be of; None takes any.

    Raises:
        DamagedCheckpointError: if it is not what was written; the message names the file.
        ValueError: if it is of another config.
    """
    record = verify(path)
    if config_digest is not None and record["config_digest"] != config_digest:
        raise ValueError(
            f"{path} belongs to config {record['config_digest']}, not {config_digest}; "
            "resume it with the config in its run folder"
        )
    return {Path(file).stem: safetensors.torch.load_file(path / file) for file in record["sha256"]}


def _check(step: int, tensors: Mapping[str, Mapping[str, Tensor]], keep: int) -> None:
    if step < 0:
        raise ValueError(f"step {step} is negative; count steps from 0")
    if keep < 1:
        raise ValueError(f"keep {keep} would remove every checkpoint; keep at least 1")
    if not tensors:
        raise ValueError("no tensors to save; give at least one group, such as 'model'")
    for group in tensors:
        if not _FILE.fullmatch(group):
            raise ValueError(f"group {group!r} cannot be a file name; use a-z, 0-9 and _")


def _serialise(named: Mapping[str, Tensor]) -> bytes:
    plain, seen = {}, set()
    for name, tensor in named.items():
        flat = tensor.detach().cpu().contiguous()
        # Tied weights are two names of one tensor; safetensors wants each to have its own bytes.
        place = flat.untyped_storage().data_ptr()
        plain[name] = flat.clone() if place in seen else flat
        seen.add(place)
    return safetensors.torch.save(plain, {"format": "pt"})


def _require_same(
    final: Path, tensors: Mapping[str, Mapping[str, Tensor]], config_digest: str
) -> None:
    record = verify(final)
    hashes = {
        f"{group}.safetensors": hashlib.sha256(_serialise(named)).hexdigest()
        for group, named in tensors.items()
    }
    if record["sha256"] != hashes or record["config_digest"] != config_digest:
        raise ValueError(
            f"{final} exists with other contents; a checkpoint is never overwritten: "
            "save to another folder, or remove it first"
        )


def _sealed(record: dict[str, Any]) -> bytes:
    """The record as bytes, with a hash of itself, since nothing else vouches for it."""
    seal = hashlib.sha256(json.dumps(record).encode()).hexdigest()
    return (json.dumps({**record, "seal": seal}, indent=1) + "\n").encode()


def _unsealed(raw: bytes) -> dict[str, Any] | None:
    """The record these bytes were made from; None if no record gives exactly these."""
    try:
        record = json.loads(raw)
        record.pop("seal")
    except (ValueError, AttributeError, TypeError, KeyError):
        return None
    return record if raw == _sealed(record) else None


def _read_record(path: Path) -> dict[str, Any]:
    file = path / _RECORD
    if not file.is_file():
        raise DamagedCheckpointError(f"{file} is missing; use another checkpoint")
    record = _unsealed(file.read_bytes())
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


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """All that stands under a final name, newest first."""
    paths = folder.iterdir() if folder.exists() else iter(())
    named = [(_STEP.fullmatch(path.name), path) for path in paths]
    return sorted(((int(name[1]), path) for name, path in named if name), reverse=True)


def _set_aside(path: Path) -> Path:
    before = len(list(path.parent.glob(f"{path.name}.damaged*")))
    aside = path.with_name(f"{path.name}.damaged" + (f"-{before + 1}" if before else ""))
    durable.rename(path, aside)
    return aside


def _prune(folder: Path, keep: int) -> None:
    steps = _steps(folder)
    if len(steps) <= keep:
        return
    good = 0
    for _, path in steps:
        if good < keep:
            good += _is_whole(path)
            continue
        # Renamed first, so that one that is half removed never looks like a checkpoint.
        doomed = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
        durable.rename(path, doomed)
        durable.crash_point("checkpoint.mid_prune")
        shutil.rmtree(doomed)


def _is_whole(path: Path) -> bool:
    try:
        verify(path)
    except DamagedCheckpointError:
        return False
    return True
