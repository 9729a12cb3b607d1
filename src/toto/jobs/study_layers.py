"""`toto study layers`: every layer by every head, chosen on held-out clips, against untrained."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from toto.data.token_set import TokenSet
from toto.jobs.atlas_clips import AtlasClips, atlas_clips
from toto.jobs.listed_samples import ListedSamples
from toto.jobs.probe import require_tokens_of
from toto.jobs.progress import Bar, bar
from toto.jobs.score_files import write_score
from toto.jobs.sequences import open_tokens
from toto.probe.backbone import Backbone, open_backbone
from toto.probe.bank import BankConfig
from toto.probe.feature_cache import FeatureCache
from toto.probe.fit import Features, extract, join
from toto.report.atlas_plots import atlas_table, draw_atlas
from toto.runtime.devices import device, resolve_precision
from toto.runtime.durable import write_bytes
from toto.runtime.folder import RunFolder
from toto.studies.layers import LayerOutcome, Pick, layer_outcomes, pick
from toto.tasks.classification import Task, judge
from toto.tasks.ledger import Model, Protocol, Selection

KINDS = ("trained", "untrained")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerStudy:
    """Train every head on every layer of a run, and choose on clips that are not reported.

    Features are extracted once a backbone: of the run, and of an untrained one a seed.
    """

    run_folder: Path
    """Folder of the pre-training run."""
    shards: str
    """Folder or address of the labelled token sets."""
    train: str = "train"
    """Token set whose clips train the heads, and choose where no set does."""
    selection: str = ""
    """Token set that chooses layer, head and rate; if left out, a part of the training set."""
    selection_share: float = 0.1
    """Of the clips of each class, that part."""
    train_clips_per_class: int | None = None
    """Of the others, so many of each class train the heads; None takes all."""
    test: str = "test"
    """Token set that is reported; read once."""
    label: str = ""
    """A label that the clips carry, such as `digit`; if left out, the data set's own classes."""
    frames: int | None = None
    """Read of each clip, from its middle; None takes what the shortest clip has."""
    bank: BankConfig = field(default_factory=BankConfig)
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seeds the heads and the order of the clips, and an untrained backbone's weights."""
    precision: str = "auto"
    cache: Path | None = None
    """Folder where features are kept for other studies of the same run and clips. Reading them
    takes a small part of the time of extracting them; they are large."""

    def __post_init__(self) -> None:
        if len(self.seeds) < 2 or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {self.seeds}: the spread of the scores needs 2, each once")
        if not 0 < self.selection_share < 1:
            raise ValueError(f"selection_share {self.selection_share} must lie between 0 and 1")
        if self.train_clips_per_class is not None and self.train_clips_per_class < 1:
            raise ValueError(
                f"train_clips_per_class {self.train_clips_per_class} must be at least 1"
            )
        names = {self.train, self.test, self.selection or None}
        if len(names) < 3:
            raise ValueError(
                f"train {self.train!r}, selection {self.selection!r} and test {self.test!r} must "
                "be different sets"
            )

    def run(self, out: Path) -> dict[str, Any]:
        """Write `results/study_layers.json`, two scores, the table and the picture.

        Raises:
            ValueError: if the run or the shards cannot be opened, or do not belong together.
        """
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("study_layers"):
                return folder.result("study_layers")
            place = device()
            precision = resolve_precision(self.precision, place)
            backbone = open_backbone(self.run_folder, precision=precision)
            backbone.model.to(place)
            sets = self._sets(backbone)
            require_tokens_of(backbone, sets)
            backbone = replace(backbone, kind=sets["train"].description.kind)
            clips = atlas_clips(
                sets,
                label=self.label,
                frames=self.frames,
                share=self.selection_share,
                most=self.train_clips_per_class,
                seed=0,
            )
            result = _Atlas(self, folder, clips).measure(backbone)
            draw_atlas(out / "layers.png", result)
            write_bytes(out / "layers.md", atlas_table(result).encode())
            folder.write_result("study_layers", result)
            return result

    def _sets(self, backbone: Backbone) -> dict[str, TokenSet]:
        names = {"train": self.train, "selection": self.selection, "test": self.test}
        return {
            split: open_tokens(self.shards, name, frames=backbone.reads_patches)
            for split, name in names.items()
            if name
        }


