"""Batches of labelled clips for fine-tuning, each a pure function of (seed, step).

The samples of the whole run are numbered through. What happens to one follows from (seed, its
number), and how a step mixes from (seed, step), so that restarts, ranks and threads change nothing.

Where pixels are changed, they are changed before the run's own frozen tokenizer reads them: that is
what MAE's recipe, made for models that read pixels, means for one that reads codes. The paper says
nothing of it.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from toto.data.layout import Layout
from toto.data.order import Order
from toto.jobs.labelled_splits import LabelledSplit
from toto.tasks.ledger import Views
from toto.tasks.views import view_indices
from toto.tokenizers import Tokenizer
from toto.train.augmentation import AugmentationConfig, augment
from toto.train.mixing import MixingConfig, draw_mix, mix_frames, mix_targets, soft_targets

SAMPLE, STEP, DROPPED = range(3)
"""What a generator is for; each has its own stream of random numbers."""
THREADS = min(8, os.cpu_count() or 1)
"""That change pixels, while the model computes; Pillow lets go of Python's lock."""


def generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    """The random numbers of one sample or step of a run."""
    return np.random.default_rng([seed, purpose, number])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledBatch:
    """Clips with what is to be said of them.

    Attributes:
        ids: whole sequences.
        frames: sRGB bytes, where the model reads patches.
        targets: share of each class.
        numbers: of the samples; empty in evaluation.
    """

    ids: Int64[Tensor, "B L_plus_1"]
    frames: UInt8[Tensor, "B T H W 3"] | None
    targets: Float32[Tensor, "B J"]
    numbers: Sequence[int] = ()


class LabelledClips:
    """The samples of one split, as a model reads them.

    Attributes:
        split: which they are.
        tokens: the set that they are cut from.
        labels: class of each.
        classes: how many there are.
        layout: of a sequence.
    """

    def __init__(self, split: LabelledSplit, layout: Layout, *, patches: bool = False) -> None:
        """Put samples into a format.

        Args:
            split: of one task.
            layout: of a sequence; its frames are cut from each clip.
            patches: whether the model reads the frames themselves; the ids stand for nothing then.

        Raises:
            ValueError: if a clip has too few frames.
        """
        self.split, self.layout, self.patches = split, layout, patches
        self.tokens, self.labels = split.tokens, split.labels[0]
        self.classes = len(split.classes[0])
        self._numbers = split.numbers
        shortest, frames = int(self.tokens.lengths.min()), layout.config.frames
        if shortest < frames:
            raise ValueError(
                f"{self.tokens.path} has a clip of {shortest} frames, {frames} are read of each; "
                f"--frames {shortest}"
            )

    def __len__(self) -> int:
        return len(self.split)

    def start(self, sample: int, share: float) -> int:
        """First frame that training reads of a sample: so far into the room that it has."""
        room = int(self.tokens.lengths[self._numbers[sample]]) - self.layout.config.frames
        return min(int(share * (room + 1)), room)

    def viewed(
        self, samples: Sequence[int], views: Views | None = None, *, clip: int = 0, crop: int = 0
    ) -> LabelledBatch:
        """Read samples as they are, one view of each.

        Views begin on frames that the shards keep, less than a stride away from SlowFast's.

        Args:
            samples: which.
            views: how many there are; a lone one is the middle square, halfway through the clip.
            clip: which of them in time.
            crop: which of them in space.
        """
        views, frames = views or Views(), self.layout.config.frames
        read = []
        for sample in samples:
            squares = self.split.squares[sample]
            number = self._numbers[sample] if views.spatial == 1 else squares[crop]
            length = int(self.tokens.lengths[number])
            places = view_indices(length, frames, 1, clip=clip, clips=views.temporal)
            read.append(self._cut(number, int(places[0])))
        targets = soft_targets(self.labels[list(samples)], self.classes, smoothing=0.0)
        return self.laid_out(read, targets)

    def read(self, sample: int, start: int) -> Int64[Tensor, "T Y X"] | UInt8[Tensor, "T H W 3"]:
        """Cut from a sample what the model reads: codes, or frames."""
        return self._cut(self._numbers[sample], start)

    def pixels(self, sample: int, start: int) -> UInt8[Tensor, "T H W 3"]:
        """Cut the frames of a sample."""
        return self.tokens.pixels(self._numbers[sample], start, self.layout.config.frames)

    def _cut(self, number: int, start: int) -> Int64[Tensor, "T Y X"] | UInt8[Tensor, "T H W 3"]:
        cut = self.tokens.pixels if self.patches else self.tokens.window
        return cut(number, start, self.layout.config.frames)

    def laid_out(
        self,
        read: Sequence[Int64[Tensor, "T Y X"] | UInt8[Tensor, "T H W 3"]],
        targets: Float32[Tensor, "B J"],
        numbers: Sequence[int] = (),
    ) -> LabelledBatch:
        """Make the batch of what was read of some clips, by `read` or otherwise."""
        grid = (self.layout.config.frames, self.layout.frame_tokens, 1)
        kind = self.tokens.description.kind
        ids = [
            self.layout.sequence(
                # Which code a place has is not looked at, only that it is no special id.
                torch.zeros(grid, dtype=torch.int64) if self.patches else codes,
                kind,
            )
            for codes in read
        ]
        return LabelledBatch(
            ids=torch.stack(ids),
            frames=torch.stack(list(read)) if self.patches else None,
            targets=targets,
            numbers=numbers,
        )


