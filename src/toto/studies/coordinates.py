"""The coordinate check of muP: does the scale of a model's activations depend on its width?

What is measured is the mean of |x|, as in [2] of `toto.models.mup`, of three kinds of activations:
the residual stream behind each block, the attention's logits (of the places that may be seen) and
the model's logits; before the first step of Adam and after each of the next ones.

Under muP those have a limit as the width grows, and at a finite width n they depart from it by
O(1/sqrt(n)). A measurement shows the limit only where that part is small: few ids and short
sequences make an update the sum of a few aligned directions, wide heads make q.k a mean over many
channels, and queries and readout that begin at 0 leave out logits that are noise alone. What is
left differs from seed to seed, so that scales are averaged over seeds.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor
from torch.overrides import TorchFunctionMode

from toto.models.llama import Llama, LlamaConfig
from toto.studies.widths import widened
from toto.train.loop import train_steps
from toto.train.objectives import next_token
from toto.train.optimizer import AdamWConfig
from toto.types import Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class CoordinateCheck:
    """Ten steps of Adam on one batch, at several widths and seeds."""

    model: LlamaConfig
    """Of any width: the others keep its shape."""
    lr: float
    steps: int = 10
    batch: int = 16
    """Sequences, each as long as the model's context."""
    seeds: int = 32

    def scales(self, width: int) -> list[dict[str, float]]:
        """Mean over seeds of the scale of each activation, before and after each step.

        A seed has the same tokens at every width.
        """
        runs = [list(self._run(width, seed)) for seed in range(self.seeds)]
        return [
            {name: sum(scales[name] for scales in moment) / len(moment) for name in moment[0]}
            for moment in zip(*runs, strict=True)
        ]

    def _run(self, width: int, seed: int) -> Iterator[dict[str, float]]:
        generator = torch.Generator().manual_seed(seed)
        ids = some_ids(self.model.vocab_size, self.batch, self.model.context, generator)
        torch.manual_seed(seed)
        model = widened(self.model, width).build()
        yield activation_scales(model, ids)
        batch = Batch(ids=ids, weight=torch.ones(ids.shape[0], ids.shape[1] - 1))
        optimizer = AdamWConfig().build(model)
        for _ in train_steps(
            model,
            next_token,
            repeat(batch),
            optimizer,
            lambda _: self.lr,
            steps=range(self.steps),
        ):
            yield activation_scales(model, ids)


def some_ids(
    vocab_size: int, batch: int, length: int, generator: torch.Generator
) -> Int64[Tensor, "B L"]:
    """Sequences in which a few ids, other ones for each id, are likely to follow."""
    chances = torch.rand(vocab_size, vocab_size, generator=generator) ** 8
    ids = torch.randint(vocab_size, (batch, 1), generator=generator)
    for _ in range(length - 1):
        following = torch.multinomial(chances[ids[:, -1]], 1, generator=generator)
        ids = torch.cat([ids, following], dim=1)
    return ids


@torch.no_grad()
def activation_scales(model: Llama, ids: Int64[Tensor, "B L"]) -> dict[str, float]:
    """Mean of |x|: `block 1` ..., `attention 1` ... (its logits), `logits`."""
    layers = range(1, model.config.depth + 1)
    scales = {
        f"block {layer}": x_BLD.abs().mean().item()
        for layer, x_BLD in model.hidden(ids, layers).items()
    }
    with _AttentionLogits() as attention:
        scales["logits"] = model(ids).abs().mean().item()
    return scales | {f"attention {n}": scale for n, scale in enumerate(attention.scales, start=1)}


def drift(scales: dict[int, list[dict[str, float]]], base_width: int) -> dict[str, float]:
    """How far each activation's scale is from that of the base width, at worst over all moments.

    Args:
        scales: what `CoordinateCheck.scales` gave, by width.
        base_width: the width to compare with.

    Returns:
        The ratio's greatest distance from 1, by the activation's name: 0.1 is 10 %. Where both
        are 0, as logits of a readout that begins at 0 are, there is none.
    """
    return {
        name: max(
            _distance(there[name], base[name])
            for moments in scales.values()
            for there, base in zip(moments, scales[base_width], strict=True)
        )
        for name in scales[base_width][0]
    }


def by_kind(drifts: dict[str, float], kinds: Sequence[str]) -> dict[str, float]:
    """The worst of each kind of activation, such as `block` of `block 1` and `block 2`."""
    return {
        kind: max(value for name, value in drifts.items() if name.split(" ")[0] == kind)
        for kind in kinds
    }


def _distance(value: float, base: float) -> float:
    if value == base:
        return 0.0
    return abs(value / base - 1) if base else math.inf


class _AttentionLogits(TorchFunctionMode):
    """Looks on as attention is computed: the kernels never show their logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scales: list[float] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            q_BNLK, k_BNLK = args[:2]
            scale = kwargs.get("scale") or q_BNLK.shape[-1] ** -0.5
            logits_BNLL = q_BNLK @ k_BNLK.mT * scale
            seen = torch.ones(logits_BNLL.shape[-2:], dtype=torch.bool).tril()
            self.scales.append(logits_BNLL[..., seen].abs().mean().item())
        return func(*args, **kwargs)