class _Atlas:
    """One study, over its folder."""

    def __init__(self, job: LayerStudy, folder: RunFolder, clips: dict[str, AtlasClips]) -> None:
        self.job, self.folder, self.clips = job, folder, clips
        self.classes = clips["train"].classes
        self.listed = ListedSamples.of(clips["test"].samples)
        self.cache = None if job.cache is None else FeatureCache(folder=job.cache)

    def measure(self, backbone: Backbone) -> dict[str, Any]:
        """Study the run's backbone and its untrained twins."""
        job, layers = self.job, backbone.depth + 1
        work = (1 + len(job.seeds)) * sum(map(len, self.clips.values()))
        outcomes: dict[str, list[list[LayerOutcome]]] = {kind: [] for kind in KINDS}
        digests: dict[str, list[str]] = {kind: [] for kind in KINDS}
        with bar("study layers", work) as progress:
            features: dict[str, Features] = {}
            for kind in KINDS:
                for seed in job.seeds:
                    if kind == "untrained" or not features:
                        # Freed first: two sets of features at once would double the peak.
                        features.clear()
                        source = backbone if kind == "trained" else backbone.untrained(seed)
                        digests[kind].append(source.digest())
                        features.update(self._features(source, progress))
                    outcomes[kind].append(
                        list(self._heads(features, seed, f"{kind}, seed {seed}", progress, layers))
                    )
        picks = {kind: [pick(seed, job.bank) for seed in seeds] for kind, seeds in outcomes.items()}
        for kind in KINDS:
            self._write_score(kind, outcomes[kind], picks[kind], digests[kind], layers)
        return self._result(backbone, outcomes, picks)

    def _heads(
        self,
        features: dict[str, Features],
        seed: int,
        note: str,
        progress: Bar,
        layers: int,
    ) -> Iterator[LayerOutcome]:
        found = layer_outcomes(
            features["train"],
            features["selection"],
            features["test"],
            len(self.classes),
            self.job.bank,
            seed=seed,
        )
        for outcome in found:
            progress.advance(0, note=f"{note}: layer {outcome.layer} of {layers - 1}")
            # A lost clip counts as wrong here too.
            counted = len(self.listed.read) / len(self.listed.ids)
            yield replace(outcome, test=counted * outcome.test)

    def _features(self, backbone: Backbone, progress: Bar) -> Iterator[tuple[str, Features]]:
        for split, clips in self.clips.items():
            labels = clips.labels[None]
            facts = {
                "backbone": backbone.digest(),
                "layers": list(range(backbone.depth + 1)),
                "data": clips.tokens.sha256,
                "clips": list(clips.samples.numbers),
                "frames": clips.frames,
                "torch": torch.__version__,
            }
            found = None if self.cache is None else self.cache.read(facts, labels)
            if found is None:
                parts = extract(backbone, clips.windows(backbone), labels)
                found = join(_shown(parts, progress), len(clips))
                if self.cache is not None:
                    self.cache.write(facts, found)
            else:
                progress.advance(len(clips), note="features from the cache")
            yield split, found

    def _write_score(
        self,
        kind: str,
        outcomes: list[list[LayerOutcome]],
        picks: list[Pick],
        digests: list[str],
        layers: int,
    ) -> None:
        """Write the score of what was chosen, from which it can be computed again."""
        job, test, chose = self.job, self.clips["test"], self.clips["selection"]
        listed, chooses = self.listed, chose.samples.described()
        heads = job.bank.heads
        ranked = [
            seed[one.layer].ranked[heads.index(one.head)]
            for seed, one in zip(outcomes, picks, strict=True)
        ]
        write_score(
            self.folder,
            f"{self.job.label or 'class'}-{kind}",
            listed.classified(test.labels, ranked, classes=len(self.classes)),
            metric="top1",
            protocol=Protocol.of(
                "frozen-layer-atlas", {**_protocol(job), "classes": list(self.classes)}
            ),
            model=Model(
                name=str(job.run_folder),
                weights_sha256=tuple(digests),
                trained=kind == "trained",
            ),
            reported=listed.split,
            seeds=job.seeds,
            selection=Selection.on(
                chooses,
                chose.samples.ids,
                reported=listed.ids,
                among={"layers": layers, "heads": len(heads), "rates": len(job.bank.rates)},
                chosen=[f"layer {one.layer}, {one.head}, rate {one.rate:g}" for one in picks],
            ),
        )

    def _result(
        self,
        backbone: Backbone,
        outcomes: dict[str, list[list[LayerOutcome]]],
        picks: dict[str, list[Pick]],
    ) -> dict[str, Any]:
        job = self.job
        bank, layers = job.bank, backbone.depth + 1
        task = Task(name=job.label or "class", classes=len(self.classes))
        scores = {kind: [one.test for one in picks[kind]] for kind in KINDS}
        curves = {
            kind: {
                head: {
                    "test": [[float(z.test[k]) for z in seed] for seed in seeds],
                    "selection": [[float(z.selection[k]) for z in seed] for seed in seeds],
                    "rates": [[bank.rates[int(z.rates[k])] for z in seed] for seed in seeds],
                    "chosen": [asdict(pick(seed, bank, [head])) for seed in seeds],
                }
                for k, head in enumerate(bank.heads)
            }
            for kind, seeds in outcomes.items()
        }
        return {
            "task": task.name,
            "data": job.shards,
            "classes": task.classes,
            "chance": task.chance,
            "clips": {split: len(clips) for split, clips in self.clips.items()},
            "frames": self.clips["train"].frames,
            "layers": ["embedding", *(f"block {n}" for n in range(1, layers))],
            "heads": list(bank.heads),
            "rates": list(bank.rates),
            "epochs": bank.epochs,
            "heads_tried": layers * len(bank.heads) * len(bank.rates),
            "seeds": list(job.seeds),
            "precision": backbone.precision,
            "curves": curves,
            "chosen": {kind: [asdict(one) for one in found] for kind, found in picks.items()},
            "verdict": asdict(judge(task, scores["trained"], scores["untrained"])),
        }


def _protocol(job: LayerStudy) -> dict[str, Any]:
    """All that decides the score but model and data."""
    return {
        "bank": asdict(job.bank),
        "frames": job.frames,
        "selection": job.selection or f"{job.selection_share} of each class of the training set",
        "train_clips_per_class": job.train_clips_per_class,
        "precision": job.precision,
    }


def _shown(parts: Iterator[Features], progress: Bar) -> Iterator[Features]:
    for part in parts:
        progress.advance(part.tokens.shape[1], note="features of all layers")
        yield part
