"""The one training loop: a generator that hands each step to its caller.

Pre-training, the tokenizer and the probes all run through these lines; they differ in objective
and batches. The caller logs, saves, evaluates and stops between two steps, in ordinary statements.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from toto.runtime.parallel import unsummed, whole

BatchT = TypeVar("BatchT")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Step:
    """What one optimiser step did.

    Attributes:
        number: steps taken so far, this one included.
        loss: mean of the objective over the step's batches on this rank, before the update.
        grad_norm: norm of the whole gradient before clipping.
        lr: learning rate of the step.
        taken: whether the weights were changed.
    """

    number: int
    loss: Tensor
    grad_norm: Tensor
    lr: float
    taken: bool = True


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
    clipped: Sequence[nn.Module] | None = None,
    accept: Callable[[int, Tensor, Tensor], bool] | None = None,
) -> Iterator[Step]:
    """Take the steps one by one, handing each to the caller.

    Args:
        model: trained in place; under several ranks what `Parallel.spread` gave.
        objective: scalar loss of one batch, averaged over what the batch holds.
        batches: `accumulate` of them are read a step.
        optimizer: over the model's parameters; a group's `lr_scale` multiplies the schedule.
        schedule: learning rate of step n, n counted from 0.
        steps: numbers of the steps to take; starts above 0 when a run is resumed.
        accumulate: batches averaged into one step, so that memory does not set the batch size.
        clip_norm: the gradient is scaled down to this norm when it is longer.
        clipped: parts that share no parameter and make up the model, each of whose gradients is
            scaled by its own norm. If left out, the model is one part.
        accept: whether to take a step, asked with its number (counted from 1), its loss and the
            gradient's norm before anything is changed. Where it says no, weights and moments stay
            as they are. If left out, all steps are taken.

    Raises:
        RuntimeError: if a gradient is not finite and `accept` was left out; the weights are those
            of the step before.
    """
    for number in steps:
        lr = schedule(number)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        parts = []
        for rest in reversed(range(accumulate)):
            # Ranks exchange gradients once a step, with the last part.
            with unsummed(model) if rest else nullcontext():
                part = objective(model, next(batches)) / accumulate
                part.backward()
            parts.append(part.detach())
        loss = torch.stack(parts).sum()
        norms = [
            whole(
                nn.utils.clip_grad_norm_(
                    part.parameters(), clip_norm, error_if_nonfinite=accept is None
                )
            )
            for part in clipped or [model]
        ]
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        taken = accept is None or accept(number + 1, loss, norm)
        if taken:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield Step(number=number + 1, loss=loss, grad_norm=norm, lr=lr, taken=taken)
