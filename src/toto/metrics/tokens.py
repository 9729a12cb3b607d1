"""How a vocabulary is used."""

import math

import torch
from jaxtyping import Int
from torch import Tensor


def code_counts(ids: Int[Tensor, "*any"], vocab_size: int) -> Int[Tensor, " V"]:
    """Count how often each code occurs."""
    return torch.bincount(ids.flatten().long(), minlength=vocab_size)


def used_codes(counts: Int[Tensor, " V"]) -> int:
    """Count the codes that occur at all."""
    return int((counts > 0).sum())


def entropy(counts: Int[Tensor, " V"]) -> float:
    """Entropy of the codes' shares, in nats: the loss of a model that knows nothing else."""
    share = counts[counts > 0].double() / counts.sum()
    return float(-(share * share.log()).sum())


def perplexity(counts: Int[Tensor, " V"]) -> float:
    """exp(entropy): how many equally used codes would be as varied."""
    return math.exp(entropy(counts))


def equal_share(ids: Int[Tensor, "*any"], other: Int[Tensor, "*any"]) -> float:
    """Share of places that hold the same code, in [0, 1].

    Raises:
        ValueError: if the shapes differ or there is no place.
    """
    if ids.shape != other.shape or ids.numel() == 0:
        raise ValueError(f"ids {tuple(ids.shape)} against {tuple(other.shape)}")
    return float((ids == other).double().mean())


def flip_rate(ids: Int[Tensor, "T Y X"]) -> float:
    """Share of tokens that differ from the one at their place in the frame before, in [0, 1].

    Raises:
        ValueError: if there are fewer than 2 frames.
    """
    if len(ids) < 2:
        raise ValueError(f"{len(ids)} frame has no successor to compare with")
    return 1 - equal_share(ids[1:], ids[:-1])
