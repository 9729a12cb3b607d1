"""What was answered for each sample of a split, and the metrics that follow from it alone."""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeAlias


def ids_sha256(ids: Iterable[str]) -> str:
    """Hash of a set of samples; their order does not matter."""
    return hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Which samples were asked for, and what became of them.

    Raises:
        ValueError: if a sample is listed twice, or one is lost that was not asked for.
    """

    ids: tuple[str, ...]
    """All that the split lists, whatever became of them."""
    missing: tuple[str, ...] = ()
    """Without an answer. They count as wrong."""
    undecodable: tuple[str, ...] = ()
    """Without an answer since their media could not be read. They count as wrong."""
    duplicated: tuple[str, ...] = ()
    """Answered more than once. They count once."""

    def __post_init__(self) -> None:
        require_distinct(self.ids, "the reported one")
        lost = (*self.missing, *self.undecodable)
        require_distinct(lost, "the lost ones")
        strange = sorted({*lost, *self.duplicated} - set(self.ids))
        if strange:
            raise ValueError(f"sample {strange[0]!r} was not asked for; list it or leave it out")

    @property
    def lost(self) -> frozenset[str]:
        """Those without an answer."""
        return frozenset((*self.missing, *self.undecodable))

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Those with an answer."""
        lost = self.lost
        return tuple(name for name in self.ids if name not in lost)


