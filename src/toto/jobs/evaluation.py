"""What a classifier says of a whole split, each clip counted once whatever the number of ranks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from toto.jobs.labelled_clips import LabelledBatch, LabelledClips
from toto.probe.classifier import Answer, Classifier
from toto.runtime.devices import Ranks
from toto.tasks.ledger import Views
from toto.tasks.views import average_views

RANKED = 5
"""Classes that are kept of each clip's, for top-1 and top-5."""
TOGETHER = 32
"""Clips of one forward pass. The same clips go together on any number of ranks, so that rounding is
the same too."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """A model's answers.

    Attributes:
        layers: that heads read, in the order of what follows.
        ranked: likeliest classes of each clip by each head, the first of all first.
        accuracies: of each head, in [0, 1].
        next_token_loss: mean over the clips, in nats; None where it is not learnt.
    """

    layers: tuple[int, ...]
    ranked: Int64[Tensor, "Z N K"]
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
    views: Views | None = None,
) -> Evaluation:
    """Ask a model about every clip of a split; every rank must call this, and gets all of it.

    Args:
        model: in training; it is again when this returns.
        answer: lets the model read a batch.
        clips: the split.
        ranks: that share the clips.
        place: device of the model.
        views: of each clip, whose probabilities are averaged; one if left out.
    """
    views = views or Views()
    groups = [
        range(first, min(first + TOGETHER, len(clips))) for first in range(0, len(clips), TOGETHER)
    ]
    kept = min(RANKED, clips.classes)
    ranked = torch.zeros(len(model.layers), len(clips), kept, dtype=torch.int64, device=place)
    losses = torch.zeros(len(groups), dtype=torch.float64, device=place)
    learnt = False
    model.eval()
    # Where the model is sharded all ranks must join each pass: one without a group left repeats the
    # first, and it does not count.
    for first in range(0, len(groups), ranks.world):
        mine = first + ranks.rank
        group = groups[mine] if mine < len(groups) else groups[0]
        found = [answer(model, batch) for batch in _views_of(clips, group, views)]
        told = [one.next_token_loss for one in found if one.next_token_loss is not None]
        learnt = bool(told)
        if mine < len(groups):
            scores_ZBJ = _averaged([one.scores for one in found])
            ranked[:, group.start : group.stop] = scores_ZBJ.topk(kept).indices
            if learnt:
                losses[mine] = torch.stack(told).double().mean() * len(group)
    model.train()
    ranked, losses = ranks.summed(ranked).cpu(), ranks.summed(losses)
    right = (ranked[..., 0] == clips.labels).double().mean(1)
    return Evaluation(
        layers=model.layers,
        ranked=ranked,
        accuracies=tuple(right.tolist()),
        next_token_loss=losses.sum().item() / len(clips) if learnt else None,
    )


def _views_of(clips: LabelledClips, group: range, views: Views) -> Iterator[LabelledBatch]:
    for clip in range(views.temporal):
        for crop in range(views.spatial):
            yield clips.viewed(group, views, clip=clip, crop=crop)


def _averaged(scores: Sequence[Tensor]) -> Float32[Tensor, "Z B J"]:
    if len(scores) == 1:
        return scores[0].float()
    together = torch.stack(list(scores))
    return average_views(together.flatten(1, 2)).unflatten(0, together.shape[1:3])


def _of_layer(layer: int) -> str:
    return f"selection_accuracy_layer_{layer:02d}"
