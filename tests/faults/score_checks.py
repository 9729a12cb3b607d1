"""What choosing, counting and recording must hold; see `evaluation_checks`."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import made_scores
from toto.jobs import atlas_clips, ledger
from toto.probe.bank import BankConfig
from toto.probe.feature_cache import FeatureCache
from toto.probe.fit import Features
from toto.studies import layers
from toto.tasks import answers
from toto.tasks.ledger import Protocol, Split


def lost_samples_count_as_wrong(_: object, out: Path) -> None:
    """5 of 7 answers are right, and no other takes a lost one's place."""
    ranked = dict(list(made_scores.RANKED.items())[:5])
    found = made_scores.classified([ranked], undecodable=[made_scores.IDS[6]])
    assert answers.compute("top1", found) == (5 / 7,)
    assert found.samples.missing == made_scores.IDS[5:6]
    objects = answers.Measured.gathered(["a/1", "b/1"], [[("b/1", 0.5)]])
    assert answers.compute("j", objects) == (0.25,)
    _refused(answers.gather, made_scores.IDS, [("another", (0,))])
    twice = [("set/0.mp4", (0,)), ("set/0.mp4", (1,))]
    _refused(answers.gather, made_scores.IDS, twice)


def top_k_is_among_the_first_k(_: object, out: Path) -> None:
    """Classes are ranked with the likeliest first."""
    ranks = dict.fromkeys(made_scores.IDS, (0, 1, 2))
    found = made_scores.classified([ranks])
    share = sum(label == 0 for label in made_scores.LABELS.values()) / 7
    assert answers.compute("top1", found) == (share,)
    assert answers.compute("top5", found) == (1.0,)
    ids = list("abcdef")
    last = answers.Classified.gathered(
        ids, dict(zip(ids, range(6), strict=True)), [[(i, range(6)) for i in ids]], classes=6
    )
    assert answers.compute("top5", last) == (5 / 6,)


def the_ledger_sees_what_was_changed(_: object, out: Path) -> None:
    """A better value, a forgotten sample, other answers and a choice on the test split."""
    ranked = dict(list(made_scores.RANKED.items())[:6])
    wrong = dict.fromkeys(ranked, (2, 1))
    answered = made_scores.classified([ranked, wrong])
    score = made_scores.write(out / "run", answered)
    assert score.values == (6 / 7, 2 / 7)
    assert math.isclose(score.value, 4 / 7)
    shown = ledger.Ledger(folders=(out,)).run()
    assert [entry.troubles for entry in shown] == [()]
    assert "57.14" in "\n".join(ledger.as_text(shown))
    file = out / "run" / "results" / "score-made.json"
    for old, new in (("0.8571428571428571", "0.86"), ('[\n  "set/6.mp4"\n ]', "[]")):
        text = file.read_text()
        file.write_text(text.replace(old, new, 1))
        assert ledger.Ledger(folders=(out,)).run()[0].troubles
        file.write_text(text)
    same = Split.of("set/test", "again", made_scores.IDS)
    _refused(
        made_scores.write, out / "other", answered, selection=made_scores.selection(split=same)
    )
    _refused(made_scores.selection, ids=made_scores.IDS[:1])
    protocols = [Protocol.of("made", {"epochs": epochs}).digest for epochs in (3, 4)]
    assert protocols[0] != protocols[1]


def _refused(function: Callable[..., Any], *given: Any, **named: Any) -> None:
    try:
        function(*given, **named)
    except ValueError:
        return
    raise AssertionError(f"{function.__name__} refused nothing")


def kept_features_are_of_the_model_that_is_asked_for(_: object, out: Path) -> None:
    """Features of one model's digest are never another's."""
    cache, labels = FeatureCache(folder=out), torch.zeros(1, 2, dtype=torch.int64)
    kept = Features(tokens=torch.ones(1, 2, 3, 4), averages=torch.ones(1, 2, 4), labels=labels)
    facts = {"backbone": "one", "data": "clips"}
    cache.write(facts, kept)
    found = cache.read(facts, labels)
    assert found is not None
    assert torch.equal(found.tokens, kept.tokens)
    for name in facts:
        assert cache.read({**facts, name: "another"}, labels) is None


def splits_share_their_classes(*_: object) -> None:
    """A class has one number, also in a split that lacks those before it."""
    words = {"train": "cab", "selection": "abc", "test": "cb"}
    sets: dict[str, Any] = {
        name: SimpleNamespace(
            path=name,
            lengths=torch.ones(3),
            words=lambda labels=labels: list(labels),
            names=lambda labels=labels: list(labels),
            crops=lambda labels=labels: [(0.5, 0.5)] * len(labels),
        )
        for name, labels in words.items()
    }
    found = atlas_clips.atlas_clips(sets, label="", frames=None, share=0.1, most=None, seed=0)
    assert [found[name].labels.tolist() for name in words] == [[2, 0, 1], [0, 1, 2], [2, 1]]


def the_atlas_chooses_by_the_selection_split(*_: object) -> None:
    """Whatever the test split says."""
    outcomes = [
        layers.LayerOutcome(
            layer=layer,
            rates=torch.tensor([0]),
            selection=torch.tensor([chose]),
            test=torch.tensor([test]),
            ranked=torch.zeros(1, 1, 1, dtype=torch.int64),
        )
        for layer, (chose, test) in enumerate([(0.2, 0.9), (0.6, 0.3), (0.5, 0.8)])
    ]
    picked = layers.pick(outcomes, BankConfig(heads=("average",), rates=(1e-3,)))
    assert (picked.layer, round(picked.test, 6)) == (1, 0.3)
