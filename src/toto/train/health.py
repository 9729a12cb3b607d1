"""Whether a step may change the weights: losses and gradients that are not finite, and spikes.

A judge is asked after the backward pass and before the update. It decides from numbers that all
ranks hold alike, so that all take a step or none does, and what it decides by is in the checkpoint:
a run that was resumed decides as the one that was left alone.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from toto.runtime.devices import Ranks

NORMAL_MAD = 1.4826
"""Standard deviations of a normal distribution to its median absolute deviation."""
LEAST_LOSS_SHARE = 1e-3
"""A deviation of the loss is never taken to be less than this share of the loss: a window of equal
losses has none, and the next one would be a spike."""
LEAST_LOG_NORM = 1e-2
"""The same for the logarithm of the gradient's norm: 1 %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What a run does about steps that go wrong. The paper says nothing of it; all is ours."""

    on_nonfinite: Literal["stop", "skip"] = "skip"
    """A loss or gradient that is not finite never reaches the weights: the run ends at that step,
    or passes over its batch and goes on."""
    on_spike: Literal["log", "skip"] = "log"
    """Whether a step far above the ones before is taken, or its batch is passed over."""
    spike_deviations: float = 10.0
    """How far above the median of the window a loss, or the logarithm of a gradient's norm, is a
    spike, in standard deviations (1.4826 median absolute deviations)."""
    window: int = 128
    """Steps taken that a step is compared with; until there are so many, nothing is a spike."""
    patience: int = 10
    """Batches passed over in a row, or rewinds in all, that end the run."""
    rewind_after: int = 0
    """Incidents within `rewind_span` steps that make the run go back to a checkpoint from before
    the first of them, and pass over all batches from the first to the last; 0 never does."""
    rewind_span: int = 100
    """In steps; at most `save_every`, since a run keeps two checkpoints."""
    replicas_every: int = 0
    """Steps from one comparison of the ranks' weights and moments to the next, where each holds the
    whole model; 0 never compares. One that divides `save_every` keeps a fault out of checkpoints.
    """

    def __post_init__(self) -> None:
        for name, choices in (("on_nonfinite", ("stop", "skip")), ("on_spike", ("log", "skip"))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} is unknown; choose {' or '.join(choices)}"
                )
        for name in ("window", "patience", "rewind_span"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        for name in ("rewind_after", "replicas_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} must be 0 (never) or more")
        if not self.spike_deviations > 0:
            raise ValueError(f"spike_deviations {self.spike_deviations} must be above 0")

    def require_checkpoints(self, save_every: int) -> None:
        """Refuse rewinds that no kept checkpoint is early enough for.

        Raises:
            ValueError: if incidents may lie further apart than two checkpoints reach back.
        """
        if self.rewind_after and self.rewind_span > save_every:
            raise ValueError(
                f"rewind_span {self.rewind_span} is more than save_every {save_every}: no "
                "checkpoint may be left from before it; lower it, or save less often"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """A step that went wrong.

    Attributes:
        step: its number, counted from 1.
        what: not finite, or far above the steps before.
        loss: mean over the ranks.
        grad_norm: before clipping.
        usual_loss: median of the window; None before there are values.
        usual_grad_norm: the same.
        deviations: how far above the window the worse of the two lies; None if not finite.
        taken: whether the weights were changed all the same.
    """

    step: int
    what: Literal["nonfinite", "spike"]
    loss: float
    grad_norm: float
    usual_loss: float | None
    usual_grad_norm: float | None
    deviations: float | None
    taken: bool


class Judge:
    """Decides step after step; the `accept` of `train_steps`, and a part of the checkpoint.

    Values are compared with median and median absolute deviation and not with mean and standard
    deviation, since one spike that was taken would widen those for as long as it stays in the
    window; half of the window would have to be spikes to widen these. Only values of steps that
    were taken enter the window. Where spikes are taken, a loss that has risen for good is so the
    usual one after half a window; where they are passed over, `Health.patience` ends the run.

    Gradient norms are compared by their logarithm, which is nearly symmetric about its median.

    Source: passing over a step at so many deviations above a window of losses and norms is
    OLMo-core's skip-step optimizer; there the window is not in the checkpoint. Going back and
    leaving batches out is PaLM's (arXiv 2204.02311, section 5.1).

    Args:
        config: what is done when.
        ranks: that train together; all of them must ask.
        passed_over: first and last step of each stretch that a rewind left out.

    Attributes:
        incident: what went wrong at the step judged last, if anything.
        passed_over: as above.
        skipped: steps whose batch was passed over, those of rewinds not among them.
        spikes: steps far above those before, taken or not.
        nonfinite: steps whose loss or gradient was not finite.
        in_a_row: batches passed over since the last step that was taken.
    """

    def __init__(
        self,
        config: Health,
        ranks: Ranks | None = None,
        passed_over: Iterable[tuple[int, int]] = (),
    ) -> None:
        self.config, self.ranks = config, ranks or Ranks()
        self.passed_over = sorted(set(passed_over))
        self.incident: Incident | None = None
        self.skipped = self.spikes = self.nonfinite = self.in_a_row = 0
        self._losses: deque[float] = deque(maxlen=config.window)
        self._log_norms: deque[float] = deque(maxlen=config.window)
        self._recent: list[int] = []

    def __call__(self, step: int, loss: Tensor, grad_norm: Tensor) -> bool:
        """Whether the step is to be taken; on every rank the same answer."""
        mean_loss, norm = self._shared(loss, grad_norm)
        self.incident = None
        if any(first <= step <= last for first, last in self.passed_over):
            return False
        self.incident = incident = self._incident(step, mean_loss, norm)
        if incident is not None:
            self.nonfinite += incident.what == "nonfinite"
            self.spikes += incident.what == "spike"
            # A rewind counts what happened in this span, no more.
            after = step - self.config.rewind_span
            self._recent = [at for at in self._recent if at > after] + [step]
            if not incident.taken:
                self.skipped += 1
                self.in_a_row += 1
                return False
        self.in_a_row = 0
        self._losses.append(mean_loss)
        self._log_norms.append(_log(norm))
        return True

    @property
    def rewind(self) -> tuple[int, int] | None:
        """First and last step to pass over from now on, if it is time to go back."""
        after = self.config.rewind_after
        if self.incident is None or not after or len(self._recent) < after:
            return None
        return self._recent[0], self._recent[-1]

    @property
    def complaint(self) -> str | None:
        """Why the run must end at this step, if it must."""
        if self.incident is None:
            return None
        where = f"step {self.incident.step}: "
        if self.incident.what == "nonfinite" and self.config.on_nonfinite == "stop":
            return (
                f"{where}loss {self.incident.loss:.4g}, gradient {self.incident.grad_norm:.4g}; "
                "the weights are those of the step before. "
                "--health.on-nonfinite skip passes over such batches"
            )
        if self.in_a_row >= self.config.patience:
            return (
                f"{where}{self.in_a_row} batches in a row were passed over, the last for loss "
                f"{self.incident.loss:.4g} and gradient {self.incident.grad_norm:.4g}; lower --lr, "
                "or look at the data"
            )
        if self.rewind is not None and len(self.passed_over) >= self.config.patience:
            return (
                f"{where}the run has gone back {len(self.passed_over)} times and would again; "
                "lower --lr, or look at the data"
            )
        return None

    def tensors(self) -> dict[str, Tensor]:
        """Take what decisions rest on; the shapes follow from the config alone."""
        counts = [self.skipped, self.spikes, self.nonfinite, self.in_a_row]
        stretches = [step for stretch in self.passed_over for step in stretch]
        return {
            "losses": _padded(self._losses, self.config.window),
            "log_norms": _padded(self._log_norms, self.config.window),
            "recent": _padded(self._recent, self.config.rewind_span),
            "passed_over": _padded(stretches, 2 * self.config.patience),
            "counts": torch.tensor(counts, dtype=torch.float64),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `tensors` took; stretches to pass over that came since are kept."""
        if not tensors:
            return
        self._losses = deque(_values(tensors["losses"]), maxlen=self.config.window)
        self._log_norms = deque(_values(tensors["log_norms"]), maxlen=self.config.window)
        self._recent = [int(step) for step in _values(tensors["recent"])]
        steps = [int(step) for step in _values(tensors["passed_over"])]
        stretches = zip(steps[::2], steps[1::2], strict=True)
        self.passed_over = sorted({*self.passed_over, *stretches})
        counts = [int(count) for count in tensors["counts"].tolist()]
        self.skipped, self.spikes, self.nonfinite, self.in_a_row = counts
        self.incident = None

    def _incident(self, step: int, loss: float, norm: float) -> Incident | None:
        full = len(self._losses) == self.config.window
        usual_loss = median(self._losses) if self._losses else None
        usual_log = median(self._log_norms) if self._log_norms else None
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what, deviations, taken = "nonfinite", None, False
        elif full and usual_loss is not None and usual_log is not None:
            least = LEAST_LOSS_SHARE * abs(usual_loss)
            deviations = max(
                _deviations(loss, self._losses, usual_loss, least),
                _deviations(_log(norm), self._log_norms, usual_log, LEAST_LOG_NORM),
            )
            if deviations <= self.config.spike_deviations:
                return None
            what, taken = "spike", self.config.on_spike == "log"
        else:
            return None
        return Incident(
            step=step,
            what=what,
            loss=loss,
            grad_norm=norm,
            usual_loss=usual_loss,
            usual_grad_norm=None if usual_log is None else math.exp(usual_log),
            deviations=deviations,
            taken=taken,
        )

    def _shared(self, loss: Tensor, grad_norm: Tensor) -> tuple[float, float]:
        """Mean of the ranks' losses and their largest norm, bit for bit the same on every rank."""
        mine = torch.stack([loss.detach().double(), grad_norm.detach().double()])
        if self.ranks.world == 1:
            mean_loss, norm = mine.tolist()
            return mean_loss, norm
        # Gathered and not reduced: a reduction may add in another order on every rank.
        gathered = [torch.empty_like(mine) for _ in range(self.ranks.world)]
        torch.distributed.all_gather(gathered, mine)
        losses, norms = torch.stack(gathered, dim=1)
        # Both let a NaN of any rank through.
        return losses.mean().item(), norms.amax().item()


def _deviations(value: float, window: Iterable[float], middle: float, least: float) -> float:
    spread = NORMAL_MAD * median(abs(other - middle) for other in window)
    return (value - middle) / max(spread, least, 1e-12)


def _log(norm: float) -> float:
    return math.log(max(norm, 1e-30))


def _padded(values: Iterable[float], length: int) -> Tensor:
    """The values, then NaN up to a length that does not depend on them."""
    held = list(values)
    return torch.tensor([*held, *[math.nan] * (length - len(held))], dtype=torch.float64)


def _values(padded: Tensor) -> list[float]:
    return padded[~padded.isnan()].tolist()