class TrainingBatches:
    """The training split, shuffled, changed and mixed.

    Args:
        clips: the split.
        tokenizer: of the run; it encodes what was changed.
        augmentation: what is done to each sample.
        mixing: what is done to each step.
        smoothing: share of a target that is divided among all classes.
        batch: samples a step, over all ranks.
        seed: of order and changes.
    """

    def __init__(
        self,
        clips: LabelledClips,
        tokenizer: Tokenizer,
        augmentation: AugmentationConfig,
        mixing: MixingConfig,
        *,
        smoothing: float,
        batch: int,
        seed: int,
    ) -> None:
        self._clips, self._tokenizer = clips, tokenizer
        self._augmentation, self._mixing = augmentation, mixing
        self._smoothing, self._batch, self._seed = smoothing, batch, seed
        self._changes = augmentation.changes or mixing.changes
        self._order = Order([len(clips)], [1.0], seed)

    def part(self, *, accumulate: int, world: int) -> int:
        """How many samples a rank takes at once.

        Raises:
            ValueError: if the parts do not divide the batch, or split the pairs that are mixed.
        """
        part, rest = divmod(self._batch, world * accumulate)
        pairs = self._mixing.changes
        if rest or (pairs and part % 2):
            raise ValueError(
                f"batch {self._batch} does not divide into {world} ranks x {accumulate} parts"
                f"{' of whole pairs, which are mixed' if pairs else ''}; choose another --batch "
                "or --accumulate"
            )
        return part

    def from_step(
        self, first_step: int, *, accumulate: int = 1, rank: int = 0, world: int = 1
    ) -> Iterator[LabelledBatch]:
        """Yield this rank's batches from a step on, without end.

        Args:
            first_step: steps already taken, when a run is resumed.
            accumulate: parts that each step's share is handed out in.
            rank: of this process.
            world: how many ranks share the batch.

        Raises:
            ValueError: as `part` says.
        """
        part = self.part(accumulate=accumulate, world=world)
        places = (
            (step, range(first, first + part))
            for step in count(first_step)
            for number in range(accumulate)
            for first in (step * self._batch + (rank * accumulate + number) * part,)
        )
        if not self._changes:
            for _, numbers in places:
                yield self._unchanged(numbers)
        with ThreadPoolExecutor(THREADS) as threads:
            step, numbers = next(places)
            waiting = [threads.submit(self._changed, number) for number in numbers]
            for next_step, next_numbers in places:
                coming = [threads.submit(self._changed, number) for number in next_numbers]
                frames = torch.stack([sample.result() for sample in waiting])
                yield self._mixed(frames, numbers, step)
                step, numbers, waiting = next_step, next_numbers, coming

    def _place(self, number: int) -> tuple[int, np.random.Generator]:
        """Clip of a sample, and its random numbers; the first of them places it in time."""
        return self._order[number].items[0], generator(self._seed, SAMPLE, number)

    def _unchanged(self, numbers: range) -> LabelledBatch:
        clips, frames = [], []
        for clip, draw in map(self._place, numbers):
            clips.append(clip)
            frames.append(self._clips.read(clip, self._clips.start(clip, draw.random())))
        return self._clips.laid_out(frames, self._targets(clips), numbers)

    def _changed(self, number: int) -> UInt8[Tensor, "T H W 3"]:
        clip, draw = self._place(number)
        pixels = self._clips.pixels(clip, self._clips.start(clip, draw.random()))
        return augment(pixels, self._augmentation, draw)

    def _mixed(
        self, frames: UInt8[Tensor, "B T H W 3"], numbers: range, step: int
    ) -> LabelledBatch:
        targets = self._targets([self._place(number)[0] for number in numbers])
        if self._mixing.changes:
            height, width = frames.shape[2:4]
            mix = draw_mix(self._mixing, height, width, generator(self._seed, STEP, step))
            frames, targets = mix_frames(frames, mix), mix_targets(targets, mix)
        if self._clips.patches:
            return self._clips.laid_out(list(frames), targets, numbers)
        codes = self._tokenizer.encode(frames.flatten(0, 1)).long()
        return self._clips.laid_out(list(codes.unflatten(0, (len(frames), -1))), targets, numbers)

    def _targets(self, clips: list[int]) -> Float32[Tensor, "B J"]:
        labels = self._clips.labels[clips]
        return soft_targets(labels, self._clips.classes, smoothing=self._smoothing)
