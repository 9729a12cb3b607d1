"""The ledger: a score is a file that says what was measured, on what, and how to compute it again.

Published evaluations flatter in known ways: samples that cannot be read are exchanged for others,
samplers count some twice, the best of many heads is picked on the split that is reported. Here each
of these is either refused by the types or stands in the file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from toto.config import digest, to_dict
from toto.tasks.answers import ids_sha256, require_distinct, require_metric
from toto.tasks.published import Published
from toto.tasks.views import crop_shares

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A part of a data set, by what it holds.

    Raises:
        ValueError: if it has no sample.
    """

    name: str
    digest: str
    """Of the data; a token set's is its `sha256`."""
    ids_sha256: str
    samples: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"split {self.name!r} has no sample; give one that has")

    @classmethod
    def of(cls, name: str, digest: str, ids: Sequence[str]) -> Self:
        """Describe a split by its samples.

        Raises:
            ValueError: if it has none, or lists one twice.
        """
        require_distinct(ids, name)
        return cls(name=name, digest=digest, ids_sha256=ids_sha256(ids), samples=len(ids))


def require_apart(split: Split, ids: Sequence[str], reported: Sequence[str]) -> None:
    """Refuse to choose on samples that are reported.

    Args:
        split: that chooses.
        ids: its samples.
        reported: samples of the split whose score is reported.

    Raises:
        ValueError: if they share one.
    """
    shared = sorted(set(ids) & set(reported))
    if shared:
        raise ValueError(
            f"split {split.name!r} chooses and shares {len(shared)} samples with the reported "
            f"one, such as {shared[0]!r}; choose on others"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What was chosen before the score was read, and on what; make it with `on`.

    Raises:
        ValueError: if nothing was tried.
    """

    split: Split
    """That chose."""
    among: dict[str, int]
    """How many of each kind were tried, such as layers, heads, rates."""
    chosen: tuple[str, ...]
    """In words; one for each seed, or one for all."""

    def __post_init__(self) -> None:
        if min(self.among.values(), default=0) < 1 or not self.chosen:
            raise ValueError(
                f"a selection among {self.among} chose nothing; give None where nothing is chosen"
            )

    @property
    def tried(self) -> int:
        """How many candidates there were in all."""
        return math.prod(self.among.values())

    @classmethod
    def on(
        cls,
        split: Split,
        ids: Sequence[str],
        *,
        reported: Sequence[str],
        among: dict[str, int],
        chosen: Sequence[str],
    ) -> Self:
        """Say what a split chose.

        Args:
            split: that chose.
            ids: its samples.
            reported: samples of the split whose score is reported.
            among: how many of each kind were tried.
            chosen: in words; one for each seed, or one for all.

        Raises:
            ValueError: if the two splits share a sample.
        """
        require_apart(split, ids, reported)
        return cls(split=split, among=among, chosen=tuple(chosen))


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How it was measured.

    Raises:
        ValueError: if the digest is not that of name and fields.
    """

    name: str
    fields: dict[str, Any]
    """All that decides the score but model and data."""
    digest: str

    def __post_init__(self) -> None:
        if self.digest != digest({"name": self.name, "fields": self.fields}):
            raise ValueError(
                f"protocol {self.name!r} was edited: its digest is not {self.digest}; measure again"
            )

    @classmethod
    def of(cls, name: str, config: Any) -> Self:
        """Describe a protocol by a config, or by a mapping of plain values."""
        fields = to_dict(config)
        return cls(name=name, fields=fields, digest=digest({"name": name, "fields": fields}))


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What was measured."""

    name: str
    weights_sha256: tuple[str, ...]
    """One for each seed where weights differ, such as those of untrained models; or one for all."""
    trained: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """How often a sample is shown; probabilities are averaged, not logits.

    Raises:
        ValueError: if a number makes no sense.
    """

    temporal: int = 1
    """Clips, evenly in time."""
    spatial: int = 1
    """Crops of each, along the longer side: 1, the middle, or 3."""

    def __post_init__(self) -> None:
        if self.temporal < 1:
            raise ValueError(f"{self.temporal} clips in time; there must be at least 1")
        crop_shares(self.spatial)

    def __str__(self) -> str:
        return f"{self.temporal}x{self.spatial}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One score, with all that is needed to trust it.

    Raises:
        ValueError: if the split that chose is the one that is reported, there is no such metric, or
            numbers do not belong together.
    """

    metric: str
    """One of `METRICS`."""
    values: tuple[float, ...]
    """For each seed."""
    seeds: tuple[int, ...]
    protocol: Protocol
    model: Model
    reported: Split
    """The split that was measured on, with its lost samples."""
    evaluated: int
    evaluated_sha256: str
    missing: tuple[str, ...]
    undecodable: tuple[str, ...]
    duplicated: tuple[str, ...]
    views: Views
    selection: Selection | None
    """None: nothing was chosen; one head was trained, on a layer that was given."""
    published: Published | None
    """The paper's value of the same."""
    answers_sha256: str
    """Of the file of answers beside this one."""

    def __post_init__(self) -> None:
        require_metric(self.metric)
        if len(self.values) != len(self.seeds) or not self.seeds:
            raise ValueError(f"{len(self.values)} values of {len(self.seeds)} seeds; one for each")
        if self.selection is not None:
            chose, reported = self.selection.split, self.reported
            if chose.digest == reported.digest or chose.ids_sha256 == reported.ids_sha256:
                raise ValueError(
                    f"split {chose.name!r} chose {self.selection.chosen[0]!r} and is the one that "
                    f"is reported as {reported.name!r}; choose on another"
                )

    @property
    def value(self) -> float:
        """Mean over the seeds."""
        return math.fsum(self.values) / len(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds (n - 1); None for one."""
        count = len(self.values)
        if count < 2:
            return None
        return math.sqrt(math.fsum((v - self.value) ** 2 for v in self.values) / (count - 1))
