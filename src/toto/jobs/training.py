"""What every training job shares: where it stands, saving, and stopping when asked."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from toto.config import digest
from toto.jobs.progress import console
from toto.runtime import checkpoint, state
from toto.runtime.folder import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Training:
    """A model and its optimiser in a run folder; only the first rank writes.

    Attributes:
        folder: of the run.
        config: of the run; its digest ties the checkpoints to it.
        model: trained in place.
        optimizer: over the model's parameters.
    """

    folder: RunFolder
    config: object
    model: nn.Module
    optimizer: torch.optim.AdamW

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
            },
            config_digest=digest(self.config),
        )


class StoppedError(KeyboardInterrupt):
    """The run was asked to stop and has saved; the message says how to go on."""
