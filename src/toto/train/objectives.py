"""What is minimised: next tokens, and the discrete VAE's bound."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn

from toto.tokenizers.dvae import DVAE, logit_laplace_nll, map_pixels
from toto.types import Batch


def next_token(model: nn.Module, batch: Batch) -> Tensor:
    """Weighted mean cross-entropy of the next token, in nats; the model's own sum of it."""
    weight = batch.weight / batch.weight.sum()
    return model(batch.ids[:, :-1], targets=batch.ids[:, 1:], weight=weight)


def token_losses(model: nn.Module, batch: Batch) -> Float32[Tensor, "B L"]:
    """Cross-entropy of every target, in nats; computed in fp32."""
    logits_BLV = model(batch.ids[:, :-1])
    losses = F.cross_entropy(
        logits_BLV.float().flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none"
    )
    return losses.view(batch.weight.shape)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RelaxedFrames:
    """Frames for the discrete VAE, with the step's relaxation.

    Attributes:
        frames: sRGB bytes.
        temperature: of the Gumbel-softmax.
        kl_weight: beta of the bound, in units of the published recipe.
        balance_weight: of the codes' balance, in nats a subpixel for each nat; 0 is the published
            recipe.
        seed: of the Gumbel noise, so that a step can be repeated.
    """

    frames: UInt8[Tensor, "B H W 3"]
    temperature: float
    kl_weight: float
    balance_weight: float
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BoundTerms:
    """What the discrete VAE's loss is made of.

    Attributes:
        nll: reconstruction, in nats a subpixel.
        divergence: of each place's codes from the uniform prior, in nats a code.
        imbalance: of the codes' mean use over the batch from uniform, in nats.
        codes: the relaxed codes' hard winners, for counting.
    """

    nll: Tensor
    divergence: Tensor
    imbalance: Tensor
    codes: Int64[Tensor, "B Y X"]


def relaxed_bound(model: nn.Module, batch: RelaxedFrames) -> Tensor:
    """Negative evidence bound of the discrete VAE, in nats a subpixel.

    Reconstruction is the logit-Laplace likelihood through Gumbel-softmax codes, the other term
    the divergence from the uniform prior, divided by the subpixels of a patch because the published
    loss is divided by all subpixels of the image. Ours beside it: the balance of the codes over
    the batch, which keeps a short run from leaving most of them dead.

    Source: docs/paper.md, K rows.
    """
    terms = bound_terms(model, batch)
    subpixels = 3 * DVAE.patch_px**2
    return (
        terms.nll
        + batch.kl_weight * terms.divergence / subpixels
        + batch.balance_weight * terms.imbalance
    )


def bound_terms(model: nn.Module, batch: RelaxedFrames) -> BoundTerms:
    """The terms of the bound."""
    assert isinstance(model, DVAE)
    pixels = map_pixels(batch.frames).contiguous(memory_format=torch.channels_last)
    logits_BVYX = model.logits(pixels).float()
    generator = torch.Generator(device=logits_BVYX.device).manual_seed(batch.seed)
    uniform = torch.empty_like(logits_BVYX).uniform_(1e-9, 1 - 1e-7, generator=generator)
    noisy = logits_BVYX - torch.log(-torch.log(uniform))
    codes_BVYX = F.softmax(noisy / batch.temperature, dim=1)
    location, log_scale = model.density(codes_BVYX)
    nll = logit_laplace_nll(pixels, location, log_scale).mean()
    log_share = F.log_softmax(logits_BVYX, dim=1)
    share = log_share.exp()
    most = math.log(model.vocab_size)
    divergence = (share * (log_share + most)).sum(1).mean()
    use_V = share.mean((0, 2, 3))
    imbalance = (use_V * (use_V + 1e-9).log()).sum() + most
    return BoundTerms(
        nll=nll,
        divergence=divergence,
        imbalance=imbalance,
        codes=logits_BVYX.detach().argmax(1),
    )
