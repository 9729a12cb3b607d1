"""What a classifier says of a whole split, each clip counted once whatever the number of ranks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from toto.jobs.labelled_clips import LabelledBatch, LabelledClips
from toto.probe.classifier import Answer, Classifier, StoppedProbes
from toto.runtime.devices import Ranks

TOGETHER = 32
"""Clips of one forward pass. The same clips go together on any number of ranks, so that rounding is
the same too."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """A model's answers.

    Attributes:
        layers: that heads read, in the order of what follows.
        predicted: class of each clip by each head.
        accuracies: of each head, in [0, 1].
        next_token_loss: mean over the clips, in nats; None where it is not learnt.
    """

    layers: tuple[int, ...]
    predicted: Int64[Tensor, "Z N"]
    accuracies: tuple[float, ...]
    next_token_loss: float | None

    def line(self) -> dict[str, float]:
        """The same as metrics of the selection split."""
        line = {"selection_accuracy": max(self.accuracies)}
        for layer, accuracy in zip(self.layers, self.accuracies, strict=True):
            line[_of_layer(layer)] = accuracy
        if self.next_token_loss is not None:
            line["selection_next_token_loss"] = self.next_token_loss
        return line


def best(line: Mapping[str, Any], layers: tuple[int, ...]) -> int:
    """Which of the layers a line of metrics puts first; the lowest of equals."""
    return max(range(len(layers)), key=lambda place: line[_of_layer(layers[place])])


@torch.no_grad()
def evaluate(
    model: Classifier,
    answer: Callable[[nn.Module, LabelledBatch], Answer],
    clips: LabelledClips,
    *,
    ranks: Ranks,
    place: torch.device,
) -> Evaluation:
    """Ask a model about every clip of a split; every rank must call this, and gets all of it.

    Args:
        model: in training; it is again when this returns.
        answer: lets the model read a batch.
        clips: the split.
        ranks: that share the clips.
        place: device of the model.
    """
    groups = [
        range(first, min(first + TOGETHER, len(clips))) for first in range(0, len(clips), TOGETHER)
    ]
    predicted = torch.zeros(len(model.layers), len(clips), dtype=torch.int64, device=place)
    losses = torch.zeros(len(groups), dtype=torch.float64, device=place)
    model.eval()
    # Where the model is sharded all ranks must join each pass: one without a group left repeats the
    # first, and it does not count.
    for first in range(0, len(groups), ranks.world):
        mine = first + ranks.rank
        group = groups[mine] if mine < len(groups) else groups[0]
        found = answer(model, clips.evaluated(group))
        if mine < len(groups):
            predicted[:, group.start : group.stop] = found.scores.argmax(-1)
            if found.next_token_loss is not None:
                losses[mine] = found.next_token_loss.double() * len(group)
    model.train()
    predicted, losses = summed(predicted, ranks).cpu(), summed(losses, ranks)
    right = (predicted == clips.labels).double().mean(1)
    learnt = isinstance(model, StoppedProbes)
    return Evaluation(
        layers=model.layers,
        predicted=predicted,
        accuracies=tuple(right.tolist()),
        next_token_loss=losses.sum().item() / len(clips) if learnt else None,
    )


def summed(values: Tensor, ranks: Ranks) -> Tensor:
    """Sum of what the ranks hold; every rank must ask."""
    if ranks.world > 1:
        values = values.clone()
        torch.distributed.all_reduce(values)
    return values


def _of_layer(layer: int) -> str:
    return f"selection_accuracy_layer_{layer:02d}"
