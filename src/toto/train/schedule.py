"""Values that change over a run, as pure functions of the step: they need no checkpoint."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupCosine:
    """Learning rate: linear from 0 to `peak`, then a half cosine down to `floor` x `peak`."""

    peak: float
    warmup: int
    """Steps until the peak is reached."""
    steps: int
    """Length of the whole run."""
    floor: float = 0.1
    """Last rate as a share of the peak. The paper gives none; 10 % is LLaMA's."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"warmup {self.warmup} must be less than steps {self.steps}")

    def __call__(self, step: int) -> float:
        """Rate of step `step`, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        return cosine(
            self.peak, self.floor * self.peak, (step - self.warmup) / (self.steps - self.warmup)
        )


def cosine(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` at share 0 to `end` at share 1, held there beyond."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))


def ramp(end: float, share: float) -> float:
    """A straight line from 0 at share 0 to `end` at share 1, held there beyond."""
    return end * min(max(share, 0.0), 1.0)
