import re
from typing import Any

import pytest
import torch

from toto.probe.fit import Features, FitConfig, accuracy, fit_probes, predict
from toto.tasks.classification import Task, judge, probe_once

TASK = Task(name="digit", classes=10)
TASKS = (Task(name="shape", classes=3), Task(name="motion", classes=2))
QUICK = FitConfig(epochs=4, heads=2)


def features(clips: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.randint(t.classes, (clips,), generator=generator) for t in TASKS])
    tokens = torch.randn(3, clips, 4, 8, generator=generator)
    tokens[1] += 2 * torch.nn.functional.one_hot(labels[0], 8)[:, None]
    tokens[2] += 2 * torch.nn.functional.one_hot(labels[1], 8)[:, None]
    return Features(tokens=tokens.bfloat16(), averages=tokens.mean(2), labels=labels)


TRAIN, SELECTION, TEST = features(150, 0), features(60, 1), features(80, 2)


def test_scores_are_those_of_the_chosen_probes() -> None:
    run = probe_once(TRAIN, SELECTION, TEST, TASKS, QUICK, seed=4)
    probes = fit_probes(TRAIN, [3, 2], QUICK, seed=4)
    expected = accuracy(predict(probes, TEST), TEST.labels)
    assert run.seed == 4
    assert torch.equal(run.test, expected.permute(2, 0, 1))
    assert [choice.layer for choice in run.choices] == [1, 2]
    for task, (choice, score) in enumerate(zip(run.choices, run.scores, strict=True)):
        pooling = ("attention", "average").index(choice.pooling)
        assert score == expected[pooling, choice.layer, task].item() > 0.8
        right = (run.predicted[task] == TEST.labels[task]).float().mean().item()
        assert right == pytest.approx(score)


def test_the_choice_never_looks_at_the_test_split() -> None:
    one = probe_once(TRAIN, SELECTION, TEST, TASKS, QUICK, seed=0)
    wrong = Features(
        tokens=TEST.tokens.flip(0), averages=TEST.averages.flip(0), labels=1 - TEST.labels % 2
    )
    other = probe_once(TRAIN, SELECTION, wrong, TASKS, QUICK, seed=0)
    assert one.choices == other.choices
    assert one.scores != other.scores


def test_the_choice_follows_the_selection_split() -> None:
    one = probe_once(TRAIN, SELECTION, TEST, TASKS, QUICK, seed=0)
    swapped = Features(
        tokens=SELECTION.tokens,
        averages=SELECTION.averages,
        labels=(SELECTION.labels + 1) % 2,
    )
    other = probe_once(TRAIN, swapped, TEST, TASKS, QUICK, seed=0)
    assert torch.equal(one.test, other.test)  # nor does it train anything
    assert one.choices != other.choices


def test_chance_is_of_balanced_classes() -> None:
    assert TASK.chance == 0.1


def test_a_verdict_by_hand() -> None:
    verdict = judge(TASK, [0.58, 0.60, 0.62], [0.31, 0.30, 0.29])
    assert verdict.trained_mean == pytest.approx(0.60)
    assert verdict.trained_sd == pytest.approx(0.02)
    assert verdict.untrained_mean == pytest.approx(0.30)
    assert verdict.untrained_sd == pytest.approx(0.01)
    assert verdict.margin_in_sd == pytest.approx(0.30 / 0.02)
    assert verdict.beats_untrained
    assert verdict.beats_chance
    assert verdict.sentence == (
        "digit: trained 60.0 +- 2.0 %, untrained 30.0 +- 1.0 %, chance 10.0 %. "
        "Trained is 15.0 standard deviations above untrained over 3 seeds, "
        "more than the two asked for."
    )


@pytest.mark.parametrize(
    ("trained", "untrained", "words", "verdicts"),
    [
        # 1.5 deviations above: not enough.
        ([0.48, 0.50, 0.52], [0.45, 0.47, 0.49], "1.5 .* above .*, which shows no gain.$", (0, 1)),
        # The wider of the two counts.
        ([0.50, 0.50, 0.501], [0.40, 0.45, 0.50], "1.0 .* above .* shows no gain.$", (0, 1)),
        ([0.30, 0.31, 0.32], [0.40, 0.41, 0.42], "10.0 .* below .* shows no gain.$", (0, 1)),
        (
            [0.08, 0.10, 0.14],
            [0.02, 0.02, 0.02],
            "above .*two asked for; it is not above ch",
            (1, 0),
        ),
        ([0.08, 0.10, 0.12], [0.10, 0.10, 0.10], "shows no gain; it is not above chance.$", (0, 0)),
    ],
)
def test_a_verdict_says_what_was_shown(
    trained: Any, untrained: Any, words: str, verdicts: tuple[int, int]
) -> None:
    verdict = judge(TASK, trained, untrained)
    assert re.search(words, verdict.sentence), verdict.sentence
    assert (verdict.beats_untrained, verdict.beats_chance) == tuple(map(bool, verdicts))


def test_scores_without_deviation_are_still_compared() -> None:
    assert judge(TASK, [0.5, 0.5], [0.5, 0.5]).margin_in_sd == 0
    assert not judge(TASK, [0.5, 0.5], [0.5, 0.5]).beats_untrained
    assert judge(TASK, [0.5, 0.5], [0.4, 0.4]).beats_untrained


@pytest.mark.parametrize(("trained", "untrained"), [([0.5], [0.1, 0.2]), ([0.5, 0.6, 0.7], [0.1])])
def test_one_seed_has_no_deviation(trained: list[float], untrained: list[float]) -> None:
    with pytest.raises(ValueError, match="digit: a deviation needs at least 2 seeds, got 1"):
        judge(TASK, trained, untrained)
