import copy

import pytest
import torch
from torch import nn

from toto.runtime import state


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


def adamw(net: nn.Module, **options: bool) -> torch.optim.AdamW:
    matrices = [p for p in net.parameters() if p.ndim == 2]
    vectors = [p for p in net.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.01, **options)


def step(net: nn.Module, optimizer: torch.optim.AdamW, seed: int) -> None:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
    net(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"foreach": True}, {"fused": True}])
def test_training_goes_on_bit_for_bit(options: dict[str, bool]) -> None:
    net = model()
    optimizer = adamw(net, **options)
    for seed in range(3):
        step(net, optimizer, seed)
    taken = {k: v.clone() for k, v in state.optimizer_tensors(optimizer, net).items()}
    assert {"0.weight/exp_avg", "0.weight/exp_avg_sq", "0.weight/step"} <= set(taken)

    again = copy.deepcopy(net)
    restored = adamw(again, **options)
    step(again, restored, 99)  # what it has of its own must go
    again.load_state_dict(net.state_dict())
    state.restore_optimizer(restored, again, taken)
    for seed in range(3, 6):
        step(net, optimizer, seed)
        step(again, restored, seed)
    for one, other in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}])
def test_training_in_another_memory_format_goes_on_bit_for_bit(options: dict[str, bool]) -> None:
    """The fused kernel pairs weights and moments by their place in memory, not by strides."""
    net = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    picture = torch.randn(2, 4, 5, 5)

    def one_step(net: nn.Module, optimizer: torch.optim.AdamW) -> None:
        net(picture).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, **options)
    one_step(net, optimizer)
    # Files hold tensors row by row.
    taken = {k: v.contiguous() for k, v in state.optimizer_tensors(optimizer, net).items()}
    again = copy.deepcopy(net)
    restored = torch.optim.AdamW(again.parameters(), lr=0.01, **options)
    state.restore_optimizer(restored, again, taken)
    for _ in range(3):
        one_step(net, optimizer)
        one_step(again, restored)
    assert torch.equal(net.weight, again.weight)


def test_restoring_shares_no_memory() -> None:
    net = model()
    optimizer = adamw(net)
    step(net, optimizer, 0)
    taken = {k: v.clone() for k, v in state.optimizer_tensors(optimizer, net).items()}
    kept = {k: v.clone() for k, v in taken.items()}
    state.restore_optimizer(optimizer, net, taken)
    step(net, optimizer, 1)
    assert all(torch.equal(taken[name], kept[name]) for name in kept)


def test_a_fresh_optimizer_stays_fresh() -> None:
    net = model()
    optimizer = adamw(net)
    taken = state.optimizer_tensors(optimizer, net)
    assert set(taken) == {f"{name}/step" for name, _ in net.named_parameters()}
    used = adamw(net)
    step(net, used, 0)
    state.restore_optimizer(used, net, taken)
    assert not used.state


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("0.weight/exp_avg"), r"state of 0.weight: missing \['exp_avg'\]"),
        (lambda t: t.update({"0.weight/x": t["0.weight/step"]}), r"unknown \['x'\]"),
        (lambda t: t.update({"9.bias/step": t["0.weight/step"]}), r"unknown \['9.bias'\]"),
        (
            lambda t: [t.pop(k) for k in list(t) if k.startswith("2.bias/")],
            r"optimizer state: missing \['2.bias'\]",
        ),
        (
            lambda t: t.update({"0.weight/exp_avg": t["0.weight/exp_avg"].T}),
            r"0.weight/exp_avg is \(4, 3\) in the checkpoint and \(3, 4\) here",
        ),
    ],
)
def test_names_and_shapes_must_fit(edit, message: str) -> None:
    net = model()
    optimizer = adamw(net)
    step(net, optimizer, 0)
    taken = {k: v.clone() for k, v in state.optimizer_tensors(optimizer, net).items()}
    edit(taken)
    with pytest.raises(ValueError, match=message):
        state.restore_optimizer(optimizer, net, taken)


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a parameter of shape \(3, 4\) that the model does not"):
        state.optimizer_tensors(adamw(model()), model())


def test_random_numbers_go_on_where_they_were() -> None:
    torch.manual_seed(5)
    taken = state.random_tensors()
    assert all(tensor.dtype == torch.uint8 for tensor in taken.values())
    wanted = torch.randn(4)
    torch.randn(100)
    state.restore_random(taken)
    assert torch.equal(torch.randn(4), wanted)


def test_random_states_of_another_machine_are_refused() -> None:
    with pytest.raises(ValueError, match=r"random states: .*unknown \['tpu'\]"):
        state.restore_random({**state.random_tensors(), "tpu": torch.zeros(1)})


def test_weights_that_do_not_fit_leave_the_model_as_it_was() -> None:
    net = model()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    other = {name: torch.zeros_like(value) for name, value in before.items()}
    with pytest.raises(ValueError, match=r"2.bias is \(5,\) in the checkpoint and \(2,\) here"):
        state.restore_model(net, {**other, "2.bias": torch.zeros(5)})
    with pytest.raises(ValueError, match=r"weights: missing \['2.bias'\], unknown \['3.bias'\]"):
        state.restore_model(net, {"3.bias" if k == "2.bias" else k: v for k, v in other.items()})
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)


def test_random_numbers_drawn_anew_differ_by_seed_step_and_rank() -> None:
    drawn = set()
    for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        state.draw_anew(*place)
        first = torch.rand(()).item()
        state.draw_anew(*place)
        assert torch.rand(()).item() == first
        drawn.add(first)
    assert len(drawn) == 4
