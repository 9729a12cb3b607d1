"""The layer atlas's choices: what may decide them and what may not."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from toto.probe.bank import BankConfig
from toto.probe.fit import Features
from toto.studies.layers import LayerOutcome, held_out_of, layer_outcomes, pick

LAYERS, PLACES, WIDTH, CLASSES = 3, 4, 8, 4
CONFIG = BankConfig(
    heads=("average", "attention"), attention_heads=2, rates=(1e38, 2e-2), epochs=10, batch=40
)


def problem(clips: int, seed: int, *, best: int = 1) -> Features:
    """Only one layer shows the class."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(CLASSES, (clips,), generator=draw)
    tokens = torch.randn(LAYERS, clips, PLACES, WIDTH, generator=draw)
    tokens[best] += 2 * torch.nn.functional.one_hot(label, WIDTH)[:, None]
    return Features(tokens=tokens.bfloat16(), averages=tokens.mean(2), labels=label[None])


def outcome(layer: int, selection: list[float], test: list[float]) -> LayerOutcome:
    return LayerOutcome(
        layer=layer,
        rates=torch.tensor([1, 0]),
        selection=torch.tensor(selection),
        test=torch.tensor(test),
        ranked=torch.zeros(2, 1, 1, dtype=torch.long),
    )


def test_the_layer_that_knows_is_chosen_with_a_rate_that_learns() -> None:
    parts = problem(300, 0), problem(100, 1), problem(200, 2)
    found = list(layer_outcomes(*parts, CLASSES, CONFIG, seed=0))
    chosen = pick(found, CONFIG)
    assert (chosen.layer, chosen.rate) == (1, 2e-2)
    assert chosen.test > 0.9
    assert float(found[0].test.max()) < 0.5
    right = (found[1].ranked[:, :, 0] == parts[2].labels[0]).float().mean(-1)
    assert torch.equal(right, found[1].test)


def test_only_the_selection_split_decides() -> None:
    """The clips that are reported say layer 2, and would be believed by a selection on them."""
    chooses, reported = problem(100, 1, best=1), problem(200, 2, best=2)
    both = problem(300, 0, best=1)
    tokens = both.tokens.clone()
    tokens[2] = tokens[1]
    train = replace(both, tokens=tokens, averages=tokens.float().mean(2))
    found = list(layer_outcomes(train, chooses, reported, CLASSES, CONFIG, seed=0))
    assert float(found[2].test.max()) > 0.9 > float(found[1].test.max())
    assert pick(found, CONFIG).layer == 1


def test_of_equals_the_first_is_picked_and_a_head_can_be_asked_for() -> None:
    outcomes = [outcome(0, [0.5, 0.7], [0.1, 0.2]), outcome(1, [0.6, 0.7], [0.9, 0.8])]
    chosen = pick(outcomes, CONFIG)
    assert (chosen.layer, chosen.head, chosen.rate) == (0, "attention", 1e38)
    assert chosen.test == pytest.approx(0.2)
    assert pick(outcomes, CONFIG, ["average"]).layer == 1
    assert pick(outcomes, CONFIG, ["average"]).rate == 2e-2


def held_out(labels: Tensor, share: float, seed: int) -> tuple[set[int], set[int]]:
    train, chooses = held_out_of(labels, share, seed=seed)
    return set(train.tolist()), set(chooses.tolist())


def test_each_class_gives_its_share_and_no_clip_does_both() -> None:
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 2)
    train, chooses = held_out(labels, 0.1, 0)
    assert train | chooses == set(range(72))
    assert not train & chooses
    assert [sum(int(labels[n]) == c for n in chooses) for c in range(3)] == [5, 2, 1]
    assert held_out(labels, 0.1, 0)[1] == chooses
    assert held_out(labels, 0.1, 1)[1] != chooses


def test_a_class_of_one_clip_cannot_be_parted() -> None:
    with pytest.raises(ValueError, match="class 1 has 1 training clip; one to train and one"):
        held_out_of(torch.tensor([0, 0, 1]), 0.1, seed=0)
