"""A score is the same to the last bit on 1, 2 and 3 ranks, which do not divide the clips."""

import json
from pathlib import Path

import pytest
import torch

from made_labelled import CLASSES, GPT2, LLAMA, SPLITS, write_labelled
from made_ranks import over_ranks
from toto.data.layout import Layout, LayoutConfig
from toto.data.token_set import TokenSet
from toto.jobs import evaluation
from toto.jobs.labelled_clips import LabelledBatch, LabelledClips
from toto.jobs.labelled_splits import labelled_splits
from toto.models import DecoderConfig
from toto.probe.classifier import Answer, Classifier, HeadConfig, StoppedProbes
from toto.runtime.devices import distributed
from toto.tasks.ledger import Views

FRAMES, GROUP = 3, 2
VIEWS = Views(temporal=2)
"""Clips of a forward pass: few, so that every rank has some and the last has fewer."""


def classifier(config: DecoderConfig) -> StoppedProbes:
    """Probes behind every layer, with scores that differ from clip to clip."""
    torch.manual_seed(1)
    model = StoppedProbes(config.build(), HeadConfig(pooling="attention", heads=2), CLASSES)
    for probe in model.probes:
        torch.nn.init.normal_(probe.get_submodule("classify").weight)
    return model.train()


def evaluated(shards: Path, out: Path, config: DecoderConfig) -> None:
    """One rank's part; each writes what it was given of all."""
    evaluation.TOGETHER = GROUP
    asked: list[int] = []

    def answer(model: torch.nn.Module, batch: LabelledBatch) -> Answer:
        return model(batch.ids)

    with distributed() as ranks:
        sets = {name: TokenSet(shards / name) for name in SPLITS}
        layout = Layout(LayoutConfig(frames=FRAMES), codes=16, frame_tokens=16)
        split = labelled_splits(sets, {"shade": CLASSES}, share=0.1)["test"]
        clips = LabelledClips(split, layout)
        model: Classifier = classifier(config)
        given = clips.viewed

        def counted(group: range, views: Views, *, clip: int, crop: int) -> LabelledBatch:
            asked.extend(group)
            return given(group, views, clip=clip, crop=crop)

        clips.viewed = counted  # type: ignore[method-assign,assignment]
        found = evaluation.evaluate(
            model, answer, clips, ranks=ranks, place=torch.device("cpu"), views=VIEWS
        )
        assert found.next_token_loss is not None
        (out / f"{ranks.world}-{ranks.rank}.json").write_text(
            json.dumps(
                {
                    "predicted": found.ranked[..., 0].tolist(),
                    "accuracies": [value.hex() for value in found.accuracies],
                    "next_token_loss": found.next_token_loss.hex(),
                    "asked": asked,
                }
            )
        )


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_any_number_of_ranks_gives_the_same_score(config: DecoderConfig, tmp_path: Path) -> None:
    shards = write_labelled(tmp_path / "shards")
    for world in (1, 2, 3):
        over_ranks(world, evaluated, shards, tmp_path, config)
    told = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("?-?.json")}
    assert sorted(told) == ["1-0", "2-0", "2-1", "3-0", "3-1", "3-2"]
    clips = SPLITS["test"]
    assert clips % 2
    assert clips % 3
    alone = {key: value for key, value in told["1-0"].items() if key != "asked"}
    # Not one class for all: what was joined wrongly would go unseen.
    assert all(len(set(layer)) > 1 for layer in alone["predicted"])
    for name, one in told.items():
        assert {key: value for key, value in one.items() if key != "asked"} == alone, name
    for world in (1, 2, 3):
        passes = [told[f"{world}-{rank}"]["asked"] for rank in range(world)]
        assert set().union(*passes) == set(range(clips))
