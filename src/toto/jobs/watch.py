"""How fast and how well a run goes, and what of a step is a line of its metrics."""

import math
import time
from collections.abc import Iterator
from typing import TypeVar

import torch

from toto.jobs.progress import Bar
from toto.runtime.devices import peak_memory_bytes
from toto.train.health import Judge
from toto.train.loop import Step

BatchT = TypeVar("BatchT")


class Watch:
    """Speed of the steps taken by this process.

    Args:
        tokens_a_step: of all ranks.
        flops_a_token: forward and backward, causal attention.
        ceiling: FLOPs a second that matrix products reach on all ranks together; None leaves the
            model FLOPs utilisation out.
        place: where the model is.
    """

    def __init__(
        self,
        tokens_a_step: int,
        *,
        flops_a_token: int = 0,
        ceiling: float | None = None,
        place: torch.device | None = None,
    ) -> None:
        self._tokens_a_step, self._flops_a_token = tokens_a_step, flops_a_token
        self._ceiling, self._place = ceiling, place
        self._start = self._since = time.perf_counter()
        self._steps = self._steps_since = 0
        self._loading_since_s = 0.0
        self.tokens_per_s = 0.0
        """Mean over all steps so far, saving and validation included."""
        self.elapsed_s = self.loading_s = 0.0
        """In all, and of it what was spent to read batches and to bring them to the device."""

    def note(self, step: Step, progress: Bar) -> None:
        """Count a step that was taken, and show it."""
        self._steps += 1
        self._steps_since += 1
        self.elapsed_s = time.perf_counter() - self._start
        self.tokens_per_s = self._steps * self._tokens_a_step / self.elapsed_s
        progress.advance(note=f"loss {step.loss.item():.3f}  {self.tokens_per_s:,.0f} tokens/s")

    def timed(self, batches: Iterator[BatchT]) -> Iterator[BatchT]:
        """Pass batches through, and count the time that is waited for them."""
        while True:
            began = time.perf_counter()
            batch = next(batches)
            self.loading_s += time.perf_counter() - began
            yield batch

    def line(self, step: Step, loss: float, judge: Judge) -> dict[str, float | int | None]:
        """Metrics of a step; speed and shares are those since the last line.

        Args:
            step: that was taken.
            loss: of all ranks.
            judge: what it has counted.
        """
        now = time.perf_counter()
        speed = self._steps_since * self._tokens_a_step / (now - self._since)
        loading_share = (self.loading_s - self._loading_since_s) / (now - self._since)
        self._since, self._steps_since, self._loading_since_s = now, 0, self.loading_s
        return {
            "step": step.number,
            "loss": _finite(loss),
            "lr": step.lr,
            "grad_norm": _finite(step.grad_norm.item()),
            "tokens_per_s": speed,
            "mfu": speed * self._flops_a_token / self._ceiling if self._ceiling else None,
            "loading_share": loading_share,
            "memory_bytes": _peak_bytes(self._place),
            "skipped": judge.skipped,
            "spikes": judge.spikes,
            "nonfinite": judge.nonfinite,
            "time_s": now - self._start,
        }


def _peak_bytes(place: torch.device | None) -> int:
    """Most memory held so far: of the GPU, or of the process where the model is on the CPU."""
    if place is not None and place.type == "cuda":
        return torch.cuda.max_memory_allocated(place)
    return peak_memory_bytes()


def _finite(value: float) -> float | None:
    """The value; None where it is no number, which JSON has no word for."""
    return value if math.isfinite(value) else None
