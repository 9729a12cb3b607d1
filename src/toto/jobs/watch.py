"""How fast a run goes, and what of a step is a line of its metrics."""

import time

from toto.jobs.progress import Bar
from toto.train.loop import Step


class Watch:
    """Speed of the steps taken by this process."""

    def __init__(self, tokens_a_step: int) -> None:
        self._tokens_a_step = tokens_a_step
        self._start = self._since = time.perf_counter()
        self._steps = self._steps_since = 0
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

    def line(self, step: Step, loss: float) -> dict[str, float | int]:
        """Metrics of a step, `loss` that of all ranks; the speed is that since the last line."""
        now = time.perf_counter()
        speed = self._steps_since * self._tokens_a_step / (now - self._since)
        self._since, self._steps_since = now, 0
        return {
            "step": step.number,
            "loss": loss,
            "lr": step.lr,
            "grad_norm": step.grad_norm.item(),
            "tokens_per_s": speed,
            "time_s": now - self._start,
        }
