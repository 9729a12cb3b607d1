"""Which steps may change the weights."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from toto.train.health import Health, Judge
from toto.train.loop import train_steps

SKIP = Health(on_spike="skip", window=8, patience=3)


def judged(judge: Judge, values: list[tuple[float, float]], first: int = 1) -> list[bool]:
    return [
        judge(step, torch.tensor(loss), torch.tensor(norm))
        for step, (loss, norm) in enumerate(values, start=first)
    ]


def calm(count: int, seed: int = 0) -> list[tuple[float, float]]:
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 2, generator=draw).mul(0.01).tolist()
    return [(3 + a, math.exp(b)) for a, b in noise]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_what_is_not_finite_is_never_taken(bad: float, where: int) -> None:
    judge = Judge(Health())
    values = [3.0, 1.0]
    values[where] = bad
    assert judged(judge, [(3.0, 1.0), (values[0], values[1])]) == [True, False]
    assert judge.incident is not None
    assert (judge.incident.what, judge.incident.step) == ("nonfinite", 2)
    assert (judge.nonfinite, judge.skipped, judge.in_a_row) == (1, 1, 1)
    assert judged(judge, [(3.0, 1.0)], first=3) == [True]
    assert judge.in_a_row == 0


@pytest.mark.parametrize("bad", [(4.0, 1.0), (3.0, 3.0)])
def test_a_spike_of_loss_or_gradient_is_found_and_taken_or_not(bad: tuple[float, float]) -> None:
    for policy, taken in (("log", True), ("skip", False)):
        judge = Judge(replace(SKIP, on_spike=policy))
        assert judged(judge, [*calm(8), bad]) == [True] * 8 + [taken]
        assert judge.incident is not None
        assert judge.incident.what == "spike"
        assert judge.incident.deviations > 10
        assert judge.incident.usual_loss == pytest.approx(3, abs=0.02)
        assert (judge.spikes, judge.skipped) == (1, int(not taken))


def test_a_fall_is_no_spike_and_neither_is_what_an_unfull_window_cannot_tell() -> None:
    judge = Judge(SKIP)
    assert all(judged(judge, [*calm(7), (9.0, 9.0)]))
    assert judge.spikes == 0
    judge = Judge(SKIP)
    assert all(judged(judge, [*calm(8), (0.5, 0.01)]))
    assert judge.spikes == 0


def test_equal_losses_do_not_make_the_next_one_a_spike() -> None:
    judge = Judge(SKIP)
    assert all(judged(judge, [(3.0, 1.0)] * 8 + [(3.02, 1.05)]))
    assert judged(judge, [(3.1, 1.0)]) == [False]


def test_values_that_were_not_taken_stay_out_of_the_window() -> None:
    judge, clean = Judge(SKIP), Judge(SKIP)
    judged(judge, [*calm(8), (math.nan, 1.0), (50.0, 1.0)])
    judged(clean, calm(8))
    for name in ("losses", "log_norms"):
        assert torch.equal(judge.tensors()[name], clean.tensors()[name])
    assert all(judged(judge, calm(20, seed=1)))


def test_a_spike_that_was_taken_does_not_hide_the_next() -> None:
    judge = Judge(replace(SKIP, on_spike="log"))
    judged(judge, [*calm(8), (50.0, 1.0), (50.0, 1.0)])
    assert judge.spikes == 2


def test_a_level_that_has_risen_for_good_becomes_the_usual_one() -> None:
    judge = Judge(replace(SKIP, on_spike="log"))
    judged(judge, calm(8))
    judged(judge, [(loss + 1, norm) for loss, norm in calm(20, seed=1)])
    assert 3 <= judge.spikes <= 5


def test_too_many_in_a_row_end_the_run_and_a_rewound_stretch_does_not_count() -> None:
    judge = Judge(SKIP, passed_over=[(2, 30)])
    assert judged(judge, [(math.nan, 1.0)]) == [False]
    assert judged(judge, [(math.nan, 1.0)] * 29, first=2) == [False] * 29
    assert judge.complaint is None
    assert judge.skipped == 1
    judged(judge, [(math.nan, 1.0)] * 2, first=31)
    assert judge.complaint == (
        "step 32: 3 batches in a row were passed over, the last for loss nan and gradient 1; "
        "lower --lr, or look at the data"
    )


def test_stop_ends_the_run_at_the_first_that_is_not_finite() -> None:
    judge = Judge(Health(on_nonfinite="stop"))
    assert judged(judge, [(math.inf, math.nan)]) == [False]
    assert judge.complaint is not None
    assert judge.complaint.startswith("step 1: loss inf, gradient nan; the weights are those of")


def test_it_goes_back_after_so_many_incidents_in_a_span() -> None:
    config = replace(SKIP, rewind_after=2, rewind_span=4, patience=9)
    judge = Judge(config)
    judged(judge, calm(8))
    judged(judge, [(9.0, 1.0), *calm(3), (9.0, 1.0)], first=9)
    assert judge.rewind is None  # steps 9 and 13 are 5 steps, both counted
    judged(judge, [*calm(2), (math.nan, 1.0)], first=14)
    assert judge.rewind == (13, 16)
    judged(judge, calm(1), first=17)
    assert judge.rewind is None


def test_a_judge_restored_anywhere_decides_as_one_that_was_not() -> None:
    values = calm(60)
    for place in (9, 20, 21, 33, 50):
        values[place] = (math.nan, 1.0) if place == 33 else (7.0, 1.0)
    whole = Judge(SKIP)
    wanted = judged(whole, values)
    assert wanted.count(False) == 5
    for cut in range(1, 60):
        first, second = Judge(SKIP), Judge(SKIP)
        begun = judged(first, values[:cut])
        second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
        assert begun + judged(second, values[cut:], first=cut + 1) == wanted
        for name, tensor in second.tensors().items():
            assert torch.equal(tensor.nan_to_num(-1), whole.tensors()[name].nan_to_num(-1))


def test_what_a_checkpoint_holds_has_shapes_of_its_own() -> None:
    judge = Judge(SKIP)
    empty = {name: tensor.shape for name, tensor in judge.tensors().items()}
    judged(judge, [*calm(30), (math.nan, 1.0)])
    judge.passed_over.append((3, 4))
    assert {name: tensor.shape for name, tensor in judge.tensors().items()} == empty


def test_a_stretch_known_before_the_checkpoint_is_read_is_kept() -> None:
    old, new = Judge(SKIP, passed_over=[(2, 3)]), Judge(SKIP, passed_over=[(9, 12)])
    new.restore(old.tensors())
    assert new.passed_over == [(2, 3), (9, 12)]


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def test_a_step_that_is_not_taken_leaves_weights_and_moments_alone() -> None:
    draw = torch.Generator().manual_seed(1)
    batches = [(torch.randn(4, 5, generator=draw), torch.randn(4, 3, generator=draw))] * 4
    batches[2] = (batches[2][0] * math.nan, batches[2][1])
    model = nn.Linear(5, 3)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    judge = Judge(Health())
    steps = train_steps(
        model, squared, iter(batches), optimizer, lambda _: 0.1, steps=range(4), accept=judge
    )
    assert [next(steps).taken, next(steps).taken] == [True, True]
    weights = copy.deepcopy(model.state_dict())
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    third = next(steps)
    assert (third.taken, third.number) == (False, 3)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    for index, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(moments[index][name], value) for name, value in state.items())
    fourth = next(steps)
    assert fourth.taken
    assert fourth.loss.isfinite()
    assert not torch.equal(weights["weight"], model.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_nonfinite": "ignore"}, "on_nonfinite 'ignore' is unknown; choose stop or skip"),
        ({"on_spike": "stop"}, "on_spike 'stop' is unknown; choose log or skip"),
        ({"window": 0}, "window 0 must be at least 1"),
        ({"patience": 0}, "patience 0 must be at least 1"),
        ({"rewind_span": 0}, "rewind_span 0 must be at least 1"),
        ({"rewind_after": -1}, r"rewind_after -1 must be 0 \(never\) or more"),
        ({"replicas_every": -2}, r"replicas_every -2 must be 0 \(never\) or more"),
        ({"spike_deviations": 0.0}, "spike_deviations 0.0 must be above 0"),
    ],
)
def test_refused_fields(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Health(**changes)


def test_a_rewind_needs_a_checkpoint_from_before_it() -> None:
    Health(rewind_span=100).require_checkpoints(10)
    with pytest.raises(ValueError, match="rewind_span 100 is more than save_every 10: no"):
        Health(rewind_after=2, rewind_span=100).require_checkpoints(10)
