"""Small shards for the tests of this room."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from toto.data.records import ClipRecord, Description
from toto.data.shards import Shard, write_shard
from toto.data.token_set import TokenSet, shard_name, write_index
from toto.types import TokenGrid

CODES, GRID = 50, (2, 3)
DESCRIPTION = Description(
    tokenizer="grey",
    tokenizer_digest="0" * 64,
    vocab_size=CODES,
    patch_px=8,
    grid=GRID,
    kind="video",
    precision="fp32",
    resize_filter="lanczos",
    decoder="none",
)


def clip(number: int, frames: int, **labels: int) -> tuple[TokenGrid, ClipRecord]:
    """Random codes, and a record that says where they would come from."""
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(CODES, (frames, *GRID), generator=generator, dtype=torch.int32)
    record = ClipRecord(
        source=f"clip-{number}",
        source_sha256=None if number % 2 else f"{number:064x}",
        frame_indices=tuple(range(0, 4 * frames, 4)),
        times_s=tuple(number + index / 7 for index in range(frames)),
        side_px=24,
        crop=(0.5, 0.25),
        labels=labels,
    )
    return TokenGrid(ids=ids, vocab_size=CODES), record


def shard(path: Path, lengths: Sequence[int], **description: Any) -> Shard:
    """Write clips of these lengths and open them."""
    clips = [clip(number, length, digit=number % 10) for number, length in enumerate(lengths)]
    write_shard(path, replace(DESCRIPTION, **description), clips)
    return Shard(path)


def pixels(number: int, frames: int) -> torch.Tensor:
    """Frames that the codes of a clip could stand for: nothing compares the two."""
    generator = torch.Generator().manual_seed(number)
    size = (frames, GRID[0] * 8, GRID[1] * 8, 3)
    return torch.randint(256, size, generator=generator).byte()


def token_set(
    path: Path, lengths: Sequence[Sequence[int]], *, frames: bool = False, **description: Any
) -> TokenSet:
    """Write one shard for each of the lists of lengths, and an index; open them."""
    first = 0
    for number, of_shard in enumerate(lengths):
        clips = [
            (
                *clip(first + index, length, digit=(first + index) % 10),
                pixels(first + index, length) if frames else None,
            )
            for index, length in enumerate(of_shard)
        ]
        write_shard(path / shard_name(number), replace(DESCRIPTION, **description), clips)
        first += len(of_shard)
    write_index(path)
    return TokenSet(path, frames=frames)
