"""What a way of training a tokenizer offers to the job that runs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FrameBatch:
    """Frames of one step.

    Attributes:
        frames: sRGB bytes.
        step: its number, counted from 0; what changes over the run follows from it.
    """

    frames: UInt8[Tensor, "B H W 3"]
    step: int


class Learner(Protocol):
    """One way of training: the discrete VAE's relaxation, or a codebook's quantisation.

    Attributes:
        start: first step with codes; before it the network may learn without.
    """

    start: int

    def objective(self, model: Any, batch: FrameBatch) -> Tensor:
        """Scalar loss of a batch; called once a step, in the order of the steps."""
        ...

    def measures(self, model: Any, frames: UInt8[Tensor, "B H W 3"], step: int) -> dict[str, float]:
        """Terms of the loss on frames that training has not seen."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that it carries from step to step, for a checkpoint."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `tensors` took.

        Raises:
            ValueError: if names or shapes are not its own.
        """
        ...
