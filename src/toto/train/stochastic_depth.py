"""Stochastic depth: in training, a sample passes some parts of the model by.

Which ones follows from a generator of the sample's own, so that neither the number of ranks nor a
restart changes it. The parts are multiplied from outside, by hooks: a model knows nothing of it,
its parameters keep their names, and in evaluation nothing is done.

Source: Huang et al., arXiv 1603.09382; one decision a sample and a part, and what is kept divided
by how often it is, as in MAE's fine-tuning.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

BRANCHES = ("attention", "mlp", "mixer")
"""Names that blocks give to what they add to the stream."""


class StochasticDepth:
    """Drops branches of blocks, more often the deeper they lie.

    Attributes:
        rates: how often each branch is dropped, in the order of the blocks.
    """

    def __init__(self, blocks: Sequence[nn.Module], rate: float) -> None:
        """Take hold of the branches of a model's blocks.

        Args:
            blocks: in order.
            rate: of the last block; it rises linearly from 0 at the first.

        Raises:
            ValueError: if the rate is not in [0, 1).
        """
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path {rate} must lie in 0..1, 1 left out")
        self.rates: list[float] = []
        self._scales: Tensor | None = None
        for number, block in enumerate(blocks):
            for name in BRANCHES:
                branch = getattr(block, name, None)
                if branch is not None:
                    branch.register_forward_hook(self._hook(len(self.rates)))
                    self.rates.append(rate * number / max(1, len(blocks) - 1))

    def draw(self, draws: Sequence[np.random.Generator], place: torch.device) -> None:
        """Decide for the samples of the next forward pass in training.

        Args:
            draws: one for each sample.
            place: device of the model.
        """
        if not any(self.rates):
            return
        rates = np.array(self.rates)
        kept = np.stack([draw.random(len(rates)) >= rates for draw in draws], axis=1)
        self._scales = torch.from_numpy(kept / (1 - rates[:, None])).float().to(place)

    def _hook(self, branch: int) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
        def scale(module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
            if not module.training or self._scales is None or not self.rates[branch]:
                return output
            return output * self._scales[branch, :, None, None].to(output.dtype)

        return scale
