"""Training the discrete VAE: Gumbel-softmax codes, on the published schedules scaled to the run."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from toto.tokenizers.dvae import DVAE
from toto.train.learner import FrameBatch
from toto.train.objectives import RelaxedFrames, bound_terms, relaxed_bound
from toto.train.schedule import cosine, ramp

START_FRAMES = 128
"""Frames whose patches the codes can be started on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RelaxationConfig:
    """Schedules of the discrete VAE's bound; shares are of the run's steps."""

    temperature_end: float = 1 / 16
    temperature_share: float = 0.125
    """Share of the run over which the temperature falls from 1; published 150,000 of 1,200,000."""
    kl_weight: float = 6.6
    kl_share: float = 0.004
    """Share of the run over which the divergence gains its weight; published 5,000 updates."""
    balance_weight: float = 0.0
    """Weight of the codes' balance; 0 is the published recipe, short runs need some."""
    sharpness: float | None = None
    """Start the codes on patches of the data (`DVAE.place_codes`); None starts at random."""

    def build(
        self, model: DVAE, frames: UInt8[Tensor, "N H W 3"], *, steps: int, seed: int
    ) -> "Relaxation":
        """Make the learner of a run; a new model's codes are started here.

        Args:
            model: as it was built.
            frames: all that the run trains on.
            steps: of the whole run.
            seed: of the start and of the noise.
        """
        if self.sharpness is not None:
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(len(frames), generator=generator)[:START_FRAMES]
            model.place_codes(frames[chosen], sharpness=self.sharpness, generator=generator)
        return Relaxation(self, steps=steps, seed=seed)


class Relaxation:
    """The bound at each step's temperature and weight; it carries no state."""

    def __init__(self, config: RelaxationConfig, *, steps: int, seed: int) -> None:
        self.config = config
        self.start = 0
        self.steps = steps
        self.seed = seed

    def relaxed(self, batch: FrameBatch) -> RelaxedFrames:
        """Give a batch the relaxation of its step."""
        share = batch.step / self.steps
        config = self.config
        return RelaxedFrames(
            frames=batch.frames,
            temperature=cosine(1.0, config.temperature_end, share / config.temperature_share),
            kl_weight=ramp(config.kl_weight, share / config.kl_share),
            balance_weight=config.balance_weight,
            seed=self.seed * 1_000_003 + batch.step,
        )

    def objective(self, model: DVAE, batch: FrameBatch) -> Tensor:
        """Negative evidence bound, in nats a subpixel."""
        return relaxed_bound(model, self.relaxed(batch))

    @torch.no_grad()
    def measures(
        self, model: DVAE, frames: UInt8[Tensor, "B H W 3"], step: int
    ) -> dict[str, float]:
        """The bound's terms, and where the schedules stand."""
        relaxed = self.relaxed(FrameBatch(frames=frames, step=step))
        terms = bound_terms(model, relaxed)
        return {
            "nll": terms.nll.item(),
            "kl": terms.divergence.item(),
            "temperature": relaxed.temperature,
            "kl_weight": relaxed.kl_weight,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: all follows from the step."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take nothing back."""
        if tensors:
            raise ValueError(f"the relaxation carries no state, got {', '.join(sorted(tensors))}")
