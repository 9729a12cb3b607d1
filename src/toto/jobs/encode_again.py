"""Tokenise a clip of a shard again from its source, to see whether the same codes come out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from toto.data.records import ClipRecord, Description
from toto.jobs.shard_work import device_encode
from toto.jobs.tokenize import Tokenize
from toto.runtime.devices import Precision
from toto.runtime.folder import RunFolder
from toto.tokenizers import load_tokenizer
from toto.types import TokenGrid
from toto.video.collection import Collection
from toto.video.datasets.moving_digits import MovingDigits, Split
from toto.video.decode import Decoder
from toto.video.manifest import Row
from toto.video.reading import PIECE_FRAMES, Cut, read_clip


class EncodeAgain:
    """Reads and encodes clips as a finished tokenise run did; a context.

    Args:
        shards: folder that `toto tokenize` wrote.
        data: the data folders; empty takes those that the run was given.

    Raises:
        ValueError: if `shards` is no such folder, or a data folder cannot be opened.
    """

    def __init__(self, shards: Path, data: Sequence[Path] = ()) -> None:
        if not data:
            with RunFolder.open(shards) as run:
                data = run.config(Tokenize).data
        self._collections = [Collection(folder) for folder in data]
        self._rows = {
            (row.source, row.clip): (collection, row)
            for collection in self._collections
            for row in collection.clips
        }
        self._tokenizer = load_tokenizer(shards / "tokenizer")
        self._digits: dict[str, MovingDigits] = {}
        self._decoder = Decoder()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    def __call__(self, record: ClipRecord, description: Description) -> TokenGrid:
        """Tokenise the clip of a record.

        Raises:
            ValueError: if the tokenizer is another one, the clip is not in the data, or its file
                cannot be read or has changed.
        """
        if self._tokenizer.digest() != description.tokenizer_digest:
            raise ValueError(f"{record.name} was made by another tokenizer than the one beside it")
        frames = self._frames(record)
        encode = device_encode(self._tokenizer, _precision(description))
        # As many at once as when the shard was made: what is computed together can matter.
        ids = torch.cat([encode(part) for part in frames.split(PIECE_FRAMES)])
        return TokenGrid(ids=ids, vocab_size=description.vocab_size)

    def _frames(self, record: ClipRecord) -> Tensor:
        if record.source_sha256 is None:
            return self._made(record)
        try:
            collection, row = self._rows[record.source, record.clip]
        except KeyError:
            raise ValueError(f"{record.name} is not in the data folders; give --data") from None
        collection.require_unchanged(self._decoder, row)
        cut = Cut(stride=_stride(record, row), side_px=record.side_px, crop=record.crop)
        decoded = read_clip(self._decoder, collection.dataset.root, row, cut)
        if decoded.indices.tolist() != list(record.frame_indices):
            raise ValueError(f"{record.name}: other frames come out of it than were tokenised")
        return torch.from_numpy(decoded.frames)

    def _made(self, record: ClipRecord) -> Tensor:
        name, _, index = record.source.partition("#")
        split = name.rpartition("/")[2]
        if split not in self._digits:
            made = [c for c in self._collections if c.config.has_digits]
            if not made:
                raise ValueError(f"{record.name} was made over data that is not there; give --data")
            self._digits[split] = made[0].digits(self._decoder, _split(split))
        return self._digits[split][int(index)].clip.frames


def _precision(description: Description) -> Precision:
    match description.precision:
        case "fp32" | "bf16":
            return description.precision
        case other:
            raise ValueError(f"precision {other!r}: these tokens were not made by toto")


def _stride(record: ClipRecord, row: Row) -> int:
    indices = record.frame_indices
    return indices[1] - indices[0] if len(indices) > 1 else max(1, row.frames)


def _split(name: str) -> Split:
    match name:
        case "pretrain" | "train" | "selection" | "test":
            return name
        case _:
            raise ValueError(f"moving digits have no split {name!r}")
