"""`toto probe`: what every layer of a trained model knows of labelled clips, against untrained."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from toto.data.token_set import TokenSet
from toto.jobs.progress import Bar, bar
from toto.jobs.sequences import open_tokens
from toto.probe.backbone import Backbone, open_backbone
from toto.probe.fit import Features, FitConfig, extract, join
from toto.probe.pool import POOLINGS
from toto.runtime.devices import device, resolve_precision
from toto.runtime.folder import RunFolder
from toto.tasks.classification import ProbeRun, Task, judge, probe_once

SPLITS = ("train", "selection", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Probe all layers of a pre-training run on labelled shards."""

    run_folder: Path
    """Folder of the pre-training run."""
    shards: str
    """Folder or address with the labelled token sets `train`, `selection` and `test`."""
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
            place = device()
            backbone = open_backbone(
                self.run_folder, precision=resolve_precision(self.precision, place)
            )
            backbone.model.to(place)
            shards = {
                split: open_tokens(self.shards, split, frames=backbone.reads_patches)
                for split in SPLITS
            }
            _require_tokens_of(backbone, shards)
            clips = sum(len(shard.clips) for shard in shards.values())
            with bar("probe", (1 + len(self.seeds)) * clips) as progress:
                trained = self._probe(lambda _: backbone, shards, progress, same=True)
                untrained = self._probe(backbone.untrained, shards, progress, same=False)
            result = self._result(backbone, shards, trained, untrained)
            folder.write_result("predictions", self._predictions(shards, trained, untrained))
            folder.write_result("probe", result)
            return result

    def _probe(
        self,
        backbone: Callable[[int], Backbone],
        shards: dict[str, TokenSet],
        progress: Bar,
        *,
        same: bool,
    ) -> list[ProbeRun]:
        """Probe `backbone(seed)` for every seed; `same` when it does not depend on the seed."""
        runs: list[ProbeRun] = []
        features: dict[str, Features] = {}
        for seed in self.seeds:
            if not features or not same:
                # Freed first: two sets of features at once would double the peak.
                features.clear()
                source = backbone(seed)
                for split in SPLITS:
                    features[split] = self._features(source, shards[split], progress)
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
        return runs

    def _features(self, backbone: Backbone, shard: TokenSet, progress: Bar) -> Features:
        frames = int(shard.lengths[0])
        clips = range(len(shard.clips))
        windows = torch.stack([backbone.window(shard, clip, 0, frames) for clip in clips])
        labels = torch.stack([shard.labels(task.name) for task in self.tasks])

        def shown() -> Iterator[Features]:
            for part in extract(backbone, windows, labels):
                progress.advance(part.tokens.shape[1], note="features of all layers")
                yield part

        return join(shown(), len(clips))

    def _result(
        self,
        backbone: Backbone,
        shards: dict[str, TokenSet],
        trained: list[ProbeRun],
        untrained: list[ProbeRun],
    ) -> dict[str, Any]:
        kinds = {"trained": trained, "untrained": untrained}
        tasks = {}
        for number, task in enumerate(self.tasks):
            scores = {kind: [run.scores[number] for run in runs] for kind, runs in kinds.items()}
            tasks[task.name] = {
                "classes": task.classes,
                "chance": task.chance,
                "clips": {split: len(shard.clips) for split, shard in shards.items()},
                "test": {
                    kind: {
                        pooling: [run.test[number, p].tolist() for run in runs]
                        for p, pooling in enumerate(POOLINGS)
                    }
                    for kind, runs in kinds.items()
                },
                "chosen": {
                    kind: [
                        {
                            "seed": run.seed,
                            **asdict(run.choices[number]),
                            "test": run.scores[number],
                        }
                        for run in runs
                    ]
                    for kind, runs in kinds.items()
                },
                "verdict": asdict(judge(task, scores["trained"], scores["untrained"])),
            }
        return {
            "seeds": list(self.seeds),
            "layers": ["embedding", *(f"block {n}" for n in range(1, backbone.depth + 1))],
            "poolings": list(POOLINGS),
            "tasks": tasks,
        }

    def _predictions(
        self, shards: dict[str, TokenSet], trained: list[ProbeRun], untrained: list[ProbeRun]
    ) -> dict[str, Any]:
        """Every test clip with its label and each chosen probe's answer: scores recompute."""
        test = shards["test"]
        return {
            "clips": [clip.name for clip in test.clips],
            "labels": {task.name: test.labels(task.name).tolist() for task in self.tasks},
            "predicted": {
                kind: {
                    task.name: [run.predicted[number].tolist() for run in runs]
                    for number, task in enumerate(self.tasks)
                }
                for kind, runs in (("trained", trained), ("untrained", untrained))
            },
        }


def _require_tokens_of(backbone: Backbone, shards: dict[str, TokenSet]) -> None:
    """Refuse shards of another tokenizer: their ids mean something else to a model of ids."""
    if backbone.reads_patches:
        return
    expected = backbone.tokenizer.digest()
    for shard in shards.values():
        if shard.description.tokenizer_digest != expected:
            raise ValueError(
                f"{shard.path} was tokenised by other weights than the run's tokenizer; "
                "tokenise the clips with the tokenizer folder of the run"
            )
