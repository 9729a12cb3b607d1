import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from toto.train.loop import train_steps


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def batches(count: int, rows: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(rows, 5, generator=generator), torch.randn(rows, 3, generator=generator))
        for _ in range(count)
    ]


def falling(step: int) -> float:
    return 0.1 / (1 + step)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.1)


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("clip_norm", [0.3, math.inf])
def test_equals_a_loop_written_by_hand(
    make: Callable[[nn.Module], torch.optim.Optimizer], clip_norm: float
) -> None:
    ours, theirs = network(), network()
    theirs.load_state_dict(ours.state_dict())
    data = batches(6)
    optimizer = make(theirs)
    expected = []
    for number, batch in enumerate(data):
        optimizer.param_groups[0]["lr"] = falling(number)
        optimizer.zero_grad()
        loss = squared(theirs, batch)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in theirs.parameters()])
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm)
        torch.testing.assert_close(norm, gradient.norm())
        optimizer.step()
        expected.append((number + 1, loss.item(), norm.item(), falling(number)))

    steps = train_steps(
        ours, squared, iter(data), make(ours), falling, steps=range(6), clip_norm=clip_norm
    )
    got = [(step.number, step.loss.item(), step.grad_norm.item(), step.lr) for step in steps]
    assert got == expected
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_parts_of_a_batch_are_one_step_of_the_whole() -> None:
    whole, parted = network(), network()
    parted.load_state_dict(whole.state_dict())
    x, y = batches(1, rows=12)[0]
    parts = list(zip(x.split(4), y.split(4), strict=True))
    (one,) = train_steps(whole, squared, iter([(x, y)]), sgd(whole), falling, steps=range(1))
    (three,) = train_steps(
        parted, squared, iter(parts), sgd(parted), falling, steps=range(1), accumulate=3
    )
    # fp32: the mean of three means, and the mean of all.
    torch.testing.assert_close(three.loss, one.loss, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(three.grad_norm, one.grad_norm, rtol=1e-5, atol=1e-6)
    for a, b in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_step_happens_when_it_is_asked_for() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    steps = train_steps(model, squared, iter(batches(2)), sgd(model), falling, steps=range(2))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    next(steps)
    after = copy.deepcopy(model.state_dict())
    assert not torch.equal(before["0.weight"], after["0.weight"])
    assert all(p.grad is None for p in model.parameters())  # none is carried into the next


def test_a_resumed_loop_goes_on_where_the_first_stopped() -> None:
    unbroken, broken = network(), network()
    broken.load_state_dict(unbroken.state_dict())
    data = batches(5)
    optimizer = adamw(unbroken)
    list(train_steps(unbroken, squared, iter(data), optimizer, falling, steps=range(5)))
    optimizer = adamw(broken)
    list(train_steps(broken, squared, iter(data), optimizer, falling, steps=range(2)))
    rest = train_steps(broken, squared, iter(data[2:]), optimizer, falling, steps=range(2, 5))
    assert [(step.number, step.lr) for step in rest] == [(n + 1, falling(n)) for n in (2, 3, 4)]
    for a, b in zip(unbroken.parameters(), broken.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_group_scales_the_schedule() -> None:
    model = network()
    optimizer = torch.optim.SGD(
        [
            {"params": [model[0].weight], "lr_scale": 0.25},
            {"params": [model[2].weight]},
            {"params": [model[2].bias], "lr_scale": 0.0},
        ],
        lr=0.0,
    )
    before = copy.deepcopy(model)
    gradient = torch.autograd.grad(squared(before, batches(1)[0]), list(before.parameters()))
    list(
        train_steps(
            model,
            squared,
            iter(batches(1)),
            optimizer,
            lambda _: 0.5,
            steps=range(1),
            clip_norm=math.inf,
        )
    )
    torch.testing.assert_close(model[0].weight, before[0].weight - 0.125 * gradient[0])
    torch.testing.assert_close(model[2].weight, before[2].weight - 0.5 * gradient[2])
    assert torch.equal(model[2].bias, before[2].bias)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("clip_norm", [1.0, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float, clip_norm: float) -> None:
    model = network()
    data = batches(3)
    data[2][0][0, 0] = bad
    optimizer = adamw(model)
    steps: Iterator[object] = train_steps(
        model, squared, iter(data), optimizer, falling, steps=range(3), clip_norm=clip_norm
    )
    next(steps)
    next(steps)
    weights = copy.deepcopy(model.state_dict())
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    with pytest.raises(RuntimeError, match="non-finite"):
        next(steps)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    for index, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(moments[index][name], value) for name, value in state.items())


def test_parts_are_clipped_by_their_own_norms() -> None:
    model = torch.nn.ModuleList([torch.nn.Linear(1, 1, bias=False) for _ in range(2)])
    before = [part.weight.item() for part in model]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def objective(parts: torch.nn.Module, slopes: torch.Tensor) -> torch.Tensor:
        return sum(part.weight.sum() * slope for part, slope in zip(parts, slopes, strict=True))

    batches = iter([torch.tensor([3.0, 4.0])])
    steps = train_steps(
        model, objective, batches, optimizer, lambda _: 1.0, steps=range(1), clipped=list(model)
    )
    (step,) = steps
    # Each is cut to 1; together they would have been cut to 0.6 and 0.8.
    assert [was - part.weight.item() for was, part in zip(before, model, strict=True)] == (
        pytest.approx([1.0, 1.0], rel=1e-5)
    )
    assert step.grad_norm.item() == pytest.approx(5.0)
