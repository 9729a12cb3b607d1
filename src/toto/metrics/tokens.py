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
