"""Training a codebook: straight-through codes that follow the vectors that choose them.

The network learns first without codes; then these start as the centres of what it says of many
frames. From a random start a short run leaves most codes unused (docs/log.md, 2026-11-20).
Codes that almost nothing chooses any more are put on vectors of the batch at hand.

Source: van den Oord et al. 2017 (commitment, moving averages); Williams et al. 2020 (restarts);
docs/paper.md, section 2.2 (what VQGAN adds).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor

from toto.tokenizers.quantised import Quantised, nearest, signed
from toto.train.adversarial import Adversarial, DiscriminatorConfig
from toto.train.learner import FrameBatch
from toto.train.optimizer import AdamWConfig

FREE_PULL = 1e-3
"""Weight of the vectors' squares before there are codes: else nothing keeps them from growing."""
START_FRAMES, START_ROUNDS = 1024, 5
"""Frames whose vectors the codes start from, and rounds of k-means over them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdversarialConfig:
    """The PatchGAN of VQGAN training."""

    weight: float = 0.0
    """Of the adaptive weight; 0 trains without a discriminator. Published 0.8 and 0.75."""
    start_share: float = 0.5
    """Share of the run before it takes part; published step 250,001 (f16-1024) and 0."""
    lr: float = 1e-4
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optimizer: AdamWConfig = field(
        default_factory=lambda: AdamWConfig(betas=(0.5, 0.9), weight_decay=0.0)
    )

    def build(self, place: torch.device, steps: int) -> Adversarial | None:
        """Make the discriminator's side of a run of `steps`, or None if it has no weight."""
        if self.weight == 0:
            return None
        discriminator = self.discriminator.build().to(place)
        return Adversarial(
            discriminator,
            self.optimizer.build(discriminator),
            schedule=lambda _: self.lr,
            start_step=round(self.start_share * steps),
            weight=self.weight,
        )

    def __post_init__(self) -> None:
        if self.weight < 0 or not 0 <= self.start_share <= 1 or self.lr <= 0:
            raise ValueError(
                f"weight {self.weight} must not be negative, start_share {self.start_share} lie in "
                f"[0, 1] and lr {self.lr} above 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantisationConfig:
    """How a codebook and the network around it are trained."""

    reconstruction: Literal["absolute", "squared"] = "squared"
    """Error of the pixels in [-1, 1]. Published for VQGAN: absolute, and a perceptual loss that
    is not here, since it brings in the labels of ImageNet."""
    commitment: float = 0.1
    """Weight of the vectors' squared distance from their codes; published 0.25."""
    codebook: Literal["average", "gradient"] = "average"
    """Codes as moving averages of their vectors, or learnt by gradient (published for VQGAN)."""
    decay: float = 0.99
    """Of the moving averages, a step."""
    free_share: float = 0.03
    """Share of the run, from its start, without codes."""
    restart_below: float = 0.1
    """A code chosen less than this share of its fair part starts anew; 0 leaves all as they are."""
    restart_until: float = 0.85
    """Share of the run after which no code starts anew."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise ValueError(f"decay {self.decay} must lie in (0, 1)")
        for name, most in (("free_share", 0.5), ("restart_below", 1), ("restart_until", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} {getattr(self, name)} must lie in [0, {most:g}]")
        if self.commitment < 0:
            raise ValueError(f"commitment {self.commitment} must not be negative")

    def build(
        self, model: Quantised, frames: UInt8[Tensor, "N H W 3"], *, steps: int, seed: int
    ) -> "Quantisation":
        """Make the learner of a run.

        Args:
            model: as it was built.
            frames: all that the run trains on.
            steps: of the whole run.
            seed: of the codes' start and restarts.

        Raises:
            ValueError: if the model compares codes of length 1, which are only converted, or the
                frames are too small for the discriminator.
        """
        return Quantisation(self, model, frames, steps=steps, seed=seed)


class Quantisation:
    """The loss of each step, and the moving averages behind the codes.

    Attributes:
        restarted: codes started anew since `measures` was last asked; not kept over a resume.
    """

    def __init__(
        self,
        config: QuantisationConfig,
        model: Quantised,
        frames: UInt8[Tensor, "N H W 3"],
        *,
        steps: int,
        seed: int,
    ) -> None:
        if getattr(model.config, "unit_codes", False):
            raise ValueError("codes of length 1 can be converted, not trained: set unit_codes off")
        least_px = config.adversarial.discriminator.least_px if config.adversarial.weight else 0
        if frames.shape[1] < least_px:
            raise ValueError(
                f"frames of {frames.shape[1]} px are too small for this discriminator, which needs "
                f"{least_px} px a side; give it fewer layers"
            )
        self.config = config
        self.frames = frames
        self.seed = seed
        self.start = round(config.free_share * steps)
        self.restart_end = round(config.restart_until * steps)
        self.counts_V = torch.ones(model.vocab_size, device=model.codes.device)
        self.sums_VC = model.codes.detach().clone()
        self.restarted = 0
        self.adversarial = config.adversarial.build(model.codes.device, steps)
        model.codes.requires_grad_(config.codebook == "gradient")

    def objective(self, model: Quantised, batch: FrameBatch) -> Tensor:
        """Reconstruction and commitment, and what else the config adds; moves the codes."""
        pixels = signed(batch.frames)
        vectors_BCYX = model.hidden(pixels).float()
        if batch.step < self.start:
            drawn = model.draw(vectors_BCYX)
            return self._reconstruction(drawn, pixels) + FREE_PULL * vectors_BCYX.square().mean()
        if batch.step == self.start:
            self._start_codes(model)
        vectors_PC = vectors_BCYX.permute(0, 2, 3, 1).flatten(0, 2)
        with torch.no_grad(), torch.autocast(vectors_PC.device.type, enabled=False):
            ids_P = nearest(vectors_PC, model.codes)
            if self.config.codebook == "average":
                self._follow(model, vectors_PC, ids_P)
            self._restart(model, vectors_PC, ids_P, batch.step)
        chosen_PC = model.codes[ids_P]
        loss = self.config.commitment * F.mse_loss(vectors_PC, chosen_PC.detach())
        if self.config.codebook == "gradient":
            loss = loss + F.mse_loss(chosen_PC, vectors_PC.detach())
        through_PC = vectors_PC + (chosen_PC - vectors_PC).detach()
        batch_size, _, rows, columns = vectors_BCYX.shape
        grid_BYXC = through_PC.unflatten(0, (batch_size, rows, columns))
        drawn = model.draw(grid_BYXC.permute(0, 3, 1, 2)).float()
        reconstruction = self._reconstruction(drawn, pixels)
        loss = loss + reconstruction
        if self.adversarial is not None and torch.is_grad_enabled():
            self.adversarial.discriminator_step(pixels, drawn, step=batch.step)
            loss = loss + self.adversarial.generator_term(
                drawn, reconstruction, model.last_weight, step=batch.step
            )
        return loss

    @torch.no_grad()
    def measures(
        self, model: Quantised, frames: UInt8[Tensor, "B H W 3"], step: int
    ) -> dict[str, float]:
        """Mean squared distance from vectors to codes, beside the vectors' own variance."""
        vectors_PC = model.hidden(signed(frames)).float().permute(0, 2, 3, 1).flatten(0, 2)
        chosen_PC = model.codes[nearest(vectors_PC, model.codes.float())]
        restarted, self.restarted = self.restarted, 0
        return {
            "quantisation_error": F.mse_loss(vectors_PC, chosen_PC).item(),
            "vector_variance": vectors_PC.var(0, correction=0).mean().item(),
            "restarted_codes": float(restarted),
        }

    def tensors(self) -> dict[str, Tensor]:
        """The moving averages, and the discriminator if there is one."""
        found = {"counts": self.counts_V, "sums": self.sums_VC}
        if self.adversarial is not None:
            found |= {f"adversarial/{k}": v for k, v in self.adversarial.tensors().items()}
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `tensors` took, bit for bit.

        Raises:
            ValueError: if names or shapes are not those of this config.
        """
        prefix = "adversarial/"
        rest = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        own = {k: v for k, v in tensors.items() if not k.startswith(prefix)}
        wanted = {"counts": self.counts_V, "sums": self.sums_VC}
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in wanted.items()}:
            raise ValueError(
                f"a codebook's averages are counts {tuple(self.counts_V.shape)} and sums "
                f"{tuple(self.sums_VC.shape)}, got {', '.join(sorted(own)) or 'none'}"
            )
        if bool(rest) != (self.adversarial is not None):
            raise ValueError("the discriminator of the saved run and of this config do not match")
        for name, tensor in own.items():
            wanted[name].copy_(tensor)
        if self.adversarial is not None:
            self.adversarial.restore(rest)

    def _reconstruction(self, drawn: Tensor, pixels: Tensor) -> Tensor:
        error = F.mse_loss if self.config.reconstruction == "squared" else F.l1_loss
        return error(drawn.float(), pixels)

    @torch.no_grad()
    def _start_codes(self, model: Quantised) -> None:
        """Put the codes on the centres of what the encoder says of many frames."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randint(len(self.frames), (START_FRAMES,), generator=generator)
        vectors_PC = torch.cat(
            [
                model.hidden(signed(part)).float().permute(0, 2, 3, 1).flatten(0, 2)
                for part in self.frames[chosen.to(self.frames.device)].split(64)
            ]
        )
        first = torch.randint(len(vectors_PC), (model.vocab_size,), generator=generator)
        codes_VC = vectors_PC[first.to(vectors_PC.device)]
        with torch.autocast(vectors_PC.device.type, enabled=False):
            for _ in range(START_ROUNDS):
                ids_P = nearest(vectors_PC, codes_VC)
                counts_V, sums_VC = _sums(vectors_PC, ids_P, model.vocab_size)
                found_V = counts_V > 0
                codes_VC[found_V] = sums_VC[found_V] / counts_V[found_V, None]
        model.codes.copy_(codes_VC)
        self.counts_V.fill_(1.0)
        self.sums_VC.copy_(codes_VC)

    def _follow(self, model: Quantised, vectors_PC: Tensor, ids_P: Tensor) -> None:
        """Move each code to the average of the vectors that chose it lately.

        Counts are in fair parts: 1 is what a code gets if all are chosen alike.
        """
        fair = len(ids_P) / model.vocab_size
        counts_V, sums_VC = _sums(vectors_PC, ids_P, model.vocab_size)
        self.counts_V.lerp_(counts_V / fair, 1 - self.config.decay)
        self.sums_VC.lerp_(sums_VC / fair, 1 - self.config.decay)
        model.codes.copy_(self.sums_VC / self.counts_V.clamp_min(1e-5)[:, None])

    def _restart(self, model: Quantised, vectors_PC: Tensor, ids_P: Tensor, step: int) -> None:
        """Put codes that almost nothing chooses on random vectors of this batch."""
        if self.config.codebook == "gradient":
            fair = len(ids_P) / model.vocab_size
            counts_V = torch.bincount(ids_P, minlength=model.vocab_size)
            self.counts_V.lerp_(counts_V / fair, 1 - self.config.decay)
        lost_V = (self.counts_V < self.config.restart_below).nonzero().flatten()
        if step >= self.restart_end or len(lost_V) == 0:
            return
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        chosen = torch.randint(len(vectors_PC), (len(lost_V),), generator=generator)
        fresh_RC = vectors_PC[chosen.to(vectors_PC.device)]
        model.codes[lost_V] = fresh_RC
        self.counts_V[lost_V] = 0.5
        self.sums_VC[lost_V] = 0.5 * fresh_RC
        self.restarted += len(lost_V)


def _sums(
    vectors_PC: Float32[Tensor, "P C"], ids_P: Tensor, vocab_size: int
) -> tuple[Float32[Tensor, " V"], Float32[Tensor, "V C"]]:
    """How many vectors chose each code, and their sums."""
    counts_V = torch.bincount(ids_P, minlength=vocab_size).float()
    sums_VC = vectors_PC.new_zeros(vocab_size, vectors_PC.shape[1])
    return counts_V, sums_VC.index_add_(0, ids_P, vectors_PC)
