"""Batches of token sequences, from shards, in order.

In the training process, without workers: cutting windows from a memory map costs microseconds,
sending them between processes costs more (docs/decisions/0003-token-shards.md).
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64

from toto.data.layout import Layout
from toto.data.order import Order, Place
from toto.data.shards import Shard
from toto.data.token_set import TokenSet
from toto.data.windows import Windows
from toto.types import Batch

Cut = tuple[int, list[int], list[int]]
"""A sequence's source, and clip and first frame of each of its items."""


class Loader:
    """Cuts what an order names from the shards and lays it out.

    A sequence of a video source is one window of successive frames of one clip. A sequence of an
    image source is as many images as the layout has frames, from anywhere in the source.

    The random R x R crop of the paper was taken when the frames were tokenised: a shard may hold
    several squares of a clip, at places that follow from the clip's identity, and each is a sample
    like any other.

    Args:
        shards: one a source, in the order of `weights`.
        weights: shares of the sources.
        layout: the sequence format.
        seed: of the order.
        reads: which of a window's codes and frames a batch carries. Of frames alone every id in a
            frame is 0, so that the layout's grid need not be the tokens'.
        hop: frames from the start of one window of a clip to the next one's. At 1 every frame is a
            start; at the layout's frames, each frame is in one window at most.

    Raises:
        ValueError: if no clip of a shard is long enough, or there are too few images.
    """

    def __init__(
        self,
        shards: Sequence[Shard | TokenSet],
        weights: Sequence[float],
        layout: Layout,
        *,
        seed: int,
        reads: Literal["codes", "frames", "both"] = "codes",
        hop: int = 1,
    ) -> None:
        self.shards, self.layout, self.reads = shards, layout, reads
        self._windows: list[Windows] = []
        self._takes: list[int] = []
        for shard in shards:
            frames = layout.config.frames
            if shard.description.kind == "video":
                windows, takes = Windows(shard.lengths, frames, hop=hop), 1
                lack = f"no clip has {frames} frames"
                remedy = "choose fewer frames a sequence, or a smaller stride"
            else:
                # An image is a window of one frame, and a sequence takes many of them.
                windows, takes = Windows(shard.lengths, 1), frames
                lack = f"{len(windows)} images do not fill a sequence of {frames}"
                remedy = "choose fewer frames a sequence, or add images"
            if len(windows) < takes:
                raise ValueError(f"{shard.path}: {lack}; {remedy}")
            self._windows.append(windows)
            self._takes.append(takes)
        counts = [len(windows) for windows in self._windows]
        self.order = Order(counts, weights, seed, takes=self._takes)

    def batch(self, places: Sequence[Place]) -> Batch:
        """Make the batch of these places."""
        return self._read(self.cuts(places))

    def cuts(self, places: Sequence[Place]) -> list[Cut]:
        """Say which clips and frames the sequences of these places are cut from."""
        cuts: list[Cut] = [(0, [], [])] * len(places)
        for source in {place.source for place in places}:
            rows = [row for row, place in enumerate(places) if place.source == source]
            items = np.array([places[row].items for row in rows])
            for row, cut in zip(rows, _cuts(source, self._windows[source], items), strict=True):
                cuts[row] = cut
        return cuts

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
        """Yield the first sequences of one source once, for validation; at most `limit`.

        They share no frame: windows that lie side by side, or images in the order they are stored.
        A rest that fills no sequence is left out.
        """
        frames, take = self.layout.config.frames, self._takes[source]
        windows = Windows(self.shards[source].lengths, frames // take, hop=frames // take)
        last = min(limit, len(windows) // take)
        for first in range(0, last, batch):
            items = np.arange(first * take, min(first + batch, last) * take).reshape(-1, take)
            yield self._read(_cuts(source, windows, items))

    def _read(self, cuts: Sequence[Cut]) -> Batch:
        count = self.layout.config.frames
        ids = torch.empty(len(cuts), self.layout.length, dtype=torch.int64)
        grid = torch.zeros(count, 1, self.layout.frame_tokens, dtype=torch.int64)
        frames = []
        for row, (source, clips, starts) in zip(ids, cuts, strict=True):
            shard, length = self.shards[source], count // len(clips)
            located = list(zip(clips, starts, strict=True))
            if self.reads != "frames":
                grid = torch.cat([shard.window(clip, start, length) for clip, start in located])
            self.layout.sequence(grid, shard.description.kind, out=row)
            if self.reads != "codes":
                pixels = [shard.pixels(clip, start, length) for clip, start in located]
                frames.append(torch.cat(pixels))
        return Batch(
            ids=ids,
            weight=self.layout.weight(len(ids)),
            frames=torch.stack(frames) if frames else None,
        )


def _cuts(source: int, windows: Windows, items: Int64[np.ndarray, "N K"]) -> list[Cut]:
    clips, starts = windows.locate(items.ravel())
    located = zip(
        clips.reshape(items.shape).tolist(), starts.reshape(items.shape).tolist(), strict=True
    )
    return [(source, *both) for both in located]
