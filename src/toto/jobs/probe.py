"""`toto probe`: what every layer of a trained model knows of labelled clips, against untrained.

The model is one of ours, or an encoder of another project under the same protocol.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from toto.data.token_set import TokenSet
from toto.jobs.labelled_splits import SPLITS, LabelledSplit, SplitNames, labelled_splits
from toto.jobs.listed_samples import ListedSamples
from toto.jobs.progress import Bar, bar
from toto.jobs.score_files import write_score
from toto.probe.backbone import Backbone, open_backbone
from toto.probe.encoder import Encoder
from toto.probe.fit import Features, FitConfig, extract, join
from toto.probe.pool import POOLINGS
from toto.probe.transformers_encoder import open_encoder
from toto.runtime.devices import device, resolve_precision
from toto.runtime.folder import RunFolder
from toto.tasks.classification import ProbeRun, Task, judge, probe_once
from toto.tasks.ledger import Model, Protocol, Selection, require_apart


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Probe all layers of a pre-training run, or of another encoder, on labelled shards."""

    run_folder: Path
    """Folder of the pre-training run."""
    encoder: Path | None = None
    """Folder of an encoder that transformers saved, which takes the run's place. It reads frames,
    so the shards must keep them (`toto tokenize --keep-frames`)."""
    shards: str
    """Folder or address with the labelled token sets."""
    splits: SplitNames = field(default_factory=SplitNames)
    """Which of them train, choose and are reported."""
    tasks: tuple[Task, ...]
    fit: FitConfig = field(default_factory=FitConfig)
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seeds the probes and their data order, and the weights of an untrained backbone."""
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("the probe has no task")
        if len(self.seeds) < 2:
            raise ValueError(f"seeds {self.seeds}: the spread of the scores needs at least 2")

    def run(self, out: Path) -> dict[str, Any]:
        """Probe the trained backbone and, once a seed, an untrained one; write the scores.

        Raises:
            ValueError: if the run or the shards cannot be opened, or do not belong together.
        """
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("probe"):
                return folder.result("probe")
            encoder = self._open()
            shards = self.splits.open(self.shards, frames=lambda _: encoder.reads_patches)
            require_tokens_of(encoder, shards)
            if isinstance(encoder, Backbone):
                encoder = replace(encoder, kind=shards["train"].description.kind)
            splits = labelled_splits(
                shards,
                {task.name: task.classes for task in self.tasks},
                share=self.splits.selection_share,
            )
            chose, listed = splits["selection"], ListedSamples.of(splits["test"])
            require_apart(chose.described(), chose.ids, listed.ids)
            clips = sum(map(len, splits.values()))
            digests: dict[str, tuple[str, ...]] = {}
            with bar("probe", (1 + len(self.seeds)) * clips) as progress:
                trained, digests["trained"] = self._probe(
                    lambda _: encoder, splits, progress, same=True
                )
                untrained, digests["untrained"] = self._probe(
                    encoder.untrained, splits, progress, same=False
                )
            runs = {"trained": trained, "untrained": untrained}
            for kind, found in runs.items():
                self._write_scores(folder, kind, found, digests[kind], listed, splits, encoder)
            result = self._result(encoder, listed, splits, trained, untrained)
            predictions = self._predictions(listed, splits["test"], trained, untrained)
            folder.write_result("predictions", predictions)
            folder.write_result("probe", result)
            return result

    def _open(self) -> Encoder:
        place = device()
        precision = resolve_precision(self.precision, place)
        if self.encoder is not None:
            return open_encoder(self.encoder, precision=precision).to(place)
        return open_backbone(self.run_folder, precision=precision).to(place)

    def _probe(
        self,
        encoder: Callable[[int], Encoder],
        splits: dict[str, LabelledSplit],
        progress: Bar,
        *,
        same: bool,
    ) -> tuple[list[ProbeRun], tuple[str, ...]]:
        """Probe `encoder(seed)` for every seed; `same` when it does not depend on the seed.

        Returns:
            The runs, and the digest of each encoder.
        """
        runs: list[ProbeRun] = []
        digests: list[str] = []
        features: dict[str, Features] = {}
        for seed in self.seeds:
            if not features or not same:
                # Freed first: two sets of features at once would double the peak.
                features.clear()
                source = encoder(seed)
                digests.append(source.digest())
                for split in SPLITS:
                    features[split] = self._features(source, splits[split], progress)
            progress.advance(0, note=f"fitting, seed {seed}")
            runs.append(
                probe_once(
                    features["train"],
                    features["selection"],
                    features["test"],
                    self.tasks,
                    self.fit,
                    seed=seed,
                )
            )
        return runs, tuple(digests)

    def _features(self, encoder: Encoder, split: LabelledSplit, progress: Bar) -> Features:
        tokens = split.tokens
        frames = int(tokens.lengths[0])
        windows = torch.stack([encoder.window(tokens, n, 0, frames) for n in split.numbers])

        def shown() -> Iterator[Features]:
            for part in extract(encoder, windows, split.labels):
                progress.advance(part.tokens.shape[1], note="features of all layers")
                yield part

        return join(shown(), len(split))

    def _write_scores(
        self,
        folder: RunFolder,
        kind: str,
        runs: list[ProbeRun],
        digests: tuple[str, ...],
        listed: ListedSamples,
        splits: dict[str, LabelledSplit],
        encoder: Encoder,
    ) -> None:
        """Write each task's score so that it can be computed again (`toto ledger`)."""
        chose, test = splits["selection"], splits["test"]
        for number, task in enumerate(self.tasks):
            choices = [run.choices[number] for run in runs]
            write_score(
                folder,
                f"{task.name}-{kind}",
                listed.classified(
                    test.labels[number],
                    [run.predicted[number][:, None] for run in runs],
                    classes=task.classes,
                ),
                metric="top1",
                protocol=Protocol.of(
                    "frozen-layer-probe",
                    {
                        "fit": asdict(self.fit),
                        "frames": int(test.tokens.lengths[0]),
                        "classes": list(test.classes[number]),
                        "precision": resolve_precision(self.precision, device()),
                        "trained_on": splits["train"].digest,
                    },
                ),
                model=Model(
                    name=str(self.encoder or self.run_folder),
                    weights_sha256=digests,
                    trained=kind == "trained",
                ),
                reported=listed.split,
                seeds=self.seeds,
                selection=Selection.on(
                    chose.described(),
                    chose.ids,
                    reported=listed.ids,
                    among={"layers": encoder.depth + 1, "poolings": len(POOLINGS)},
                    chosen=[f"layer {choice.layer}, {choice.pooling}" for choice in choices],
                ),
            )

    def _result(
        self,
        encoder: Encoder,
        listed: ListedSamples,
        splits: dict[str, LabelledSplit],
        trained: list[ProbeRun],
        untrained: list[ProbeRun],
    ) -> dict[str, Any]:
        kinds = {"trained": trained, "untrained": untrained}
        # A lost clip counts as wrong here too.
        counted = len(listed.read) / len(listed.ids)
        tasks = {}
        for number, task in enumerate(self.tasks):
            scores = {
                kind: [counted * run.scores[number] for run in runs] for kind, runs in kinds.items()
            }
            tasks[task.name] = {
                "classes": task.classes,
                "chance": task.chance,
                "clips": {name: len(split) for name, split in splits.items()},
                "test": {
                    kind: {
                        pooling: [(counted * run.test[number, p]).tolist() for run in runs]
                        for p, pooling in enumerate(POOLINGS)
                    }
                    for kind, runs in kinds.items()
                },
                "chosen": {
                    kind: [
                        {
                            "seed": run.seed,
                            **asdict(run.choices[number]),
                            "test": counted * run.scores[number],
                        }
                        for run in runs
                    ]
                    for kind, runs in kinds.items()
                },
                "verdict": asdict(judge(task, scores["trained"], scores["untrained"])),
            }
        return {
            "seeds": list(self.seeds),
            "layers": ["embedding", *(f"block {n}" for n in range(1, encoder.depth + 1))],
            "poolings": list(POOLINGS),
            "lost": [*listed.missing, *listed.undecodable],
            "tasks": tasks,
        }

    def _predictions(
        self,
        listed: ListedSamples,
        test: LabelledSplit,
        trained: list[ProbeRun],
        untrained: list[ProbeRun],
    ) -> dict[str, Any]:
        """Every test clip with its label and each chosen probe's answer: scores recompute."""
        named = list(enumerate(self.tasks))
        return {
            "clips": list(listed.read),
            "classes": {task.name: list(test.classes[g]) for g, task in named},
            "labels": {task.name: test.labels[g].tolist() for g, task in named},
            "predicted": {
                kind: {
                    task.name: [run.predicted[number].tolist() for run in runs]
                    for number, task in enumerate(self.tasks)
                }
                for kind, runs in (("trained", trained), ("untrained", untrained))
            },
        }


def require_tokens_of(encoder: Encoder, shards: dict[str, TokenSet]) -> None:
    """Refuse shards of another tokenizer: their ids mean something else to a model of ids."""
    if not isinstance(encoder, Backbone) or encoder.reads_patches:
        return
    expected = encoder.tokenizer.digest()
    for shard in shards.values():
        if shard.description.tokenizer_digest != expected:
            raise ValueError(
                f"{shard.path} was tokenised by other weights than the run's tokenizer; "
                "tokenise the clips with the tokenizer folder of the run"
            )
