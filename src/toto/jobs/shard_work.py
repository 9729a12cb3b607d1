"""What the workers of `toto tokenize` do: one stage decodes a shard's frames, one encodes them.

The stages run in one worker process on one machine, or as actors on a Ray cluster. Both only pass
on what a task says, so the shard comes out the same.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8

from toto.data.records import ClipRecord, Description
from toto.data.shards import ShardWriter
from toto.jobs.shard_tasks import CutClip, DigitRange, ShardTask
from toto.runtime import durable
from toto.runtime.devices import Precision, device
from toto.tokenizers import Tokenizer, load_tokenizer
from toto.tokenizers.fused import Encode, fast_encode
from toto.types import TokenGrid
from toto.video.collection import Collection
from toto.video.datasets.moving_digits import MovingDigits, Split
from toto.video.decode import Decoder, VideoRefusedError
from toto.video.reading import PIECE_FRAMES, stream_clips

RECEIPTS = "receipts"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frames:
    """Some frames of a shard's clips, to be encoded together.

    Attributes:
        clip: which clip of the shard each belongs to; those of one clip come in their order.
        frames: sRGB bytes.
        times_s: when each is shown, in seconds from its file's first frame.
        indices: position of each in its file.
    """

    clip: Int64[np.ndarray, " T"]
    frames: UInt8[np.ndarray, "T S S 3"]
    times_s: Float64[np.ndarray, " T"]
    indices: Int64[np.ndarray, " T"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What is known of a made clip; it comes before the clip's frames."""

    clip: int
    source: str
    labels: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """Clips of one file that cannot be tokenised after all; frames that came of them do not count.

    Attributes:
        clips: their numbers in the shard.
        stage: where it was found out.
        reason: one line.
    """

    clips: tuple[int, ...]
    stage: str
    reason: str


Message = Frames | Made | Lost


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What became of a task; its file is what makes the task count as done."""

    task: str
    """Digest of the task."""
    clips: int
    frames: int
    tokens: int
    duration_s: float
    """Of the clips that were tokenised, each crop counted."""
    lost: tuple[tuple[str, str, str], ...]
    """Name, stage and reason of each clip that was lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeShards:
    """Decodes what tasks ask for."""

    data: tuple[str, ...]
    """The data folders, in the order that tasks number them."""

    @contextmanager
    def open(self) -> Iterator[Callable[[ShardTask], Iterator[Message]]]:
        """Start a decoder, and open the data folders."""
        with Decoder() as decoder:
            worker = _Decoding(decoder, [Collection(Path(folder)) for folder in self.data])
            yield worker.messages


