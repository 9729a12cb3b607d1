"""Token shards: flat little-endian u16 and a JSON sidecar that says what the numbers are.

A shard stores whole token grids, in time order, clip after clip; windows are cut when they are
read, so one tokenisation serves every context length. The sidecar names the tokenizer and the hash
of its weights, and for every clip its source, the source's hash, the frame times and the crop: a
token means nothing without them. docs/decisions/0003-token-shards.md says why the format is ours.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from toto.config import from_dict, to_dict
from toto.runtime import durable
from toto.types import TokenGrid

SCHEMA = 1
DATA, SIDECAR = "tokens.u16", "tokens.json"
LARGEST_ID = 2**16 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What all clips of a shard share; shards that differ in it cannot be mixed."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRecord:
    """Where one clip's tokens come from."""

    source: str
    source_sha256: str | None
    """Of the file's bytes; None for a clip that was made, whose source names how."""
    frame_indices: tuple[int, ...]
    """Which frames of the source, in presentation order."""
    times_s: tuple[float, ...]
    """When each is shown, in seconds from the source's first frame."""
    side_px: int
    crop: tuple[float, float]
    """Where the square crop lies in the free room, x and y in [0, 1]."""
    labels: dict[str, int] = field(default_factory=dict)


def write_shard(
    folder: Path, description: Description, clips: Iterable[tuple[TokenGrid, ClipRecord]]
) -> int:
    """Write one shard; it appears under its name only when it is whole.

    Args:
        folder: the shard's folder; made, and refused if it exists.
        description: what all clips share.
        clips: grids with their records, in the order they are to be stored.

    Returns:
        How many clips were written.

    Raises:
        ValueError: if the folder exists, there is no clip, or a grid is not of the description's
            vocabulary and shape.
        DiskFullError: if it does not fit; nothing is left under the shard's name.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already; remove it or choose another --out")
    if description.vocab_size - 1 > LARGEST_ID:
        raise ValueError(
            f"{description.vocab_size} codes do not fit the shards' 16 bits (65536 at most)"
        )
    durable.make_folder(folder.parent)
    temporary = folder.with_name(f".{folder.name}.tmp-{uuid.uuid4().hex}")
    sha, records, frames = hashlib.sha256(), [], 0
    try:
        with durable.explain_disk_errors(temporary):
            temporary.mkdir()
            with (temporary / DATA).open("wb") as file:
                for grid, record in clips:
                    _check_grid(grid, record, description)
                    data = grid.ids.numpy().astype("<u2").tobytes()
                    file.write(data)
                    sha.update(data)
                    records.append(to_dict(record))
                    frames += len(grid.ids)
                file.flush()
                os.fsync(file.fileno())
        if not records:
            raise ValueError(f"{folder}: there is no clip to write")
        sidecar = {
            "schema": SCHEMA,
            "description": to_dict(description),
            "frames": frames,
            "sha256": sha.hexdigest(),
            "clips": records,
        }
        # A record of its own hash: a changed sidecar is as bad as changed tokens.
        sidecar["sidecar_sha256"] = _seal(sidecar)
        durable.write_json(temporary / SIDECAR, sidecar)
        durable.commit_folder(temporary, folder, what="shard")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(records)


class Shard:
    """A shard opened for reading; the tokens stay on disk until a window is cut.

    Attributes:
        path: its folder.
        description: what all clips share.
        clips: the clips' records.
        lengths: frames of each clip.
    """

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        """Open a shard.

        Args:
            path: its folder.
            verify: whether to hash the tokens, which reads all of them once.

        Raises:
            ValueError: if it is not a shard, or tokens or sidecar are not what was written.
        """
        self.path = path
        sidecar = _read_sidecar(path)
        self.description = from_dict(Description, sidecar["description"])
        self.clips = [from_dict(ClipRecord, record) for record in sidecar["clips"]]
        self.lengths = np.array([len(clip.times_s) for clip in self.clips], dtype=np.int64)
        self._first = np.concatenate([[0], self.lengths.cumsum()])
        rows, columns = self.description.grid
        expected = 2 * int(self.lengths.sum()) * rows * columns
        data = path / DATA
        size = data.stat().st_size if data.is_file() else -1
        if size != expected:
            raise ValueError(f"{data} has {max(size, 0)} bytes, its sidecar promises {expected}")
        if verify and durable.sha256_file(data) != sidecar["sha256"]:
            raise ValueError(f"{data} is damaged: its sha256 is not the sidecar's; tokenise again")
        self._tokens = np.memmap(data, dtype="<u2", mode="r", shape=(size // 2,)).reshape(
            -1, rows, columns
        )

    def window(self, clip: int, start: int, frames: int) -> Int64[Tensor, "T Y X"]:
        """Cut `frames` successive frames of a clip, from its frame `start`.

        Raises:
            ValueError: if the clip has no such frames.
        """
        if start < 0 or start + frames > self.lengths[clip]:
            raise ValueError(
                f"{self.clips[clip].source}: frames {start}..{start + frames - 1} of "
                f"{self.lengths[clip]}"
            )
        first = self._first[clip] + start
        return torch.from_numpy(self._tokens[first : first + frames].astype(np.int64))

    def windows(self, frames: int) -> np.ndarray:
        """List every window of `frames` frames as rows (clip, start), i64 [W 2]."""
        counts = np.maximum(self.lengths - frames + 1, 0)
        clip = np.repeat(np.arange(len(counts)), counts)
        start = np.arange(len(clip)) - np.repeat(counts.cumsum() - counts, counts)
        return np.stack([clip, start], axis=1)

    def labels(self, name: str) -> Int64[Tensor, " N"]:
        """Read one label of every clip.

        Raises:
            ValueError: if a clip does not carry it.
        """
        try:
            return torch.tensor([clip.labels[name] for clip in self.clips])
        except KeyError:
            known = ", ".join(sorted(self.clips[0].labels)) or "none"
            raise ValueError(
                f"{self.path}: clips have no label {name!r} (they have: {known})"
            ) from None

    def histogram(self) -> np.ndarray:
        """Count how often each code occurs, i64 [V]."""
        return np.bincount(self._tokens.reshape(-1), minlength=self.description.vocab_size)

    def __repr__(self) -> str:
        return f"Shard({str(self.path)!r}, clips={len(self.clips)}, frames={self.lengths.sum()})"


def require_same(shards: Iterable[Shard]) -> Description:
    """Refuse to mix shards whose tokens do not mean the same.

    Returns:
        What they share.

    Raises:
        ValueError: if two differ in tokenizer, weights, vocabulary or grid, naming both.
    """
    first, *others = shards
    for other in others:
        for name in ("tokenizer", "tokenizer_digest", "vocab_size", "patch_px", "grid"):
            ours, theirs = getattr(first.description, name), getattr(other.description, name)
            if ours != theirs:
                raise ValueError(
                    f"{first.path} and {other.path} cannot be mixed: {name} is {ours} and {theirs}"
                )
    return first.description


def _check_grid(grid: TokenGrid, record: ClipRecord, description: Description) -> None:
    if grid.vocab_size != description.vocab_size or tuple(grid.ids.shape[1:]) != description.grid:
        raise ValueError(
            f"{record.source}: {grid} does not fit a shard of {description.vocab_size} codes "
            f"on a grid of {description.grid}"
        )
    if not len(grid.ids) == len(record.times_s) == len(record.frame_indices):
        raise ValueError(
            f"{record.source}: {len(grid.ids)} frames of tokens, {len(record.times_s)} times, "
            f"{len(record.frame_indices)} indices"
        )


def _seal(sidecar: Mapping[str, Any]) -> str:
    body = {key: value for key, value in sidecar.items() if key != "sidecar_sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read_sidecar(path: Path) -> dict[str, Any]:
    file = path / SIDECAR
    if not file.is_file():
        raise ValueError(f"{path} is not a token shard (no {SIDECAR}); `toto tokenize` makes them")
    try:
        sidecar = json.loads(file.read_bytes())
        intact = sidecar["sidecar_sha256"] == _seal(sidecar)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error!r}); tokenise again") from error
    if not intact:
        raise ValueError(f"{file} is damaged: it is not what was written; tokenise again")
    if sidecar["schema"] != SCHEMA:
        raise ValueError(f"{file} has schema {sidecar['schema']}, this toto reads {SCHEMA}")
    return sidecar
