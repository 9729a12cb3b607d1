"""`toto probe`: what every layer of a trained model knows of labelled clips, against untrained.

The model is one of ours, or an encoder of another project under the same protocol.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from toto.data.token_set import TokenSet
from toto.jobs.listed_samples import ListedSamples
from toto.jobs.progress import Bar, bar
from toto.jobs.score_files import write_score
from toto.jobs.sequences import open_tokens
from toto.probe.backbone import Backbone, open_backbone
from toto.probe.encoder import Encoder
from toto.probe.fit import Features, FitConfig, extract, join
from toto.probe.pool import POOLINGS
from toto.probe.transformers_encoder import open_encoder
from toto.runtime.devices import device, resolve_precision
from toto.runtime.folder import RunFolder
from toto.tasks.classification import ProbeRun, Task, judge, probe_once
from toto.tasks.ledger import Model, Protocol, Selection, require_apart

SPLITS = ("train", "selection", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Probe all layers of a pre-training run, or of another encoder, on labelled shards."""

    run_folder: Path
    """Folder of the pre-training run."""
    encoder: Path | None = None
    """Folder of an encoder that transformers saved, which takes the run's place. It reads frames,
    so the shards must keep them (`toto tokenize --keep-frames`)."""
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
            encoder = self._open()
            shards = {
                split: open_tokens(self.shards, split, frames=encoder.reads_patches)
                for split in SPLITS
            }
            require_tokens_of(encoder, shards)
            listed = {split: ListedSamples.of(shards[split]) for split in ("selection", "test")}
            require_apart(listed["selection"].split, listed["selection"].ids, listed["test"].ids)
            clips = sum(len(shard.clips) for shard in shards.values())
            digests: dict[str, tuple[str, ...]] = {}
            with bar("probe", (1 + len(self.seeds)) * clips) as progress:
                trained, digests["trained"] = self._probe(
                    lambda _: encoder, shards, progress, same=True
                )
                untrained, digests["untrained"] = self._probe(
                    encoder.untrained, shards, progress, same=False
                )
            runs = {"trained": trained, "untrained": untrained}
            for kind, found in runs.items():
                self._write_scores(folder, kind, found, digests[kind], listed, shards, encoder)
            result = self._result(encoder, shards, trained, untrained)
            folder.write_result("predictions", self._predictions(shards, trained, untrained))
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
        shards: dict[str, TokenSet],
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
        return runs, tuple(digests)

    def _features(self, encoder: Encoder, shard: TokenSet, progress: Bar) -> Features:
        frames = int(shard.lengths[0])
        clips = range(len(shard.clips))
        windows = torch.stack([encoder.window(shard, clip, 0, frames) for clip in clips])
        labels = torch.stack([shard.labels(task.name) for task in self.tasks])

        def shown() -> Iterator[Features]:
            for part in extract(encoder, windows, labels):
                progress.advance(part.tokens.shape[1], note="features of all layers")
                yield part

        return join(shown(), len(clips))

    def _write_scores(
        self,
        folder: RunFolder,
        kind: str,
        runs: list[ProbeRun],
        digests: tuple[str, ...],
        listed: dict[str, ListedSamples],
        shards: dict[str, TokenSet],
        encoder: Encoder,
    ) -> None:
        """Write each task's score so that it can be computed again (`toto ledger`)."""
        chose, test = listed["selection"], listed["test"]
        for number, task in enumerate(self.tasks):
            choices = [run.choices[number] for run in runs]
            write_score(
                folder,
                f"{task.name}-{kind}",
                test.classified(
                    shards["test"].labels(task.name),
                    [run.predicted[number][:, None] for run in runs],
                    classes=task.classes,
                ),
                metric="top1",
                protocol=Protocol.of(
                    "frozen-layer-probe",
                    {
                        "fit": asdict(self.fit),
                        "frames": int(shards["train"].lengths[0]),
                        "classes": task.classes,
                        "precision": resolve_precision(self.precision, device()),
                        "trained_on": shards["train"].sha256,
                    },
                ),
                model=Model(
                    name=str(self.encoder or self.run_folder),
                    weights_sha256=digests,
                    trained=kind == "trained",
                ),
                reported=test.split,
                seeds=self.seeds,
                selection=Selection.on(
                    chose.split,
                    chose.ids,
                    reported=test.ids,
                    among={"layers": encoder.depth + 1, "poolings": len(POOLINGS)},
                    chosen=[f"layer {choice.layer}, {choice.pooling}" for choice in choices],
                ),
            )

    def _result(
        self,
        encoder: Encoder,
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
            "layers": ["embedding", *(f"block {n}" for n in range(1, encoder.depth + 1))],
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
