"""Checkpoints that count only when they are whole, and are known to be whole when they are read.

A checkpoint is a folder of safetensors files with a record beside them: the step, the config's
digest, the commit, and the SHA-256 of every file. No weight format notices a flipped bit by
itself, and a file that exists may still be half of one; so a checkpoint is hashed, written under a
temporary name and renamed, and its hashes are compared before a tensor is used. None is a pickle.

One process writes one with `save`. Ranks write theirs together with
`toto.runtime.checkpoint_writer`, in the background if they like.
"""

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from toto.runtime import checkpoint_blocks, durable
from toto.runtime.checkpoint_blocks import Block, Stored
from toto.runtime.checkpoint_commit import (
    Retention,
    commit,
    require_savable,
    sweep,
    temporary_folder,
    write_part,
)
from toto.runtime.checkpoint_record import DamagedCheckpointError, steps, verify


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
    tensors: Mapping[str, Mapping[str, Tensor | Block]],
    config_digest: str,
    retention: Retention | None = None,
) -> Path:
    """Write a checkpoint, and remove old ones once enough newer ones are known to be good.

    One process writes to a folder at a time; what an earlier one left unfinished is swept first.
    If this fails or dies anywhere, the checkpoints from before still stand. The tensors are held
    in memory once more while they are written, and a group of them twice.

    Args:
        folder: where the checkpoints of the run are; made if need be.
        step: how many optimizer steps the tensors have behind them.
        tensors: on any device, by group ("model", "optimizer", ...) and name; a group becomes a
            file.
        config_digest: `toto.config.digest` of the run's config.
        retention: which old ones stay; the newest two unless told.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: if the step has a checkpoint with other contents, or an argument makes no
            sense.
        DiskFullError: if it does not fit; nothing half-written stands under its final name.
    """
    require_savable(step, tensors)
    durable.make_folder(folder)
    sweep(folder)
    temporary = temporary_folder(folder, step, uuid.uuid4().hex)
    try:
        written = write_part(temporary, checkpoint_blocks.take(tensors))
        return commit(
            temporary,
            step,
            written,
            config_digest=config_digest,
            retention=retention or Retention(),
        )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    for step, path in steps(folder):
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


def at(folder: Path, step: int) -> Path:
    """The checkpoint of one step.

    Raises:
        ValueError: if there is none; the message lists the steps there are.
    """
    there = dict(steps(folder))
    if step not in there:
        listed = ", ".join(str(step) for step in sorted(there)) or "none"
        raise ValueError(
            f"{folder} has no checkpoint of step {step} (it has: {listed}); give one of those"
        )
    return there[step]


def load(path: Path, *, config_digest: str | None) -> dict[str, dict[str, Tensor]]:
    """Read a checkpoint's tensors whole, to the CPU, by group and name, after `verify`.

    Args:
        path: the checkpoint's folder.
        config_digest: the config it has to be of; None takes any.

    Raises:
        DamagedCheckpointError: if it is not what was written; the message names the file.
        ValueError: if it is of another config.
    """
    found = stored(path, config_digest=config_digest)
    return {
        group: {name: tensor[()] for name, tensor in named.items()}
        for group, named in found.items()
    }


def stored(path: Path, *, config_digest: str | None) -> dict[str, dict[str, Stored]]:
    """Find a checkpoint's tensors as `load` does, to be read region by region, after `verify`."""
    record = verify(path)
    if config_digest is not None and record["config_digest"] != config_digest:
        raise ValueError(
            f"{path} belongs to config {record['config_digest']}, not {config_digest}; "
            "resume it with the config in its run folder"
        )
    durable.crash_point("checkpoint.after_verify")
    found = checkpoint_blocks.stored(path / file for file in record["sha256"])
    for group, named in found.items():
        for name, tensor in named.items():
            if not tensor.is_whole:
                raise DamagedCheckpointError(
                    f"{path} has not all blocks of {group} tensor {name}; use another checkpoint"
                )
    return found


def _set_aside(path: Path) -> Path:
    before = len(list(path.parent.glob(f"{path.name}.damaged*")))
    aside = path.with_name(f"{path.name}.damaged" + (f"-{before + 1}" if before else ""))
    durable.rename(path, aside)
    durable.crash_point("checkpoint.after_aside")
    return aside
