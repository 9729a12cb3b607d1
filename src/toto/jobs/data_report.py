"""`toto data report`: what data folders come to, in the numbers of the paper's Table 2.

The table is printed for the user's data as the paper prints it, and beside it what a model gets to
see: every 4th frame, in whole sequences. Those are not the same numbers (docs/paper.md, D11).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from toto.jobs.progress import bar
from toto.report.data_tables import data_page
from toto.runtime.durable import write_bytes
from toto.runtime.folder import RunFolder
from toto.video.account import Account, reasons
from toto.video.collection import MANIFEST, TRAINING_SPLITS
from toto.video.manifest import read_manifest

PAPER_FPS = 30000 / 1001
"""Frames a second that turn the hours of the paper's Table 2 into its tokens."""
PAPER = (
    # name, instances, hours, tokens, share of a batch: docs/paper.md, T2 and D1.
    ("ImageNet", 13.9e6, None, 3.6e9, 0.2),
    ("Kinetics-600", 0.53e6, 1496, 41.3e9, 0.1),
    ("Ego4D", 52.1e3, 3750, 103e9, 0.1),
    ("HowTo100M", 1.172e6, 92627, 2560e9, 0.6),
)
PAPER_STRIDE, PAPER_FRAME_TOKENS, PAPER_TRAINING_TOKENS = 4, 256, 1e12


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """Count instances, hours and tokens of data folders, and what was lost of them."""

    data: Positional[tuple[Path, ...]]
    """Folders that `toto ingest` wrote."""
    stride: int = 4
    """Every how many-th frame of a video is kept."""
    side_px: int = 128
    patch_px: int = 8
    """Pixels a side that one token stands for."""
    frames: int = 16
    """Kept frames of a sequence; images of one, too."""
    training_tokens: float = PAPER_TRAINING_TOKENS
    """What a training run reads in all, special tokens not counted."""
    mixture: tuple[str, ...] = ()
    """Shares of the sources, as `kinetics/train=0.1 imagenet/train=0.2`; they are made to add up to
    1. None takes every training split in proportion to its tokens, so that all are read equally
    often."""

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("give at least one folder that `toto ingest` wrote")
        if len({folder.resolve() for folder in self.data}) < len(self.data):
            raise ValueError("a data folder is given twice and would be counted twice")
        for name in ("stride", "side_px", "patch_px", "frames", "training_tokens"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} must be above 0")
        if self.side_px % self.patch_px:
            raise ValueError(
                f"frames of {self.side_px} px do not divide into patches of {self.patch_px} px"
            )
        weights(self.mixture)

    @property
    def frame_tokens(self) -> int:
        """Tokens of one frame."""
        return (self.side_px // self.patch_px) ** 2

    def run(self, out: Path) -> dict[str, Any]:
        """Write `results/data_report.json`, and the tables as `data.md`.

        Raises:
            ValueError: if a folder has no manifest, two have the same source and split, or the
                mixture names what is not there.
        """
        manifests = [folder / MANIFEST for folder in self.data]
        for path in manifests:
            if not path.is_file():
                raise ValueError(f"{path.parent} has no {MANIFEST}; `toto ingest` writes it")
        with RunFolder.create(out, self, tensorboard=False) as folder:
            # Nothing is kept from an earlier call: it takes seconds, and manifests may be new.
            account = Account(stride=self.stride, frames=self.frames)
            with bar("read", len(manifests)) as progress:
                for path in progress.over(manifests):
                    account.add(read_manifest(path), where=str(path.parent))
            result = self._result(account)
            folder.write_result("data_report", result)
            write_bytes(out / "data.md", data_page(result).encode())
            return result

    def _result(self, account: Account) -> dict[str, Any]:
        tokens = self.frame_tokens
        sources = [
            {
                **tally.summary(),
                "name": name,
                "tokens_every_frame": tally.frames * tokens,
                "tokens_at_stride": tally.kept * tokens,
                "tokens_in_sequences": tally.readable * tokens,
                "sequences": tally.sequences(self.frames),
            }
            for name, tally in sorted(account.tallies.items())
        ]
        given = weights(self.mixture)
        shares = mixture_shares(
            {source["name"]: source["tokens_in_sequences"] for source in sources}, given
        )
        for source in sources:
            share = shares.get(source["name"], 0.0)
            there = source["tokens_in_sequences"]
            source["share"] = share
            source["passes"] = share * self.training_tokens / there if there else None
        return {
            "stride": self.stride,
            "side_px": self.side_px,
            "frame_tokens": tokens,
            "sequence_frames": self.frames,
            "training_tokens": self.training_tokens,
            "mixture": "given" if given else "in proportion to tokens",
            "sources": sources,
            "losses": reasons(account.losses),
            "damaged": reasons(account.damaged),
            "paper": paper_table(),
        }


def weights(mixture: Sequence[str]) -> dict[str, float]:
    """Read the `--mixture` option.

    Raises:
        ValueError: if an entry is not `SOURCE/SPLIT=WEIGHT`, or names a source a second time.
    """
    found: dict[str, float] = {}
    for entry in mixture:
        name, _, number = entry.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not 0 < weight < math.inf:
            raise ValueError(
                f"mixture {entry!r} is not SOURCE/SPLIT=WEIGHT with a weight above 0, such as "
                "kinetics/train=0.1"
            )
        if name in found:
            raise ValueError(f"the mixture names {name} twice")
        found[name] = weight
    return found


def mixture_shares(tokens: Mapping[str, int], given: Mapping[str, float]) -> dict[str, float]:
    """Give the share that each source has of a training run.

    Args:
        tokens: those that can be read, by source and split.
        given: weights that were asked for; none takes the training splits by their tokens, or all
            splits where none is for training.

    Raises:
        ValueError: if a source is not there, or gives no sequence.
    """
    for name in given:
        if not tokens.get(name):
            known = ", ".join(name for name, count in tokens.items() if count) or "none"
            reason = "has no clip that is long enough" if name in tokens else "is not there"
            raise ValueError(f"the mixture's {name} {reason} (usable: {known})")
    chosen: Mapping[str, float] = given or {
        name: count for name, count in tokens.items() if name.rpartition("/")[2] in TRAINING_SPLITS
    }
    chosen = chosen or tokens
    total = sum(chosen.values())
    return {name: weight / total for name, weight in chosen.items() if total}


def paper_table() -> list[dict[str, Any]]:
    """Give the paper's Table 2, with what its shares of 10^12 training tokens mean.

    The tokens are the paper's own numbers. They count every frame of its videos; training takes
    every 4th, so that a quarter of them can be read.
    """
    rows = []
    for name, instances, hours, tokens, share in PAPER:
        at_stride = tokens if hours is None else tokens / PAPER_STRIDE
        counted = None if hours is None else hours * 3600 * PAPER_FPS * PAPER_FRAME_TOKENS
        rows.append(
            {
                "name": name,
                "instances": instances,
                "hours": hours,
                "tokens_every_frame": tokens,
                "tokens_from_hours": counted,
                "tokens_at_stride": at_stride,
                "share": share,
                "passes": share * PAPER_TRAINING_TOKENS / at_stride,
            }
        )
    return rows
