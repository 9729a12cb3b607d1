"""The clips of the layer atlas: which train, which choose and which are reported; their classes."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from toto.data.token_set import TokenSet
from toto.jobs.labelled_splits import OWN, LabelledSplit, labelled_splits
from toto.probe.encoder import Encoder


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AtlasClips:
    """The clips of one split.

    Attributes:
        samples: what they are.
        frames: that are read of each clip, from its middle.
    """

    samples: LabelledSplit
    frames: int

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def tokens(self) -> TokenSet:
        """The set that they are cut from; the one that trains may also hold those that choose."""
        return self.samples.tokens

    @property
    def labels(self) -> Int64[Tensor, " N"]:
        """Class of each, in the order of `classes`."""
        return self.samples.labels[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.samples.classes[0]

    def windows(self, encoder: Encoder) -> Int64[Tensor, "N T Y X"] | UInt8[Tensor, "N T H W 3"]:
        """Cut what an encoder reads."""
        numbers = self.samples.numbers
        starts = [(int(self.tokens.lengths[n]) - self.frames) // 2 for n in numbers]
        return torch.stack(
            [
                encoder.window(self.tokens, number, start, self.frames)
                for number, start in zip(numbers, starts, strict=True)
            ]
        )


def atlas_clips(
    sets: dict[str, TokenSet],
    *,
    label: str,
    frames: int | None,
    share: float,
    most: int | None,
    seed: int,
) -> dict[str, AtlasClips]:
    """Part the clips into those that train, that choose and that are reported.

    Args:
        sets: `train` and `test`, and `selection` where it is a set of its own.
        label: a label that clips carry; empty: the data set's own word for each.
        frames: read of each clip; None takes what the shortest has.
        share: of the training clips that choose, where no set does.
        most: of each class that train the heads; None takes all that do not choose.
        seed: of the draws.

    Raises:
        ValueError: if a clip has no label or too few frames, or a class is not among the training
            clips.
    """
    shortest = min(int(tokens.lengths.min()) for tokens in sets.values())
    if frames is not None and frames > shortest:
        raise ValueError(f"--frames {frames}: a clip has only {shortest}")
    splits = labelled_splits(sets, {label or OWN: None}, share=share, seed=seed)
    if most is not None:
        splits["train"] = _fewer(splits["train"], most, seed)
    return {
        name: AtlasClips(samples=split, frames=frames or shortest) for name, split in splits.items()
    }


def _fewer(train: LabelledSplit, most: int, seed: int) -> LabelledSplit:
    """Draw so many clips of each class."""
    labels = train.labels[0]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(train), generator=generator)
    kept = [drawn[labels[drawn] == label][:most] for label in labels.unique()]
    chosen = torch.cat(kept).sort().values
    return replace(
        train,
        squares=tuple(train.squares[number] for number in chosen.tolist()),
        labels=train.labels[:, chosen],
    )