class _Decoding:
    def __init__(self, decoder: Decoder, collections: Sequence[Collection]) -> None:
        self.decoder, self.collections = decoder, collections
        self._digits: dict[tuple[int, Split], MovingDigits] = {}

    def messages(self, task: ShardTask) -> Iterator[Message]:
        if task.digits is not None:
            yield from self._made(task.data, task.digits)
        elif task.kind == "images":
            yield from self._images(task)
        else:
            for clips in task.files():
                yield from self._videos(self.collections[task.data], clips)

    def _videos(
        self, collection: Collection, clips: Sequence[tuple[int, CutClip]]
    ) -> Iterator[Message]:
        """Decode the clips of one file in one pass."""
        numbers = [number for number, _ in clips]
        try:
            collection.require_unchanged(self.decoder, clips[0][1].row)
            wanted = [(clip.row, clip.cut) for _, clip in clips]
            for piece in stream_clips(self.decoder, collection.dataset.root, wanted):
                yield Frames(
                    clip=np.full(len(piece.frames), numbers[piece.span]),
                    frames=piece.frames,
                    times_s=piece.times_s,
                    indices=piece.indices,
                )
        except VideoRefusedError as refused:
            yield Lost(clips=tuple(numbers), stage=refused.stage, reason=refused.reason)

    def _images(self, task: ShardTask) -> Iterator[Message]:
        """Decode still images and hand them on many at a time."""
        waiting: list[Frames] = []
        for clips in task.files():
            for message in self._videos(self.collections[task.data], clips):
                if isinstance(message, Frames):
                    waiting.append(message)
                else:
                    yield message
            if sum(len(frames.clip) for frames in waiting) >= PIECE_FRAMES:
                yield _joined(waiting)
                waiting = []
        if waiting:
            yield _joined(waiting)

    def _made(self, data: int, wanted: DigitRange) -> Iterator[Message]:
        key = (data, wanted.split)
        if key not in self._digits:
            # One split at a time: its backgrounds are held in memory.
            self._digits = {key: self.collections[data].digits(self.decoder, wanted.split)}
        digits = self._digits[key]
        clips = max(1, PIECE_FRAMES // digits.config.frames)
        for first in range(wanted.first, wanted.end, clips):
            made = []
            for index in range(first, min(first + clips, wanted.end)):
                digit, clip = digits[index], index - wanted.first
                labels = {"digit": digit.digit, "motion": digit.motion}
                yield Made(clip=clip, source=digit.clip.source, labels=labels)
                made.append(
                    Frames(
                        clip=np.full(digits.config.frames, clip),
                        frames=digit.clip.frames.numpy(),
                        times_s=digit.clip.times_s.numpy(),
                        indices=np.arange(digits.config.frames),
                    )
                )
            yield _joined(made)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeShards:
    """Encodes frames and writes the shard."""

    out: str
    tokenizer: str
    description: Description
    keep_frames: bool
    precision: Precision

    @contextmanager
    def open(self) -> Iterator[Callable[[ShardTask, Iterator[Message]], Receipt]]:
        """Load the tokenizer onto the device."""
        tokenizer = load_tokenizer(self.tokenizer)
        if tokenizer.digest() != self.description.tokenizer_digest:
            raise ValueError(f"{self.tokenizer} is not the tokenizer that this run began with")
        encode = device_encode(tokenizer, self.precision)
        yield lambda task, messages: self._do(task, messages, encode)

    def _do(self, task: ShardTask, messages: Iterator[Message], encode: Encode) -> Receipt:
        clips = _Clips(task, encode, keep_frames=self.keep_frames)
        for message in messages:
            clips.take(message)
        folder = Path(self.out, task.name)
        frames = duration_s = 0.0
        with ShardWriter(folder, self.description_of(task)) as writer:
            for grid, record, pixels, length_s in clips.finished(self.description.vocab_size):
                writer.add(grid, record, pixels)
                frames += len(grid.ids)
                duration_s += length_s
            if writer.clips:
                # A worker that was killed before its receipt has left the same shard.
                writer.commit(exists_ok=True)
        rows, columns = self.description.grid
        receipt = Receipt(
            task=task.digest(),
            clips=writer.clips,
            frames=int(frames),
            tokens=int(frames) * rows * columns,
            duration_s=duration_s,
            lost=clips.lost(),
        )
        write_receipt(Path(self.out), task, receipt)
        return receipt

    def description_of(self, task: ShardTask) -> Description:
        """What the task's shard says of itself."""
        return replace(self.description, kind=task.kind)


def device_encode(tokenizer: Tokenizer, precision: Precision) -> Encode:
    """Put a tokenizer onto the GPU, if there is one, and return its fastest way to encode.

    Raises:
        ValueError: if it cannot compute in that precision there.
    """
    if isinstance(tokenizer, torch.nn.Module):
        tokenizer.to(device())
    return fast_encode(tokenizer, precision)


class _Clips:
    """The clips of a shard as far as they have been encoded."""

    def __init__(self, task: ShardTask, encode: Encode, *, keep_frames: bool) -> None:
        self.task, self._encode, self._keep_frames = task, encode, keep_frames
        self._parts: dict[int, list[tuple[Any, Frames]]] = {}
        self._made: dict[int, Made] = {}
        self._lost: dict[int, Lost] = {}

    def take(self, message: Message) -> None:
        if isinstance(message, Made):
            self._made[message.clip] = message
        elif isinstance(message, Lost):
            self._lost.update(dict.fromkeys(message.clips, message))
        else:
            ids = self._encode(torch.from_numpy(message.frames)).to("cpu", torch.int32)
            for clip in np.unique(message.clip):
                own = message.clip == clip
                part = Frames(
                    clip=message.clip[own],
                    frames=message.frames[own] if self._keep_frames else message.frames[:0],
                    times_s=message.times_s[own],
                    indices=message.indices[own],
                )
                self._parts.setdefault(int(clip), []).append((ids[torch.from_numpy(own)], part))

    def finished(
        self, vocab_size: int
    ) -> Iterator[tuple[TokenGrid, ClipRecord, torch.Tensor | None, float]]:
        """Give the clips that came through, in the order of the task, with their lengths."""
        for clip in sorted(self._parts.keys() - self._lost.keys()):
            ids = torch.cat([ids for ids, _ in self._parts[clip]])
            parts = _joined([part for _, part in self._parts[clip]])
            pixels = torch.from_numpy(parts.frames) if self._keep_frames else None
            record, length_s = self._record(clip, parts)
            yield TokenGrid(ids=ids, vocab_size=vocab_size), record, pixels, length_s

    def lost(self) -> tuple[tuple[str, str, str], ...]:
        """Name, stage and reason of each clip of the data set that was lost, once."""
        found = {self.task.clips[clip].row.clip: lost for clip, lost in self._lost.items()}
        return tuple((name, lost.stage, lost.reason) for name, lost in sorted(found.items()))

    def _record(self, clip: int, parts: Frames) -> tuple[ClipRecord, float]:
        shared = {
            "frame_indices": tuple(parts.indices.tolist()),
            "times_s": tuple(parts.times_s.tolist()),
            "side_px": self.task.side_px,
        }
        if self.task.digits is not None:
            made = self._made[clip]
            length_s = float(parts.times_s[-1])
            return (
                ClipRecord(
                    source=made.source,
                    source_sha256=None,
                    crop=(0.5, 0.5),
                    labels=made.labels,
                    **shared,
                ),
                length_s,
            )
        row, cut = self.task.clips[clip].row, self.task.clips[clip].cut
        return (
            ClipRecord(
                source=row.source,
                path=row.path,
                clip=row.clip,
                source_sha256=row.sha256,
                crop=cut.crop,
                label=row.label,
                **shared,
            ),
            row.duration_s,
        )


def receipt_file(out: Path, task: ShardTask) -> Path:
    """Say where the receipt of a task is."""
    return out / RECEIPTS / f"{task.name}.json"


def write_receipt(out: Path, task: ShardTask, receipt: Receipt) -> None:
    """Say that a task is done, once its shard is on disk."""
    file = receipt_file(out, task)
    durable.make_folder(file.parent)
    durable.write_json(file, asdict(receipt))


def read_receipt(out: Path, task: ShardTask) -> Receipt | None:
    """Read the receipt of a task, or None if it is not done.

    Raises:
        ValueError: if the receipt is of another task: the data has changed since.
    """
    file = receipt_file(out, task)
    try:
        saved = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    if saved["task"] != task.digest():
        raise ValueError(
            f"{file}: this shard was made of other clips; the data has changed since, choose "
            "another --out"
        )
    return Receipt(**{**saved, "lost": tuple(map(tuple, saved["lost"]))})


def _joined(parts: Sequence[Frames]) -> Frames:
    return Frames(
        clip=np.concatenate([part.clip for part in parts]),
        frames=np.concatenate([part.frames for part in parts]),
        times_s=np.concatenate([part.times_s for part in parts]),
        indices=np.concatenate([part.indices for part in parts]),
    )
