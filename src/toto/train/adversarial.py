"""The adversarial part of VQGAN training: a discriminator of patches and its balance.

The objective of a run calls it twice: one step of the discriminator on what the tokenizer drew,
then the term that the tokenizer minimises. The loop knows nothing of either:

    def objective(model, batch):
        drawn, reconstruction, commitment = ...
        adversarial.discriminator_step(batch.pixels, drawn, step=batch.step)
        term = adversarial.generator_term(
            drawn, reconstruction, model.last_weight, step=batch.step
        )
        return reconstruction + commitment + term

No perceptual loss is here: the published one compares features of a network trained on ImageNet's
labels, which the paper gives as its reason against VQGAN's tokens. Whoever wants one adds it to
`reconstruction`, which is also where the published balance counts it.

Source: Isola et al. 2017 (PatchGAN); Esser et al. 2021, equations 6 and 7, and
CompVis/taming-transformers (discriminator, vqperceptual); docs/paper.md, section 2.2.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor, nn

from toto.runtime.state import optimizer_tensors, restore_optimizer

MOST_WEIGHT = 1e4
"""Bound of the adaptive weight before its factor, as published."""
LEAST_GRADIENT = 1e-4
"""Added to the norm of the adversarial gradient, as published: it may be 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """Size of the discriminator of patches; published with f16-1024: 3 layers, f16-16384: 2."""

    layers: int = 3
    """Convolutions of stride 2, each doubling what one score sees: 70 px with 3, 34 with 2."""
    channels: int = 64
    """Width after the first convolution; each further doubles it, up to 8 times."""

    def __post_init__(self) -> None:
        for name in ("layers", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")

    @property
    def least_px(self) -> int:
        """Side of the smallest picture that gets a score."""
        return 3 * 2**self.layers

    def build(self) -> "Discriminator":
        """Make the discriminator of these sizes, with fresh weights."""
        return Discriminator(self)


class Discriminator(nn.Module):
    """Score overlapping patches of a picture: high is real, low is drawn.

    Names are taming's, so that the `loss.discriminator.` part of its checkpoints fits.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.least_px = config.least_px
        widths = [config.channels * min(2**n, 8) for n in range(config.layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1)]
        for number, (channels, filters) in enumerate(pairwise(widths), start=1):
            stride = 2 if number < config.layers else 1
            parts += [
                nn.LeakyReLU(0.2),
                # No bias: the norm that follows has one.
                nn.Conv2d(channels, filters, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(filters),
            ]
        parts += [nn.LeakyReLU(0.2), nn.Conv2d(widths[-1], 1, 4, padding=1)]
        self.main = nn.Sequential(*parts)
        for part in self.main:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, mean=1.0, std=0.02)

    def forward(self, pixels: Float32[Tensor, "B 3 H W"]) -> Float32[Tensor, "B 1 Y X"]:
        """Score the patches of pictures in [-1, 1].

        Raises:
            ValueError: if a picture is too small for one score.
        """
        height, width = pixels.shape[2:]
        if min(height, width) < self.least_px:
            raise ValueError(
                f"pictures of {width}x{height} px are too small for this discriminator, which "
                f"needs {self.least_px} px a side; give it fewer layers"
            )
        return self.main(pixels).float()


def hinge(real: Tensor, drawn: Tensor) -> Tensor:
    """The discriminator's loss: real scores below 1 cost, and drawn ones above -1."""
    return (F.relu(1 - real).mean() + F.relu(1 + drawn).mean()) / 2


def balance(reconstruction: Tensor, term: Tensor, last_weight: Tensor) -> Tensor:
    """How much an adversarial term must weigh to pull on the last layer as reconstruction does.

    The ratio of the two gradients' norms at the weight of the decoder's last layer, no gradient
    itself, within [0, 1e4].
    """
    (by_reconstruction,) = torch.autograd.grad(reconstruction, last_weight, retain_graph=True)
    (by_term,) = torch.autograd.grad(term, last_weight, retain_graph=True)
    ratio = by_reconstruction.norm() / (by_term.norm() + LEAST_GRADIENT)
    return ratio.clamp(0, MOST_WEIGHT)


class Adversarial:
    """A discriminator with an optimizer of its own, and what it asks of the tokenizer.

    The discriminator learns first and is asked then, in the same step; published, it learns after
    the tokenizer has moved, which costs a second pass through it. Before `start_step` nothing
    happens at all; published, the optimizer counts those steps without moving a weight.

    It normalises and learns on the pictures it is given: under several ranks, give a discriminator
    that averages its gradients over them.

    Attributes:
        discriminator: kept in training mode, where its norms are of the batch at hand.
        optimizer: over the discriminator's parameters; published as Adam with betas 0.5 and 0.9.
        schedule: its learning rate at each step.
        start_step: first step that it takes part in, counted from 0; published 250,001 and 0.
        weight: factor of the adaptive weight; published 0.8 (f16-1024) and 0.75 (f16-16384).
    """

    def __init__(
        self,
        discriminator: nn.Module,
        optimizer: torch.optim.AdamW,
        *,
        schedule: Callable[[int], float],
        start_step: int,
        weight: float = 0.8,
    ) -> None:
        if start_step < 0 or weight < 0:
            raise ValueError(f"start_step {start_step} and weight {weight} must not be negative")
        self.discriminator = discriminator.train()
        self.optimizer = optimizer
        self.schedule = schedule
        self.start_step = start_step
        self.weight = weight

    def discriminator_step(
        self,
        real: Float32[Tensor, "B 3 H W"],
        drawn: Float32[Tensor, "B 3 H W"],
        *,
        step: int,
    ) -> Tensor:
        """Teach the discriminator to tell these apart; the tokenizer gets no gradient.

        Args:
            real: pixels in [-1, 1].
            drawn: what the tokenizer made of them.
            step: number of the step, from 0.

        Returns:
            The hinge loss before the update, detached; 0 before `start_step`.

        Raises:
            RuntimeError: if a gradient is not finite; the weights are those of the step before.
        """
        if step < self.start_step:
            return drawn.new_zeros(())
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(step) * group.get("lr_scale", 1.0)
        loss = hinge(self.discriminator(real.detach()), self.discriminator(drawn.detach()))
        loss.backward()
        nn.utils.clip_grad_norm_(
            self.discriminator.parameters(), float("inf"), error_if_nonfinite=True
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def generator_term(
        self,
        drawn: Float32[Tensor, "B 3 H W"],
        reconstruction: Tensor,
        last_weight: Tensor,
        *,
        step: int,
    ) -> Tensor:
        """The tokenizer's price for pictures that look drawn, to be added to its loss.

        Args:
            drawn: pixels with the graph that made them.
            reconstruction: the loss to be balanced against, of the same graph.
            last_weight: weight of the decoder's last layer, `VQGAN.last_weight`.
            step: number of the step, from 0.

        Returns:
            The weighted term; 0 before `start_step`. The discriminator gets no gradient from it.
            Needs gradients: it cannot be had under `torch.no_grad`.
        """
        if step < self.start_step:
            return drawn.new_zeros(())
        # Spares its weights' gradients; and mixed precision, which keeps copies of weights that
        # need one, would here still have those from before the discriminator's step.
        self.discriminator.requires_grad_(False)
        try:
            term = -self.discriminator(drawn).mean()
        finally:
            self.discriminator.requires_grad_(True)
        return self.weight * balance(reconstruction, term, last_weight) * term

    def tensors(self) -> dict[str, Tensor]:
        """All that changes over a run, for a checkpoint: `discriminator/` and `optimizer/`."""
        weights = self.discriminator.state_dict()
        moments = optimizer_tensors(self.optimizer, self.discriminator)
        return {
            **{f"discriminator/{name}": tensor for name, tensor in weights.items()},
            **{f"optimizer/{name}": tensor for name, tensor in moments.items()},
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `tensors` took, bit for bit.

        Raises:
            ValueError: if names or shapes are not those of this discriminator and optimizer.
        """
        parts: dict[str, dict[str, Tensor]] = {"discriminator": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            if part not in parts:
                raise ValueError(f"{name} is neither the discriminator's nor its optimizer's")
            parts[part][rest] = tensor
        wanted = self.discriminator.state_dict()
        got = parts["discriminator"]
        different = sorted(
            name
            for name in wanted.keys() | got.keys()
            if name not in wanted or name not in got or wanted[name].shape != got[name].shape
        )
        if different:
            raise ValueError(
                f"not this discriminator's weights: {', '.join(different[:3])}; build it from the "
                "saved config"
            )
        restore_optimizer(self.optimizer, self.discriminator, parts["optimizer"])
        self.discriminator.load_state_dict(got)
