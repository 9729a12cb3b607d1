"""`toto study mup`: sweep the learning rate over widths, with muP and without."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toto.data.layout import LayoutConfig
from toto.data.loader import Loader
from toto.data.remote import names_below
from toto.data.shards import require_same
from toto.data.token_set import INDEX
from toto.jobs.progress import Bar, bar
from toto.jobs.sequences import fit_layout, open_tokens
from toto.jobs.validation import to_device
from toto.models.llama import LlamaConfig
from toto.models.mup import MuP
from toto.report.study_plots import draw_transfer, transfer_table
from toto.runtime.devices import device
from toto.runtime.durable import write_bytes
from toto.runtime.folder import RunFolder
from toto.studies.made_sequences import MadeSequences
from toto.studies.transfer import Cell, cells, summary, train_cell
from toto.studies.widths import Growth, standard, widened
from toto.train.optimizer import AdamWConfig
from toto.train.schedule import WarmupCosine
from toto.types import Batch


def _narrow() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=64,
        width=32,
        depth=2,
        heads=4,
        mlp_width=64,
        context=32,
        init_std=0.18,  # 1 / sqrt(width), as the demo's
        mup=MuP(base_width=32, zero_query=True, zero_readout=True),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MupStudy:
    """Find the best learning rate of each width, with muP and without, on the same sequences.

    The defaults are 168 trainings, about 10 minutes of one CPU core.
    """

    model: LlamaConfig = field(default_factory=_narrow)
    """At one width; the others keep its shape. Its muP has the base width."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    growth: Growth = "head width"
    """What grows with the width: the width of the heads, as in the paper, or their number."""
    log2_lrs: tuple[int, ...] = (-9, -8, -7, -6, -5, -4, -3, -2)
    """Rates to try, as powers of two."""
    seeds: int = 3
    shards: str = ""
    """Folder that `toto tokenize` wrote, or its address; if left out, sequences are made."""
    sources: tuple[str, ...] = ()
    """Token sets of the shards, read equally often; none takes all there are."""
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    optimizer: AdamWConfig = field(default_factory=AdamWConfig)
    steps: int = 100
    batch: int = 16
    """Sequences a step; made ones are as long as the model's context."""
    warmup: int = 10

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if not self.model.mup.base_width:
            raise ValueError("base_width 0: muP is off; set --model.mup.base-width")
        for name in ("widths", "log2_lrs"):
            values = getattr(self, name)
            if len(set(values)) != len(values) or list(values) != sorted(values) or not values:
                raise ValueError(f"{name} {values} must rise; give each once")
        if self.model.patch_values:
            raise ValueError(
                f"patch_values {self.model.patch_values}: the study trains on ids; set it to 0"
            )
        self.schedule(0)
        for width in self.widths:
            widened(self.model, width, self.growth)

    def schedule(self, log2_lr: int) -> WarmupCosine:
        """Rates of a cell's steps."""
        return WarmupCosine(peak=2.0**log2_lr, warmup=self.warmup, steps=self.steps)

    def run(self, out: Path) -> dict[str, Any]:
        """Write `results/study_mup.json`, the table as `mup.md` and the picture as `mup.png`.

        A cell is a line of `metrics.jsonl`, written once it is trained; a second call goes on with
        those that are missing.

        Raises:
            ValueError: if shards are missing or do not fit the model.
        """
        batches = self._data()
        base_width = self.model.mup.base_width
        plan = cells(self.widths, self.log2_lrs, self.seeds, base_width=base_width)
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("study_mup"):
                return folder.result("study_mup")
            scores = {plan[line["step"]]: line["loss"] for line in folder.metrics()}
            todo = [(number, cell) for number, cell in enumerate(plan) if cell not in scores]
            total = len(plan) * self.steps
            with bar("study mup", total, done=len(scores) * self.steps) as progress:
                for number, cell in todo:
                    scores[cell] = self._train(cell, batches, progress)
                    folder.log(step=number, **asdict(cell), loss=scores[cell])
            result = {
                "unit": "nats a token",
                "data": self.shards or "made sequences",
                "widths": list(self.widths),
                "base_width": base_width,
                "log2_lrs": list(self.log2_lrs),
                "seeds": self.seeds,
                "depth": self.model.depth,
                "steps": self.steps,
                "sequences_a_step": self.batch,
                **summary(scores, self.widths, self.log2_lrs, base_width=base_width),
                "cells": [{**asdict(cell), "loss": scores[cell]} for cell in plan],
            }
            draw_transfer(out / "mup.png", result)
            write_bytes(out / "mup.md", transfer_table(result).encode())
            folder.write_result("study_mup", result)
            return result

    def _train(self, cell: Cell, batches: "_Batches", progress: Bar) -> float | None:
        model = self.model if cell.parametrisation == "mup" else standard(self.model)
        left = self.steps

        def one_more() -> None:
            nonlocal left
            left -= 1
            progress.advance()

        progress.advance(0, f"{cell.parametrisation}, width {cell.width}, 2^{cell.log2_lr}")
        place = device()
        score = train_cell(
            widened(model, cell.width, self.growth),
            (to_device(batch, place) for batch in batches.of_seed(cell.seed)),
            self.optimizer,
            self.schedule(cell.log2_lr),
            seed=cell.seed,
            place=place,
            each_step=one_more,
        )
        progress.advance(left)  # what a training that was lost has not taken
        return score

    def _data(self) -> "_Batches":
        if not self.shards:
            return _Made(self)
        return _Stored(self)


class _Made:
    def __init__(self, study: MupStudy) -> None:
        self._batch = study.batch
        self._source = MadeSequences(
            vocab_size=study.model.vocab_size, length=study.model.context, seed=0
        )

    def of_seed(self, seed: int) -> Iterator[Batch]:
        return self._source.batches(batch=self._batch, seed=seed)


class _Stored:
    def __init__(self, study: MupStudy) -> None:
        self._batch = study.batch
        names = study.sources or tuple(sorted(names_below(study.shards, INDEX)))
        self._sets = [open_tokens(study.shards, name, frames=False) for name in names]
        if not self._sets:
            raise ValueError(f"{study.shards} has no token sets; `toto tokenize` makes them")
        self._layout = fit_layout(study.layout, study.model, require_same(self._sets))

    def of_seed(self, seed: int) -> Iterator[Batch]:
        weights = [1.0] * len(self._sets)
        return Loader(self._sets, weights, self._layout, seed=seed).batches(batch=self._batch)


_Batches = _Made | _Stored
