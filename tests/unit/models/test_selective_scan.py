"""The selective scan against the recurrence written down, and its gradient against differences."""

import pytest
import torch

from toto.models import selective_scan as scans
from toto.models.selective_scan import selective_scan

BATCH, INSIDE, STATES = 2, 3, 4


def inputs(length: int, *, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [
        torch.randn(BATCH, length, INSIDE, dtype=dtype),
        torch.rand(BATCH, length, INSIDE, dtype=dtype),
        -torch.rand(INSIDE, STATES, dtype=dtype) * 3,
        torch.randn(BATCH, length, STATES, dtype=dtype),
        torch.randn(BATCH, length, STATES, dtype=dtype),
        torch.randn(BATCH, INSIDE, STATES, dtype=dtype),
    ]


def recurrence(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Equations 2a and 2b of arXiv 2312.00752, number by number."""
    u, dt, A, take, read, start = tensors
    state, out = start.clone(), torch.zeros_like(u)
    for b in range(BATCH):
        for t in range(u.shape[1]):
            for i in range(INSIDE):
                for m in range(STATES):
                    kept = torch.exp(dt[b, t, i] * A[i, m]) * state[b, i, m]
                    state[b, i, m] = kept + dt[b, t, i] * take[b, t, m] * u[b, t, i]
                    out[b, t, i] += read[b, t, m] * state[b, i, m]
    return out, state


@pytest.fixture(params=[1, 4, 100], ids="span {}".format)
def span(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(scans, "SPAN", request.param)
    return request.param


@pytest.mark.usefixtures("span")
@pytest.mark.parametrize("length", [1, 4, 9])
def test_it_is_the_recurrence(length: int) -> None:
    tensors = inputs(length)
    for found, expected in zip(selective_scan(*tensors), recurrence(*tensors), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("span")
def test_the_gradient_is_that_of_small_differences() -> None:
    tensors = [tensor.requires_grad_() for tensor in inputs(9)]
    assert torch.autograd.gradcheck(selective_scan, tensors, eps=1e-6, atol=1e-7, rtol=1e-6)


def test_parts_give_exactly_what_one_pass_gives() -> None:
    u, dt, A, take, read, start = inputs(70, dtype=torch.float32)
    whole, last = selective_scan(u, dt, A, take, read, start)
    state, outputs = start, []
    for part in (slice(0, 1), slice(1, 34), slice(34, 70)):
        y, state = selective_scan(u[:, part], dt[:, part], A, take[:, part], read[:, part], state)
        outputs.append(y)
    assert torch.equal(torch.cat(outputs, dim=1), whole)
    assert torch.equal(state, last)


def test_the_states_do_not_stay_for_the_gradient() -> None:
    tensors = [tensor.requires_grad_() for tensor in inputs(320, dtype=torch.float32)]
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        selective_scan(*tensors)
    states = 4 * BATCH * 320 * INSIDE * STATES
    # The inputs, 2 I + 2 M numbers a position, and one state in 32.
    assert sum(kept.values()) < 4 * BATCH * 320 * (2 * INSIDE + 2 * STATES) + states / 32 + 200


def test_it_is_computed_in_fp32_under_autocast() -> None:
    tensors = inputs(40, dtype=torch.float32)
    expected = selective_scan(*tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = selective_scan(*tensors)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_compiling_takes_it_for_one_step() -> None:
    """Fake shapes, aliasing and the registered gradient, as torch.compile relies on them."""
    u, dt, A, take, read, start = (tensor.requires_grad_() for tensor in inputs(70))
    first = [tensor.detach().transpose(0, 1).contiguous() for tensor in (u, dt, take, read)]
    arguments = (*first[:2], A.detach(), *first[2:], start.detach())
    for tensor in arguments:
        tensor.requires_grad_()
    torch.library.opcheck(torch.ops.toto.selective_scan.default, arguments)
