"""Which labelled clips train, which choose and which are reported, and what their classes are.

Data sets name classes by words, and several orders of their numbers are about (ILSVRC has two). So
a class's number is its place among the sorted words of the training split, the same in every split,
and what is written down has the words.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from toto.data.token_set import TokenSet
from toto.jobs.sequences import open_tokens
from toto.studies.layers import held_out_of
from toto.tasks.ledger import Split, Views
from toto.tasks.views import crop_shares

SPLITS = ("train", "selection", "test")
OWN = "class"
"""Label that stands for the data set's own word, such as a WordNet id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitNames:
    """Token sets of labelled clips."""

    train: str = "train"
    selection: str = "selection"
    """Chooses what is chosen; if left empty, a part of the training set does."""
    selection_share: float = 0.1
    """Of the clips of each class, that part."""
    test: str = "test"
    """Is reported. Data sets of two splits call it `val`."""

    def __post_init__(self) -> None:
        if not 0 < self.selection_share < 1:
            raise ValueError(f"selection_share {self.selection_share} must lie between 0 and 1")
        names = {self.train, self.test, self.selection or None}
        if len(names) < 3 or "" in names:
            raise ValueError(
                f"train {self.train!r}, selection {self.selection!r} and test {self.test!r} must "
                "be different sets"
            )

    def open(self, shards: str, *, frames: Callable[[str], bool]) -> dict[str, TokenSet]:
        """Open the sets, by what they are for.

        Args:
            shards: folder or address that they lie in.
            frames: whether the frames of a split are read.

        Raises:
            ValueError: if one is not there, is damaged, or keeps no frames where they are read.
        """
        names = {"train": self.train, "selection": self.selection, "test": self.test}
        return {
            split: open_tokens(shards, name, frames=frames(split))
            for split, name in names.items()
            if name
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledSplit:
    """The samples of one split.

    Each square of a training clip is a sample. Elsewhere a clip is one, however many squares of it
    there are.

    Attributes:
        split: `train`, `selection` or `test`.
        tokens: the set that its clips are in; that of the training split may hold both.
        squares: for each sample, the numbers of its squares in the set, left to right.
        labels: class of each sample in each task.
        classes: of each task, in the order of their numbers.
    """

    split: str
    tokens: TokenSet
    squares: tuple[tuple[int, ...], ...]
    labels: Int64[Tensor, "G N"]
    classes: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.squares)

    @property
    def numbers(self) -> tuple[int, ...]:
        """For each sample, the number in the set of the square that stands for it."""
        return tuple(squares[len(squares) // 2] for squares in self.squares)

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the samples."""
        names = self.tokens.names()
        return tuple(names[squares[0]] for squares in self.squares)

    @property
    def digest(self) -> str:
        """sha256 of its set; a part of one has none of its own, and says so."""
        return self._of(self.tokens.sha256)

    def described(self) -> Split:
        """Say what it holds."""
        return Split.of(
            self._of("/".join(Path(self.tokens.path).parts[-2:])), self.digest, self.ids
        )

    def _of(self, whole: str) -> str:
        squares = sum(map(len, self.squares))
        return whole if squares == len(self.tokens.lengths) else f"{self.split} of {whole}"

    def require_views(self, views: Views) -> None:
        """Refuse to look at squares that were not cut.

        Raises:
            ValueError: if a sample has not the squares of these views.
        """
        if views.spatial == 1:
            return
        shares, crops = crop_shares(views.spatial), self.tokens.crops()
        along = ([(share, 0.5) for share in shares], [(0.5, share) for share in shares])
        for name, squares in zip(self.ids, self.squares, strict=True):
            if [crops[number] for number in squares] not in along:
                raise ValueError(
                    f"{name} has {len(squares)} squares, views of {views.spatial} along its longer "
                    f"side are asked for; tokenise again with --test-crops {views.spatial}, or "
                    "evaluate with --views.spatial 1"
                )


def labelled_splits(
    sets: Mapping[str, TokenSet],
    tasks: Mapping[str, int | None],
    *,
    share: float,
    seed: int = 0,
) -> dict[str, LabelledSplit]:
    """Part the clips into those that train, that choose and that are reported.

    Args:
        sets: `train` and `test`, and `selection` where it is a set of its own.
        tasks: labels, each with the number of classes it must have; None takes what there is.
        share: of the training clips of each class of the first task that choose, where no set does.
            All squares of a clip stay together.
        seed: of that draw.

    Raises:
        ValueError: if a clip lacks a label, there are other classes than expected, or one that is
            not among the training clips.
    """
    classes = tuple(_classes(sets["train"], label, count) for label, count in tasks.items())
    labels = {
        name: torch.stack(
            [_numbers(tokens, label, known) for label, known in zip(tasks, classes, strict=True)]
        )
        for name, tokens in sets.items()
    }
    squares = {
        name: _every_square(tokens) if name == "train" else list(_clips(tokens))
        for name, tokens in sets.items()
    }
    if "selection" not in sets:
        clips = list(_clips(sets["train"]))
        first = torch.tensor([numbers[0] for numbers in clips])
        train, chooses = held_out_of(labels["train"][0, first], share, seed=seed)
        squares["train"] = [(number,) for clip in train.tolist() for number in clips[clip]]
        squares["selection"] = [clips[clip] for clip in chooses.tolist()]
        labels["selection"] = labels["train"]
    return {
        name: LabelledSplit(
            split=name,
            tokens=sets.get(name, sets["train"]),
            squares=tuple(squares[name]),
            labels=labels[name][:, [numbers[0] for numbers in squares[name]]],
            classes=classes,
        )
        for name in SPLITS
    }


def _classes(train: TokenSet, label: str, expected: int | None) -> tuple[str, ...]:
    if label != OWN:
        # A label that is a number is its class's number, whether or not a training clip has it.
        numbers = range(expected) if expected else sorted(set(train.labels(label).tolist()))
        return tuple(map(str, numbers))
    classes = tuple(sorted(set(train.words())))
    if expected not in (None, len(classes)):
        raise ValueError(
            f"{train.path} has {len(classes)} classes, task {label!r} has {expected}; "
            f"set its classes to {len(classes)}, or give all of the data set"
        )
    return classes


def _numbers(tokens: TokenSet, label: str, classes: Sequence[str]) -> Int64[Tensor, " N"]:
    words = tokens.words() if label == OWN else map(str, tokens.labels(label).tolist())
    place = {word: number for number, word in enumerate(classes)}
    found = []
    for word in words:
        if word not in place:
            raise ValueError(
                f"{tokens.path} has {label} {word!r}, which is none of the {len(classes)} classes "
                "of the training clips; give splits of the same classes"
                + ("" if label == OWN else ", or the right number of classes")
            )
        found.append(place[word])
    return torch.tensor(found)


def _every_square(tokens: TokenSet) -> list[tuple[int, ...]]:
    return [(number,) for number in range(len(tokens.lengths))]


def _clips(tokens: TokenSet) -> Iterator[tuple[int, ...]]:
    """Numbers of each clip's squares, left to right or top to bottom; the clips in their order."""
    found: dict[str, list[tuple[tuple[float, float], int]]] = {}
    for number, (name, crop) in enumerate(zip(tokens.names(), tokens.crops(), strict=True)):
        found.setdefault(name, []).append((crop, number))
    for squares in found.values():
        yield tuple(number for _, number in sorted(squares))
