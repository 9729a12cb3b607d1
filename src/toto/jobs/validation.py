"""What a model in training loses on clips that it does not train on."""

import torch
from torch import Tensor, nn

from toto.data.layout import Layout
from toto.data.loader import Loader
from toto.jobs.sequences import Objective
from toto.runtime.devices import Precision, compute
from toto.types import Batch

WINDOWS = 64
"""Held-out windows of each source that a validation reads."""


class Validation:
    """Held-out losses of a run.

    Args:
        held_out: what to read; None where the run has none.
        layout: of a sequence.
        objective: what the run minimises.
        place: where the model is.
        precision: what it computes in.
    """

    def __init__(
        self,
        held_out: Loader | None,
        layout: Layout,
        objective: Objective,
        place: torch.device,
        precision: Precision,
    ) -> None:
        self._held_out, self._layout, self._objective = held_out, layout, objective
        self._place: torch.device = place
        self._precision: Precision = precision

    @torch.no_grad()
    def losses(self, model: nn.Module) -> Tensor | None:
        """Loss of each place on held-out windows, f32 [N L]; the end token is not among them."""
        if self._held_out is None:
            return None
        losses = []
        for source in range(len(self._held_out.shards)):
            for batch in self._held_out.sweep(source, batch=16, limit=WINDOWS):
                with compute(self._precision, self._place):
                    there = to_device(batch, self._place)
                    losses.append(self._objective.losses(model, there).cpu())
        return torch.cat(losses)[:, : self._layout.length - 2]

    def mean(self, model: nn.Module) -> float | None:
        """Mean over windows and places."""
        losses = self.losses(model)
        return None if losses is None else losses.mean().item()

    def zero_loss(self) -> float | None:
        """What predicting 0 for every value of a patch loses."""
        return self.mean(_NoForesight())

    def per_frame(self, losses: Tensor | None) -> list[float]:
        """Mean of the places of each frame."""
        if losses is None:
            return []
        frame = self._layout.frame_of_target()[:-1]
        return [
            losses[:, frame == number].mean().item() for number in range(self._layout.config.frames)
        ]

    def per_position(self, losses: Tensor | None) -> dict[str, list[float | None]]:
        """Mean of each place within a frame, in raster order: of the first frame, and of the rest.

        Returns:
            The means under `first` and `later`, None where nothing is predicted; no values at all
            without held-out windows, or where there is no such frame.
        """
        means: dict[str, list[float | None]] = {"first": [], "later": []}
        if losses is not None:
            frame = self._layout.frame_of_target()[:-1]
            position = torch.arange(len(frame)) % self._layout.frame_tokens
            for name, chosen in (("first", frame == 0), ("later", frame > 0)):
                # The end may stand inside the last frame, in the place of its last code.
                for place in range(self._layout.frame_tokens if chosen.any() else 0):
                    of_place = losses[:, chosen & (position == place)]
                    means[name].append(of_place.mean().item() if of_place.numel() else None)
        return means


def to_device(batch: Batch, place: torch.device) -> Batch:
    """Bring a batch to a device."""
    return Batch(
        ids=batch.ids.to(place),
        weight=batch.weight.to(place),
        frames=None if batch.frames is None else batch.frames.to(place),
    )


class _NoForesight(nn.Module):
    """Predicts 0 for every value of a patch."""

    def forward(self, ids: Tensor, patches: Tensor) -> Tensor:
        return torch.zeros_like(patches)
