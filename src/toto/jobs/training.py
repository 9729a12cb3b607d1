"""What every training job shares: where it stands, saving, and stopping when asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from toto.config import digest
from toto.jobs.progress import console
from toto.runtime import checkpoint, state
from toto.runtime.folder import RunFolder


class Carried(Protocol):
    """What a run carries from step to step beside its model and optimiser."""

    def tensors(self) -> dict[str, Tensor]:
        """Take its state."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `tensors` took."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Training:
    """A model and its optimiser in a run folder; only the first rank writes.

    Attributes:
        folder: of the run.
        config: of the run; its digest ties the checkpoints to it.
        model: trained in place.
        optimizer: over the model's parameters.
        carried: what else a checkpoint holds, by name.
    """

    folder: RunFolder
    config: object
    model: nn.Module
    optimizer: torch.optim.AdamW
    carried: Mapping[str, Carried] = field(default_factory=dict)

    def resume(self) -> int:
        """Take up the newest good checkpoint; returns the steps it has behind it, or 0.

        Metrics of later steps are dropped: they will be taken again.

        Raises:
            ValueError: if every checkpoint is damaged, or it is of another config.
        """
        found = checkpoint.latest(self.folder.checkpoints)
        if found is None:
            return 0
        for path in found.damaged:
            console.print(f"set aside a damaged checkpoint: {path}", markup=False)
        tensors = checkpoint.load(found.path, config_digest=digest(self.config))
        self.model.load_state_dict(tensors["model"])
        state.restore_optimizer(self.optimizer, self.model, tensors["optimizer"])
        for name, part in self.carried.items():
            # A part without any tensor leaves no trace in the file.
            part.restore(tensors.get(name, {}))
        state.restore_random(tensors["random"])
        return found.step

    def save(self, step: int) -> Path:
        """Write a checkpoint of this step."""
        return checkpoint.save(
            self.folder.checkpoints,
            step,
            tensors={
                "model": self.model.state_dict(),
                "optimizer": state.optimizer_tensors(self.optimizer, self.model),
                "random": state.random_tensors(),
                **{name: part.tensors() for name, part in self.carried.items()},
            },
            config_digest=digest(self.config),
        )


class StoppedError(KeyboardInterrupt):
    """The run was asked to stop and has saved; the message says how to go on."""