@dataclass(frozen=True, kw_only=True, slots=True)
class Classified:
    """The classes that were answered for each sample.

    Raises:
        ValueError: if counts differ, a class does not exist, or a sample has an answer and is lost.
    """

    samples: Samples
    classes: int
    labels: tuple[int, ...]
    """By sample; -1 where the sample was lost before its label was read."""
    ranked: tuple[tuple[tuple[int, ...], ...], ...]
    """By seed and sample: the likeliest classes, the first of all first; empty for a lost one."""

    def __post_init__(self) -> None:
        lost = self.samples.lost
        _require_counts(self.samples, len(self.labels), [len(one) for one in self.ranked])
        for place, (name, label) in enumerate(zip(self.samples.ids, self.labels, strict=True)):
            if not 0 <= label < self.classes and (label != -1 or name not in lost):
                raise ValueError(
                    f"sample {name!r} has label {label} of {self.classes} classes; mend the labels"
                )
            for one in self.ranked:
                _require_ranks(name, one[place], self.classes, lost=name in lost)

    @classmethod
    def gathered(
        cls,
        ids: Sequence[str],
        labels: Mapping[str, int],
        answered: Sequence[Iterable[tuple[str, Sequence[int]]]],
        *,
        classes: int,
        undecodable: Collection[str] = (),
    ) -> Self:
        """Join answers to the samples that were asked for, by id and never by order.

        Args:
            ids: all samples of the split.
            labels: of each; lost ones may have none.
            answered: for each seed, sample and its likeliest classes.
            classes: how many there are.
            undecodable: those whose media could not be read.

        Raises:
            ValueError: as `gather` says, or if the seeds did not answer the same samples.
        """
        samples, found = gather_seeds(ids, answered, undecodable=undecodable)
        return cls(
            samples=samples,
            classes=classes,
            labels=tuple(labels.get(name, -1) for name in ids),
            ranked=tuple(tuple(tuple(one.get(name, ())) for name in ids) for one in found),
        )

    def top(self, k: int) -> tuple[float, ...]:
        """Share of all samples whose label is among the k likeliest classes, for each seed.

        Raises:
            ValueError: if fewer classes than that were kept.
        """
        lost, needed = self.samples.lost, min(k, self.classes)
        shares = []
        for one in self.ranked:
            right = 0
            for name, label, classes in zip(self.samples.ids, self.labels, one, strict=True):
                if name not in lost and len(classes) < needed:
                    raise ValueError(
                        f"top{k} needs {needed} classes of {name!r}, {len(classes)} were kept; "
                        "keep more"
                    )
                right += label in classes[:k]
            shares.append(right / len(self.labels))
        return tuple(shares)

    @property
    def seeds(self) -> int:
        """How often all was answered."""
        return len(self.ranked)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A number in [0, 1] for each sample, the more the better; a lost one has 0.

    Raises:
        ValueError: if counts differ or a number lies elsewhere.
    """

    samples: Samples
    values: tuple[tuple[float, ...], ...]
    """By seed and sample."""

    def __post_init__(self) -> None:
        _require_counts(self.samples, len(self.samples.ids), [len(one) for one in self.values])
        lost = self.samples.lost
        for one in self.values:
            for name, value in zip(self.samples.ids, one, strict=True):
                if not 0 <= value <= 1 or (name in lost and value):
                    raise ValueError(
                        f"sample {name!r} has value {value}; it must lie in 0..1, and be 0 where "
                        "the sample is lost"
                    )

    @classmethod
    def gathered(
        cls,
        ids: Sequence[str],
        answered: Sequence[Iterable[tuple[str, float]]],
        *,
        undecodable: Collection[str] = (),
    ) -> Self:
        """Join numbers to the samples that were asked for, as `Classified.gathered` does."""
        samples, found = gather_seeds(ids, answered, undecodable=undecodable)
        return cls(
            samples=samples,
            values=tuple(tuple(one.get(name, 0.0) for name in ids) for one in found),
        )

    def mean(self) -> tuple[float, ...]:
        """Mean over all samples, for each seed."""
        return tuple(math.fsum(one) / len(one) for one in self.values)

    @property
    def seeds(self) -> int:
        """How often all was answered."""
        return len(self.values)


Answers: TypeAlias = Classified | Measured


class Metric(NamedTuple):
    """How a score follows from answers.

    Attributes:
        of: the answers it takes.
        compute: gives it for each seed.
    """

    of: type
    compute: Callable[[Any], tuple[float, ...]]


METRICS: dict[str, Metric] = {
    "top1": Metric(Classified, lambda answers: answers.top(1)),
    "top5": Metric(Classified, lambda answers: answers.top(5)),
    "j": Metric(Measured, Measured.mean),
    "f": Metric(Measured, Measured.mean),
    "j_and_f": Metric(Measured, Measured.mean),
}
"""What a score may be: shares of samples, and means over the objects of DAVIS."""


def compute(metric: str, answers: Answers) -> tuple[float, ...]:
    """Compute a metric from answers, for each seed.

    Raises:
        ValueError: if there is no such metric, or it is one of other answers.
    """
    require_metric(metric)
    if not isinstance(answers, METRICS[metric].of):
        raise ValueError(
            f"metric {metric!r} needs {METRICS[metric].of.__name__} answers, got "
            f"{type(answers).__name__}"
        )
    return METRICS[metric].compute(answers)


def require_metric(name: str) -> None:
    """Refuse a metric that cannot be computed again.

    Raises:
        ValueError: if there is none of this name.
    """
    if name not in METRICS:
        raise ValueError(f"no metric {name!r}; there are: {', '.join(METRICS)}")


def gather(
    ids: Sequence[str],
    answered: Iterable[tuple[str, Any]],
    *,
    undecodable: Collection[str] = (),
) -> tuple[Samples, dict[str, Any]]:
    """Join answers to the samples that were asked for, by id and never by order.

    Args:
        ids: all samples of the split.
        answered: sample and answer, in any order; what is not among them is missing.
        undecodable: those whose media could not be read.

    Raises:
        ValueError: if a sample is answered that was not asked for, such as one in the place of
            another; if one is answered twice and differently, or is answered and undecodable.
    """
    asked, found, twice = set(ids), dict[str, Any](), list[str]()
    for name, answer in answered:
        if name not in asked:
            raise ValueError(
                f"sample {name!r} was answered and is not of the split; a lost sample counts as "
                "wrong and takes no other's place"
            )
        if name in found:
            if found[name] != answer:
                raise ValueError(
                    f"sample {name!r} was answered twice, and differently; evaluate each once"
                )
            twice.append(name)
        found[name] = answer
    both = sorted(set(undecodable) & set(found))
    if both:
        raise ValueError(f"sample {both[0]!r} is undecodable and has an answer; it is one of them")
    samples = Samples(
        ids=tuple(ids),
        missing=tuple(n for n in ids if n not in found and n not in set(undecodable)),
        undecodable=tuple(undecodable),
        duplicated=tuple(dict.fromkeys(twice)),
    )
    return samples, found


def gather_seeds(
    ids: Sequence[str],
    answered: Sequence[Iterable[tuple[str, Any]]],
    *,
    undecodable: Collection[str] = (),
) -> tuple[Samples, list[dict[str, Any]]]:
    """`gather` for each seed; all must have answered the same samples.

    Raises:
        ValueError: as `gather` says, or if they did not.
    """
    gathered = [gather(ids, one, undecodable=undecodable) for one in answered]
    for number, (samples, _) in enumerate(gathered):
        if samples != gathered[0][0]:
            raise ValueError(
                f"seeds 0 and {number} answered other samples; evaluate all of the split for each"
            )
    return gathered[0][0], [found for _, found in gathered]


def require_distinct(ids: Sequence[str], what: str) -> None:
    """Refuse a list that names a sample twice.

    Raises:
        ValueError: if it does; `what` names the list.
    """
    seen = set[str]()
    for name in ids:
        if name in seen:
            raise ValueError(f"split {what!r} lists sample {name!r} twice; list each once")
        seen.add(name)


def _require_counts(samples: Samples, labels: int, answers: Sequence[int]) -> None:
    count = len(samples.ids)
    if labels != count or not answers or set(answers) != {count}:
        raise ValueError(
            f"{count} samples, {labels} labels and {list(answers)} answers; one of each a sample"
        )


def _require_ranks(name: str, classes: Sequence[int], count: int, *, lost: bool) -> None:
    whole = len(set(classes)) == len(classes) and all(0 <= one < count for one in classes)
    if not whole or lost == bool(classes):
        raise ValueError(
            f"sample {name!r} has answer {list(classes)}; distinct classes below {count} are "
            "needed, and none where the sample is lost"
        )
