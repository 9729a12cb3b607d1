"""Token shards: flat little-endian u16 and a JSON sidecar that says what the numbers are.

A shard stores whole token grids, in time order, clip after clip; windows are cut when they are
read, so one tokenisation serves every context length. The sidecar names the tokenizer and the hash
of its weights, and for every clip its source, the source's hash, the frame times and the crop: a
token means nothing without them. docs/decisions/0003-token-shards.md says why the format is ours.

A shard may keep the frames themselves beside their tokens, for models that read pixels.
"""

import hashlib
import json
import math
import shutil
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from toto.config import from_dict, to_dict
from toto.runtime import durable
from toto.types import TokenGrid

SCHEMA = 1
DATA, FRAMES, SIDECAR = "tokens.u16", "frames.bin", "tokens.json"
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

    @property
    def frame_px(self) -> tuple[int, int]:
        """Height and width of the frames that were tokenised."""
        return self.grid[0] * self.patch_px, self.grid[1] * self.patch_px


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


class ShardWriter:
    """Writes one shard clip by clip; it appears under its name only by `commit`.

    A context: leaving it without a commit leaves nothing behind.

    Raises:
        ValueError: if the folder exists, or the codes do not fit 16 bits.
        DiskFullError: on any call, if the disk is full.
    """

    def __init__(self, folder: Path, description: Description) -> None:
        if folder.exists():
            raise ValueError(f"{folder} exists already; remove it or choose another --out")
        if description.vocab_size - 1 > LARGEST_ID:
            raise ValueError(
                f"{description.vocab_size} codes do not fit the shards' 16 bits (65536 at most)"
            )
        durable.make_folder(folder.parent)
        self.folder, self.description = folder, description
        self.clips = 0
        self._temporary = folder.with_name(f".{folder.name}.tmp-{uuid.uuid4().hex}")
        self._files: dict[str, BinaryIO] = {}
        self._sha = {DATA: hashlib.sha256(), FRAMES: hashlib.sha256()}
        self._records: list[Any] = []
        self._frames = 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            # What a full disk has left in the buffer cannot be written here either.
            with suppress(OSError):
                file.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def add(
        self,
        grid: TokenGrid,
        record: ClipRecord,
        frames: UInt8[Tensor, "T H W 3"] | None = None,
    ) -> None:
        """Append one clip, with the frames its tokens stand for if the shard is to keep them.

        Raises:
            ValueError: if grid or frames are not of the description's vocabulary and shape, or
                some clips come with frames and some without.
        """
        _check_grid(grid, record, self.description)
        parts = {DATA: grid.ids.numpy().astype("<u2").tobytes()}
        if frames is not None:
            _check_frames(frames, grid, record, self.description)
            parts[FRAMES] = frames.numpy().tobytes()
        if self.clips and parts.keys() != self._files.keys():
            raise ValueError(f"{record.source}: a shard keeps the frames of all its clips or none")
        with durable.explain_disk_errors(self._temporary):
            self._temporary.mkdir(exist_ok=True)
            for name, data in parts.items():
                if name not in self._files:
                    self._files[name] = (self._temporary / name).open("xb")
                self._files[name].write(data)
                self._sha[name].update(data)
        self._records.append(to_dict(record))
        self.clips += 1
        self._frames += len(grid.ids)

    def commit(self) -> None:
        """Give the shard its name, once all of it is on disk.

        Raises:
            ValueError: if no clip was added.
        """
        if not self.clips:
            raise ValueError(f"{self.folder}: there is no clip to write")
        with durable.explain_disk_errors(self._temporary):
            for file in self._files.values():
                file.close()
        sidecar = {
            "schema": SCHEMA,
            "description": to_dict(self.description),
            "frames": self._frames,
            "sha256": self._sha[DATA].hexdigest(),
            "clips": self._records,
        }
        if FRAMES in self._files:
            sidecar["frames_sha256"] = self._sha[FRAMES].hexdigest()
        # A record of its own hash: a changed sidecar is as bad as changed tokens.
        sidecar["sidecar_sha256"] = _seal(sidecar)
        durable.write_json(self._temporary / SIDECAR, sidecar)
        durable.commit_folder(self._temporary, self.folder, what="shard")


def write_shard(
    folder: Path,
    description: Description,
    clips: Iterable[
        tuple[TokenGrid, ClipRecord] | tuple[TokenGrid, ClipRecord, UInt8[Tensor, "T H W 3"] | None]
    ],
) -> int:
    """Write one shard; it appears under its name only when it is whole.

    Args:
        folder: the shard's folder; made, and refused if it exists.
        description: what all clips share.
        clips: grids with their records, in the order they are to be stored; with the frames, if
            the shard is to keep them.

    Returns:
        How many clips were written.

    Raises:
        ValueError: if the folder exists, there is no clip, or a grid is not of the description's
            vocabulary and shape.
        DiskFullError: if it does not fit; nothing is left under the shard's name.
    """
    with ShardWriter(folder, description) as writer:
        for grid, record, *frames in clips:
            writer.add(grid, record, *frames)
        writer.commit()
    return writer.clips


