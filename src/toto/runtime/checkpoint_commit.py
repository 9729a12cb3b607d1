"""How a checkpoint comes to count: files written and forced to disk, a record, one rename.

Ranks write their parts each with `write_part`; the first of them makes one checkpoint of all with
`commit`, and then removes those that are no longer needed.
"""

import hashlib
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from toto.runtime import checkpoint_blocks, durable, provenance
from toto.runtime.checkpoint_blocks import Block
from toto.runtime.checkpoint_record import (
    RECORD,
    SCHEMA,
    DamagedCheckpointError,
    Written,
    sealed,
    steps,
    undone,
    verify,
)

_GROUP = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Which checkpoints stay.

    Raises:
        ValueError: if fewer than two would stay, since the newest may be the damaged one.
    """

    keep: int = 2
    """The newest so many that are whole; those that are damaged do not count."""
    permanent_from: int = 0
    """The checkpoint of this step stays for good, and of its double, and so on; 0 keeps none. A run
    can branch off from them, and they show how it went at equal distances of log step."""

    def __post_init__(self) -> None:
        if self.keep < 2:
            raise ValueError(f"keep {self.keep} is too few, one may be damaged; keep at least 2")
        if self.permanent_from < 0:
            raise ValueError(f"permanent_from {self.permanent_from} is negative; 0 keeps none")

    def permanent(self, step: int) -> bool:
        """Whether the checkpoint of this step stays for good."""
        if self.permanent_from == 0 or step == 0 or step % self.permanent_from:
            return False
        return (step // self.permanent_from).bit_count() == 1


def require_savable(step: int, tensors: Mapping[str, Mapping[str, Tensor | Block]]) -> None:
    """Refuse what could not be a checkpoint, before anything is written.

    Raises:
        ValueError: for a negative step, no tensors, or a group that cannot be a file name.
    """
    if step < 0:
        raise ValueError(f"step {step} is negative; count steps from 0")
    if not tensors:
        raise ValueError("no tensors to save; give at least one group, such as 'model'")
    for group in tensors:
        if not _GROUP.fullmatch(group):
            raise ValueError(f"group {group!r} cannot be a file name; use a-z, 0-9 and _")


def temporary_folder(folder: Path, step: int, token: str) -> Path:
    """Where a checkpoint is written before it counts; the token is of this one attempt."""
    return folder / f"step-{step:07d}.tmp-{token}"


def sweep(folder: Path) -> None:
    """Remove what earlier processes left unfinished; nobody may be writing."""
    for orphan in folder.glob("step-*.tmp-*"):
        durable.crash_point("checkpoint.mid_sweep")
        shutil.rmtree(orphan)


def write_part(
    temporary: Path, taken: dict[str, dict[str, Tensor | Block]], *, rank: int = 0
) -> dict[str, Written]:
    """Write what one rank took, and force it to disk; it does not count before `commit`.

    Args:
        temporary: `temporary_folder`, the same on all ranks and on a disk they share.
        taken: by `checkpoint_blocks.take`.
        rank: who writes.

    Returns:
        The files by name.

    Raises:
        DiskFullError: if it does not fit.
    """
    values = [
        value.values if isinstance(value, Block) else value
        for group in taken.values()
        for value in group.values()
    ]
    needed_bytes = sum(tensor.nbytes for tensor in values)
    durable.crash_point("checkpoint.before_write")
    durable.require_space(temporary.parent, needed_bytes=needed_bytes)
    with durable.explain_disk_errors(temporary, needed_bytes=needed_bytes):
        temporary.mkdir(exist_ok=True)
    durable.crash_point("checkpoint.after_folder")
    written = {}
    for file, data in checkpoint_blocks.files(taken, rank=rank):
        durable.write_new(temporary / file, data)
        durable.crash_point("checkpoint.mid_write")
        durable.force_to_disk(temporary / file)
        durable.crash_point("checkpoint.mid_fsync")
        written[file] = Written(hashlib.sha256(data).hexdigest(), len(data))
    durable.force_to_disk(temporary)
    durable.crash_point("checkpoint.after_write")
    return written


def commit(
    temporary: Path,
    step: int,
    written: Mapping[str, Written],
    *,
    config_digest: str,
    retention: Retention,
) -> Path:
    """Make a checkpoint of what was written, and remove old ones; returns its folder.

    Args:
        temporary: holds these files and nothing else, and nobody writes to it any more.
        step: of the tensors.
        written: the files of all ranks.
        config_digest: of the run's config.
        retention: which old ones stay.

    Raises:
        ValueError: if the step has a checkpoint with other contents.
        DiskFullError: if the record does not fit.
    """
    final = temporary.with_name(f"step-{step:07d}")
    record = {
        "schema": SCHEMA,
        "step": step,
        "config_digest": config_digest,
        "git_commit": provenance.git_commit(),
        "sha256": {file: written[file].sha256 for file in sorted(written)},
        "bytes": {file: written[file].bytes for file in sorted(written)},
    }
    if final.exists():
        there = verify(final)
        if any(there[key] != record[key] for key in ("sha256", "config_digest")):
            raise ValueError(
                f"{final} exists with other contents; a checkpoint is never overwritten: "
                "save to another folder, or remove it first"
            )
        shutil.rmtree(temporary)
        return final
    durable.crash_point("checkpoint.before_commit")
    durable.write_new(temporary / RECORD, sealed(record))
    durable.crash_point("checkpoint.after_record")
    durable.commit_folder(temporary, final, what="checkpoint")
    durable.crash_point("checkpoint.before_prune")
    _prune(final.parent, retention)
    durable.crash_point("checkpoint.after_prune")
    return final


def _prune(folder: Path, retention: Retention) -> None:
    there, aside = steps(folder), undone(folder)
    if len(there) <= retention.keep and not aside:
        return
    good, oldest, doomed = 0, -1, []
    for step, path in there:
        if good < retention.keep:
            good += _is_whole(path)
            oldest = step if good == retention.keep else oldest
        elif not retention.permanent(step):
            doomed.append(path)
    # What a rewind undid goes when as many whole ones as are kept are as far or farther.
    doomed += [path for step, path in aside if step <= oldest]
    # The oldest first, so that a crash in between leaves the newer ones.
    for path in reversed(doomed):
        # Renamed first, so that one that is half removed never looks like a checkpoint.
        leaving = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
        durable.rename(path, leaving)
        durable.crash_point("checkpoint.mid_prune")
        shutil.rmtree(leaving)


def _is_whole(path: Path) -> bool:
    try:
        verify(path)
    except DamagedCheckpointError:
        return False
    return True
