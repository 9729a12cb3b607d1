"""A moving average of a model's weights: steadier than the weights themselves."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """The averaged model; weights that no gradient moves are copied as they are.

    Early on the average is short, or it would hold on to the start: its decay at step n is the
    smaller of `decay` and (1 + n) / (10 + n).

    Attributes:
        model: with the averaged weights, in evaluation mode and without gradients.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step `step`, counted from 1."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for averaged, current in zip(self.model.parameters(), model.parameters(), strict=True):
            if current.requires_grad:
                averaged.lerp_(current, share)
            else:
                averaged.copy_(current)
        for averaged, current in zip(self.model.buffers(), model.buffers(), strict=True):
            averaged.copy_(current)

    def tensors(self) -> dict[str, Tensor]:
        """The averaged weights, for a checkpoint."""
        return self.model.state_dict()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `tensors` took."""
        self.model.load_state_dict(dict(tensors))
