"""Continuing sequences token by token, each from what the model expects and a number drawn."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from toto.models.built_reader import BuiltReader
from toto.models.decoding import Reader


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
        if self.seed < 0:
            raise ValueError(f"seed {self.seed} must be at least 0")


MOST_GUESSES = 7
"""Tokens that are tried behind the newest one: eight rows are what shares a weight in registers."""


class Draws:
    """The random numbers of a continuation: each future of a clip has a stream of its own.

    What a future draws follows from the seed and its number alone, and not from how many others
    there are, nor from which clips are continued beside it, nor from the device.

    Args:
        seed: of all futures.
        clips: how many are continued; all of them get the same numbers.
        futures: of each clip. Rows are the futures of clip 0, then of clip 1.
    """

    def __init__(self, seed: int, *, clips: int, futures: int) -> None:
        self._streams = [np.random.default_rng((seed, future)) for future in range(futures)]
        self._clips = clips

    def next(self) -> Float64[Tensor, " B"]:
        """Give a number in [0, 1) for the next token of each row."""
        numbers = torch.tensor([stream.random() for stream in self._streams], dtype=torch.float64)
        return numbers.repeat(self._clips)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawn:
    """The next token of each row.

    Attributes:
        ids: which.
        surprise_nats: -ln p of it as the model has it: at temperature 1, among all codes.
    """

    ids: Int64[Tensor, " B"]
    surprise_nats: Float32[Tensor, " B"]


def draw(
    logits: Float[Tensor, "B V"], config: SamplingConfig, numbers: Float64[Tensor, " B"]
) -> Int64[Tensor, " B"]:
    """Draw one token for each row.

    Args:
        logits: of the tokens to choose from.
        config: temperature, top-k, top-p.
        numbers: uniform in [0, 1). Each falls into one of the stretches that the tokens' shares are
            when laid end to end.
    """
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
    ends = logits.softmax(-1).double().cumsum(-1)
    total = ends[:, -1:]
    # Rounding must not carry a number to the very end, which lies in no token's stretch.
    place = torch.minimum(numbers.to(ends.device)[:, None] * total, total.nextafter(0 * total))
    return torch.searchsorted(ends, place, right=True)[:, 0]


@torch.no_grad()
def continue_sequence(
    reader: Reader,
    prompt: Int64[Tensor, "C P"],
    *,
    tokens: int,
    codes: int,
    config: SamplingConfig,
    draws: Draws,
    futures: int = 1,
    look_back: int = 0,
) -> Iterator[Drawn]:
    """Read prompts once, then yield the next tokens of every future one by one.

    Args:
        reader: of the decoder, from `toto.models.decoding.open_reader`.
        prompt: what comes before in each of C sequences, start token included.
        tokens: how many to add.
        codes: ids from here on are special and are never drawn inside a frame.
        config: temperature, top-k, top-p.
        draws: the numbers to draw with; it goes on where it stands.
        futures: of each prompt. Rows are the futures of prompt 0, then of prompt 1.
        look_back: where it is not 0, and one row alone is read in C++, the next tokens are guessed
            to be those that stand so far back: the same places of the frame before. Several are
            then read at once, as many as came true the last time and one more. What is drawn is
            the same to the bit, since a row's sums do not depend on the rows beside it, and its
            random number only on its place.

    Raises:
        ValueError: if prompt and continuation exceed the model's context.
    """
    context = reader.context
    if prompt.shape[1] + tokens > context:
        raise ValueError(
            f"{prompt.shape[1]} tokens of prompt and {tokens} new ones do not fit a context of "
            f"{context}; ask for fewer frames"
        )
    logits_BV = reader.start(prompt, futures)[:, :codes]
    if look_back and len(logits_BV) == 1 and isinstance(reader, BuiltReader):
        yield from _guessing(
            reader,
            prompt,
            logits_BV,
            tokens=tokens,
            codes=codes,
            config=config,
            draws=draws,
            look_back=look_back,
        )
        return
    for left in reversed(range(tokens)):
        ids = draw(logits_BV, config, draws.next())
        yield Drawn(ids=ids, surprise_nats=surprise_nats(logits_BV, ids))
        if left:
            logits_BV = reader.read(ids[:, None])[:, -1, :codes]


def _guessing(
    reader: BuiltReader,
    prompt: Int64[Tensor, "1 P"],
    logits_LV: Float[Tensor, "1 V"],
    *,
    tokens: int,
    codes: int,
    config: SamplingConfig,
    draws: Draws,
    look_back: int,
) -> Iterator[Drawn]:
    """Read the newest token with guesses behind it, and keep those that are then drawn."""
    known: list[int] = prompt[0].tolist()
    end, guesses = len(known) + tokens, list[int]()
    while True:
        came_true = 0
        # Row n follows the first n guesses, so it holds while they come true.
        for came_true, guess in enumerate((*guesses, None)):
            row = logits_LV[came_true : came_true + 1]
            ids = draw(row, config, draws.next())
            yield Drawn(ids=ids, surprise_nats=surprise_nats(row, ids))
            known.append(int(ids))
            if len(known) == end:
                return
            if known[-1] != guess:
                break
        reader.forget(len(guesses) - came_true)
        count = min(came_true + 1, MOST_GUESSES, end - len(known) - 1)
        first = len(known) - look_back
        guesses = known[first : first + count] if first > 0 else []
        logits_LV = reader.read(torch.tensor([[known[-1], *guesses]]))[0, :, :codes]


def surprise_nats(logits: Float[Tensor, "*B V"], ids: Int64[Tensor, "*B"]) -> Float32[Tensor, "*B"]:
    """-ln p of tokens, given the logits of all that they are chosen from."""
    logits = logits.float()
    return logits.logsumexp(-1) - logits.gather(-1, ids[..., None])[..., 0]
