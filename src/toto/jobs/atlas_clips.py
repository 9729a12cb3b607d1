"""The clips of the layer atlas: which train, which choose and which are reported; their classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from toto.data.token_set import TokenSet
from toto.jobs.listed_samples import clip_ids
from toto.probe.encoder import Encoder
from toto.studies.layers import held_out_of

SPLITS = ("train", "selection", "test")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AtlasClips:
    """The clips of one split.

    Attributes:
        tokens: the set they are cut from; the one that trains may also hold those that choose.
        numbers: of the clips in it, rising.
        labels: class of each, in the order of `classes`.
        classes: their names.
        frames: that are read of each clip, from its middle.
    """

    tokens: TokenSet
    numbers: tuple[int, ...]
    labels: Int64[Tensor, " N"]
    classes: tuple[str, ...]
    frames: int

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the clips."""
        names = clip_ids(self.tokens)
        return tuple(names[number] for number in self.numbers)

    def windows(self, encoder: Encoder) -> Int64[Tensor, "N T Y X"] | UInt8[Tensor, "N T H W 3"]:
        """Cut what an encoder reads."""
        starts = [(int(self.tokens.lengths[n]) - self.frames) // 2 for n in self.numbers]
        return torch.stack(
            [
                encoder.window(self.tokens, number, start, self.frames)
                for number, start in zip(self.numbers, starts, strict=True)
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
    words = {name: _words(tokens, label) for name, tokens in sets.items()}
    classes = tuple(sorted(set(words["train"]), key=lambda word: (len(word), word)))
    shortest = min(int(tokens.lengths.min()) for tokens in sets.values())
    if frames is not None and frames > shortest:
        raise ValueError(f"--frames {frames}: a clip has only {shortest}")
    place = {word: number for number, word in enumerate(classes)}
    labels = {}
    for name, found in words.items():
        strange = sorted(set(found) - set(classes))
        if strange:
            raise ValueError(
                f"{sets[name].path} has class {strange[0]!r}, which no clip of "
                f"{sets['train'].path} has; give splits of the same classes"
            )
        labels[name] = torch.tensor([place[word] for word in found])
    numbers = {name: torch.arange(len(found)) for name, found in words.items()}
    if "selection" not in sets:
        parts = held_out_of(labels["train"], share, seed=seed)
        numbers["train"], numbers["selection"] = parts
        labels["selection"] = labels["train"]
    if most is not None:
        numbers["train"] = _fewer(numbers["train"], labels["train"], most, seed)
    return {
        name: AtlasClips(
            tokens=sets.get(name, sets["train"]),
            numbers=tuple(numbers[name].tolist()),
            labels=labels[name][numbers[name]],
            classes=classes,
            frames=frames or shortest,
        )
        for name in SPLITS
    }


def _fewer(
    numbers: Int64[Tensor, " n"], labels: Int64[Tensor, " N"], most: int, seed: int
) -> Int64[Tensor, " m"]:
    """Draw so many clips of each class."""
    generator = torch.Generator().manual_seed(seed)
    drawn = numbers[torch.randperm(len(numbers), generator=generator)]
    kept = [drawn[labels[drawn] == label][:most] for label in labels.unique()]
    return torch.cat(kept).sort().values


def _words(tokens: TokenSet, label: str) -> Sequence[str]:
    if label:
        return [str(number) for number in tokens.labels(label).tolist()]
    words = [record.label for record in tokens.clips]
    if None in words:
        carried = ", ".join(sorted(tokens.clips[words.index(None)].labels)) or "none"
        raise ValueError(
            f"{tokens.clips[words.index(None)].name} has no class of its data set; name a label "
            f"with --label (it carries: {carried})"
        )
    return [word for word in words if word is not None]
