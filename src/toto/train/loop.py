"""The one training loop: a generator that hands each step to its caller.

Pre-training, the tokenizer and the probes all run through these lines; they differ in objective
and batches. The caller logs, saves, evaluates and stops between two steps, in ordinary statements.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

BatchT = TypeVar("BatchT")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Step:
    """What one optimiser step did.

    Attributes:
        number: steps taken so far, this one included.
        loss: mean of the objective over the step's batches, before the update.
        grad_norm: norm of the whole gradient before clipping.
        lr: learning rate of the step.
    """

    number: int
    loss: Tensor
    grad_norm: Tensor
    lr: float


def train_steps(
    model: nn.Module,
    objective: Callable[[nn.Module, BatchT], Tensor],
    batches: Iterator[BatchT],
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    *,
    steps: range,
    accumulate: int = 1,
    clip_norm: float = 1.0,
) -> Iterator[Step]:
    """Take the steps one by one, handing each to the caller.

    Args:
        model: trained in place.
        objective: scalar loss of one batch, averaged over what the batch holds.
        batches: `accumulate` of them are read a step.
        optimizer: over the model's parameters; a group's `lr_scale` multiplies the schedule.
        schedule: learning rate of step n, n counted from 0.
        steps: numbers of the steps to take; starts above 0 when a run is resumed.
        accumulate: batches averaged into one step, so that memory does not set the batch size.
        clip_norm: the gradient is scaled down to this norm when it is longer.

    Raises:
        RuntimeError: if a gradient is not finite; the weights are those of the step before.
    """
    for number in steps:
        lr = schedule(number)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        parts = []
        for _ in range(accumulate):
            part = objective(model, next(batches)) / accumulate
            part.backward()
            parts.append(part.detach())
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield Step(number=number + 1, loss=torch.stack(parts).sum(), grad_norm=norm, lr=lr)
