"""The selective scan of Mamba, in plain torch, with its gradient written out.

Every channel i carries M numbers that decay and take up the input, both by the input's leave:

    h_t = exp(dt_t A) h_(t-1) + dt_t u_t B_t,    y_t = C_t h_t

It is run as it is written, one position after the other, so a sequence read in parts gives what one
pass gives. All states of a long sequence would be its largest tensor by far (16 times the stream
inside a block): they are kept for a span of positions only, and made again for the gradient from
the state before each span.

B and L are the package's; I are the channels inside a block and M the numbers each carries. A, B
and C without a shape behind them are the paper's matrices.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
arXiv 2312.00752, sections 2 and 3 (exponential of A, Euler step of B).
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SPAN = 32
"""Positions whose states are held at once: few enough to stay in the processor's cache."""


def selective_scan(
    u_BLI: Float[Tensor, "B L I"],
    dt_BLI: Float[Tensor, "B L I"],
    A_IM: Float[Tensor, "I M"],
    B_BLM: Float[Tensor, "B L M"],
    C_BLM: Float[Tensor, "B L M"],
    start_BIM: Float[Tensor, "B I M"],
) -> tuple[Float[Tensor, "B L I"], Float[Tensor, "B I M"]]:
    """Run the recurrence over a sequence; at least in fp32, whatever autocast is in force.

    Args:
        u_BLI: input.
        dt_BLI: step sizes, positive.
        A_IM: rates of decay, negative.
        B_BLM: what of the input is taken up.
        C_BLM: what of the state is read.
        start_BIM: state before the first position.

    Returns:
        Output, and the state behind the last position.
    """
    wide = torch.promote_types(A_IM.dtype, torch.float32)
    with torch.autocast(u_BLI.device.type, enabled=False):
        # Positions come first inside, so that those of one time lie together in memory.
        inputs = [t.to(wide).transpose(0, 1).contiguous() for t in (u_BLI, dt_BLI, B_BLM, C_BLM)]
        u_LBI, dt_LBI, B_LBM, C_LBM = inputs
        y_LBI, last_BIM, _ = _scan(u_LBI, dt_LBI, A_IM.to(wide), B_LBM, C_LBM, start_BIM.to(wide))
    return y_LBI.transpose(0, 1), last_BIM


# Two operators of their own, so that torch.compile takes each for one step. Unrolled, the loop over
# positions would take it minutes.
@torch.library.custom_op("toto::selective_scan", mutates_args=())
def _scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, last state, and the state before each span, positions first."""
    y, state, starts = torch.empty_like(u), start, []
    for span in _spans(len(u)):
        starts.append(state)
        _, states = _states(u[span], dt[span], A, B[span], state)
        y[span] = (states @ C[span][..., None])[..., 0]
        # A copy: a view would keep the states of the whole span.
        state = states[-1].clone()
    return y, state, torch.stack(starts)


@torch.library.custom_op("toto::selective_scan_gradient", mutates_args=())
def _gradient(
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, dt, A, B, C and the first state."""
    grad_u, grad_dt, grad_B, grad_C = (torch.empty_like(t) for t in (u, dt, B, C))
    grad_A, carried = torch.zeros_like(A), grad_last
    for number, span in reversed(list(enumerate(_spans(len(u))))):
        decay, states = _states(u[span], dt[span], A, B[span], starts[number])
        grad = grad_y[span][..., None] * C[span][:, :, None]
        grad[-1] += carried
        for t in range(len(grad) - 1, 0, -1):
            grad[t - 1].addcmul_(decay[t], grad[t])
        carried = decay[0] * grad[0]
        grad_C[span] = (grad_y[span][:, :, None] @ states)[:, :, 0]
        taken = dt[span] * u[span]
        grad_B[span] = (taken[:, :, None] @ grad)[:, :, 0]
        grad_taken = (grad @ B[span][..., None])[..., 0]
        grad_u[span] = grad_taken * dt[span]
        # From here on the gradient of the exponent, dt A.
        grad.mul_(decay)
        grad[1:].mul_(states[:-1])
        grad[0].mul_(starts[number])
        grad_dt[span] = grad_taken * u[span] + (grad * A).sum(-1)
        grad_A += (grad * dt[span][..., None]).sum((0, 1))
    return grad_u, grad_dt, grad_A, grad_B, grad_C, carried


@_scan.register_fake
def _(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    spans = -(-u.shape[0] // SPAN)
    return torch.empty_like(u), torch.empty_like(start), start.new_empty(spans, *start.shape)


@_gradient.register_fake
def _(
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t) for t in (u, dt, A, B, C, starts[0]))


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:-1], output[2])


def _backward(
    ctx: Any, grad_y: Tensor, grad_last: Tensor, grad_starts: Tensor
) -> tuple[Tensor, ...]:
    with torch.autocast(grad_y.device.type, enabled=False):
        return _gradient(grad_y.contiguous(), grad_last, *ctx.saved_tensors)


_scan.register_autograd(_backward, setup_context=_keep)


def _spans(length: int) -> Iterator[slice]:
    return (slice(first, first + SPAN) for first in range(0, length, SPAN))


def _states(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, start: Tensor
) -> tuple[Float[Tensor, "L B I M"], Float[Tensor, "L B I M"]]:
    """Decay before, and state behind, every position."""
    decay = torch.exp_(dt[..., None] * A)
    states, before = (dt * u)[..., None] * B[:, :, None], start
    for state, kept in zip(states, decay, strict=True):
        before = state.addcmul_(kept, before)
    return decay, states
