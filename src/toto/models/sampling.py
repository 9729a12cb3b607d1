"""Continuing a sequence token by token, with the model's cache."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from toto.models import Decoder


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How the next token is drawn."""

    temperature: float = 1.0
    """0 takes the most likely token."""
    top_k: int | None = None
    """Draw from the k most likely tokens only."""
    top_p: float | None = None
    """Draw from the fewest tokens whose probabilities sum to p or more."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature} must be at least 0")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k} must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must lie in (0, 1]")


def draw(
    logits: Float[Tensor, "B V"], config: SamplingConfig, generator: torch.Generator
) -> Int64[Tensor, " B"]:
    """Draw one token for each row."""
    if config.temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / config.temperature
    if config.top_k is not None and config.top_k < logits.shape[-1]:
        least = logits.topk(config.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if config.top_p is not None:
        shares, order = logits.softmax(-1).sort(dim=-1, descending=True)
        # A token goes when those before it already reach p, so the first always stays.
        beyond = shares.cumsum(-1) - shares >= config.top_p
        logits = logits.masked_fill(beyond.gather(-1, order.argsort(-1)), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


@torch.no_grad()
def continue_sequence(
    model: Decoder,
    prompt: Int64[Tensor, "B P"],
    *,
    tokens: int,
    codes: int,
    config: SamplingConfig,
) -> Iterator[Int64[Tensor, " B"]]:
    """Read a prompt once, then yield the next tokens one by one.

    Args:
        model: the decoder.
        prompt: what comes before, start token included.
        tokens: how many to add.
        codes: ids from here on are special and are never drawn inside a frame.
        config: temperature, top-k, top-p, seed.

    Raises:
        ValueError: if prompt and continuation exceed the model's context.
    """
    total = prompt.shape[1] + tokens
    if total > model.config.context:
        raise ValueError(
            f"{prompt.shape[1]} tokens of prompt and {tokens} new ones do not fit a context of "
            f"{model.config.context}; ask for fewer frames"
        )
    generator = torch.Generator(device=prompt.device).manual_seed(config.seed)
    cache = model.new_cache(len(prompt))
    ids = prompt
    for _ in range(tokens):
        logits_BV = model(ids, cache)[:, -1, :codes]
        ids = draw(logits_BV, config, generator)[:, None]
        yield ids[:, 0]
