"""Batches of token sequences, from shards, in order.

In the training process, without workers: cutting windows from a memory map costs microseconds,
sending them between processes costs more (docs/decisions/0003-token-shards.md).
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from toto.data.layout import Layout
from toto.data.order import Order, Place
from toto.data.shards import Shard
from toto.types import Batch


class Loader:
    """Cuts the windows that an order names and lays them out.

    Args:
        shards: one a source, in the order of `weights`.
        weights: shares of the sources.
        layout: the sequence format.
        seed: of the order.
        reads: which of a window's codes and frames a batch carries. Of frames alone every id in a
            frame is 0, so that the layout's grid need not be the tokens'.

    Raises:
        ValueError: if no window of a shard is long enough.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        weights: Sequence[float],
        layout: Layout,
        *,
        seed: int,
        reads: Literal["codes", "frames", "both"] = "codes",
    ) -> None:
        self.shards, self.layout, self.reads = shards, layout, reads
        self._windows: list[np.ndarray] = []
        for shard in shards:
            windows = shard.windows(layout.config.frames)
            if not len(windows):
                raise ValueError(
                    f"{shard.path}: no clip has {layout.config.frames} frames; "
                    "choose fewer frames a sequence, or a smaller stride"
                )
            self._windows.append(windows)
        self.order = Order([len(windows) for windows in self._windows], weights, seed)

    def batch(self, places: Sequence[Place]) -> Batch:
        """Make the batch of these places."""
        rows, frames, count = [], [], self.layout.config.frames
        for place in places:
            shard = self.shards[place.source]
            clip, start = self._windows[place.source][place.window].tolist()
            if self.reads == "frames":
                grid = torch.zeros(count, 1, self.layout.frame_tokens, dtype=torch.int64)
            else:
                grid = shard.window(clip, start, count)
            rows.append(self.layout.sequence(grid, shard.description.kind))
            if self.reads != "codes":
                frames.append(shard.pixels(clip, start, count))
        return Batch(
            ids=torch.stack(rows),
            weight=self.layout.weight(len(rows)),
            frames=torch.stack(frames) if frames else None,
        )

    def batches(
        self, *, batch: int, first_step: int = 0, accumulate: int = 1, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Yield this rank's batches from a step on, without end.

        Args:
            batch: sequences of the global batch.
            first_step: steps already taken, when a run is resumed.
            accumulate: parts that each step's share is handed out in.
            rank: of this process.
            world: how many ranks share the batch.

        Raises:
            ValueError: if ranks and parts do not divide the batch.
        """
        if batch % (world * accumulate):
            raise ValueError(
                f"a batch of {batch} does not divide into {world} ranks x {accumulate} parts"
            )
        part = batch // world // accumulate
        step = first_step
        while True:
            places = self.order.step(step, batch=batch, rank=rank, world=world)
            for first in range(0, len(places), part):
                yield self.batch(places[first : first + part])
            step += 1

    def sweep(self, source: int, *, batch: int, limit: int) -> Iterator[Batch]:
        """Yield the first `limit` disjoint windows of one source once, for validation."""
        frames = self.layout.config.frames
        windows = self._windows[source]
        disjoint = np.flatnonzero(windows[:, 1] % frames == 0)[:limit]
        for first in range(0, len(disjoint), batch):
            chosen = disjoint[first : first + batch]
            yield self.batch([Place(source=source, window=int(window)) for window in chosen])