class Shard:
    """A shard opened for reading; the tokens stay on disk until a window is cut.

    Attributes:
        path: its folder.
        description: what all clips share.
        clips: the clips' records.
        lengths: frames of each clip.
    """

    def __init__(self, path: Path, *, verify: bool = True, frames: bool = False) -> None:
        """Open a shard.

        Args:
            path: its folder.
            verify: whether to hash what is opened, which reads all of it once.
            frames: whether to open the frames beside the tokens.

        Raises:
            ValueError: if it is not a shard, tokens, frames or sidecar are not what was written,
                or it keeps no frames.
        """
        self.path = path
        sidecar = _read_sidecar(path)
        self.description = from_dict(Description, sidecar["description"])
        self.clips = [from_dict(ClipRecord, record) for record in sidecar["clips"]]
        self.lengths = np.array([len(clip.times_s) for clip in self.clips], dtype=np.int64)
        self._first = np.concatenate([[0], self.lengths.cumsum()])
        count = int(self.lengths.sum())
        self._tokens = _open_data(
            path / DATA, "<u2", (count, *self.description.grid), sidecar["sha256"], verify=verify
        )
        self._frames: np.ndarray | None = None
        if frames:
            if "frames_sha256" not in sidecar:
                raise ValueError(
                    f"{path} keeps no frames, which a model of patches reads; tokenise again with "
                    "--keep-frames"
                )
            shape = (count, *self.description.frame_px, 3)
            self._frames = _open_data(
                path / FRAMES, "u1", shape, sidecar["frames_sha256"], verify=verify
            )

    def window(self, clip: int, start: int, frames: int) -> Int64[Tensor, "T Y X"]:
        """Cut `frames` successive frames of a clip, from its frame `start`.

        Raises:
            ValueError: if the clip has no such frames.
        """
        span = self._span(clip, start, frames)
        return torch.from_numpy(self._tokens[span].astype(np.int64))

    def pixels(self, clip: int, start: int, frames: int) -> UInt8[Tensor, "T H W 3"]:
        """Cut the same frames as `window`, as sRGB bytes, from a shard opened with `frames`.

        Raises:
            ValueError: if the clip has no such frames.
        """
        assert self._frames is not None, "open the shard with frames=True"
        return torch.from_numpy(np.array(self._frames[self._span(clip, start, frames)]))

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

    def _span(self, clip: int, start: int, frames: int) -> slice:
        if start < 0 or start + frames > self.lengths[clip]:
            raise ValueError(
                f"{self.clips[clip].source}: frames {start}..{start + frames - 1} of "
                f"{self.lengths[clip]}"
            )
        first = self._first[clip] + start
        return slice(first, first + frames)

    def __repr__(self) -> str:
        return f"Shard({str(self.path)!r}, clips={len(self.clips)}, frames={self.lengths.sum()})"


def require_same(shards: Iterable[Shard]) -> Description:
    """Refuse to mix shards whose tokens do not mean the same.

    Returns:
        What they share.

    Raises:
        ValueError: if two differ in tokenizer, weights, precision, vocabulary or grid, naming both.
    """
    first, *others = shards
    for other in others:
        names = ("tokenizer", "tokenizer_digest", "precision", "vocab_size", "patch_px", "grid")
        for name in names:
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


def _check_frames(
    frames: Tensor, grid: TokenGrid, record: ClipRecord, description: Description
) -> None:
    expected = (len(grid.ids), *description.frame_px, 3)
    if tuple(frames.shape) != expected or frames.dtype != torch.uint8:
        raise ValueError(
            f"{record.source}: frames {frames.dtype} {tuple(frames.shape)} beside tokens of "
            f"u8 {expected}"
        )


def _open_data(
    file: Path, dtype: str, shape: tuple[int, ...], sha256: str, *, verify: bool
) -> np.ndarray:
    """Map a file of the shard into memory, if it is what the sidecar promises."""
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    size = file.stat().st_size if file.is_file() else 0
    if size != expected:
        raise ValueError(f"{file} has {size} bytes, its sidecar promises {expected}")
    if verify and durable.sha256_file(file) != sha256:
        raise ValueError(f"{file} is damaged: its sha256 is not the sidecar's; tokenise again")
    return np.memmap(file, dtype=dtype, mode="r", shape=(math.prod(shape),)).reshape(shape)


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
