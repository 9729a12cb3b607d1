"""Which samples a split of shards lists, the lost ones among them, and its answers.

A clip that could not be read has no tokens, so a job that asks the shards alone would leave it out
of the count. The manifest beside the shards lists it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from toto.data.remote import is_address
from toto.data.token_set import TokenSet
from toto.jobs.labelled_splits import LabelledSplit
from toto.tasks.answers import Classified
from toto.tasks.ledger import Split
from toto.video.manifest import Row, read_manifest

MANIFEST = "manifest.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedSamples:
    """The samples of one split.

    Attributes:
        split: by what it holds.
        read: ids of those in the shards, in their order.
        missing: ids of those that were listed and not there.
        undecodable: ids of those that could not be read.
    """

    split: Split
    read: tuple[str, ...]
    missing: tuple[str, ...]
    undecodable: tuple[str, ...]

    @classmethod
    def of(cls, split: LabelledSplit) -> "ListedSamples":
        """List the samples of a split that is a token set of its own.

        Raises:
            ValueError: if one is listed twice.
        """
        tokens = split.tokens
        read, lost = split.ids, lost_rows(tokens)
        missing = tuple(_id(row) for row in lost if row.status in ("missing", "blocked"))
        undecodable = tuple(_id(row) for row in lost if row.status in ("refused", "quarantined"))
        name = "/".join(Path(tokens.path).parts[-2:])
        ids = (*read, *missing, *undecodable)
        return cls(
            split=Split.of(name, tokens.sha256, ids),
            read=read,
            missing=missing,
            undecodable=undecodable,
        )

    @property
    def ids(self) -> tuple[str, ...]:
        """All, the lost ones last."""
        return (*self.read, *self.missing, *self.undecodable)

    def classified(
        self,
        labels: Int64[Tensor, " N"],
        ranked: Sequence[Int64[Tensor, "N K"]],
        *,
        classes: int,
    ) -> Classified:
        """Join the classes that were answered to the samples.

        Args:
            labels: of the samples in the shards, in their order.
            ranked: for each seed the likeliest classes of each of them, the first of all first.
            classes: how many there are.

        Raises:
            ValueError: if there are not as many as clips, or a class does not exist.
        """
        return Classified.gathered(
            self.ids,
            dict(zip(self.read, labels.tolist(), strict=True)),
            [dict(zip(self.read, one.tolist(), strict=True)).items() for one in ranked],
            classes=classes,
            undecodable=self.undecodable,
        )


def lost_rows(tokens: TokenSet) -> list[Row]:
    """Rows of the manifest beside a set whose clips are not in it; none where there is none.

    Shards at an address come without it, and so do those that were not made by `toto tokenize`.
    """
    if is_address(tokens.path):
        return []
    folder = Path(tokens.path).resolve()
    manifest = folder.parents[1] / MANIFEST
    if not manifest.is_file():
        return []
    return [
        row
        for row in read_manifest(manifest)
        if row.status != "ok" and (row.source, row.split) == (folder.parent.name, folder.name)
    ]


def _id(row: Row) -> str:
    return f"{row.source}/{row.clip}"
