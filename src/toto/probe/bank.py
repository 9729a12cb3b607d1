"""Training the heads of a layer together, at every learning rate, on features extracted once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from toto.probe.fit import Features
from toto.probe.heads import HEADS, HeadBank, HeadName
from toto.runtime.devices import compute
from toto.train.loop import train_steps
from toto.train.optimizer import AdamWConfig
from toto.train.schedule import WarmupCosine

BLOCK = 2
"""Clips that are in fp32 at a time: half a megabyte, which stays in the processor's cache; at four
the passes below took 8 times as long."""
PREDICTED = 64
"""Clips that are scored at a time."""
RANKED = 5
"""Classes that are kept of each clip's, for top-1 and top-5."""
NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class BankConfig:
    """Which heads, and how they are trained; the same for every layer and backbone."""

    heads: tuple[HeadName, ...] = tuple(HEADS)
    """Kinds of heads; `average` and `attention` are the paper's."""
    attention_heads: int = 4
    """Heads of attention in each; the paper gives none, AIM and V-JEPA take 12 and more."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Learning rates; every head is trained once at each."""
    epochs: int = 3
    """Times that every clip is seen. At width 256 and 256 places one costs a tenth of extracting
    the features, less where the width is larger; few training clips need more."""
    batch: int = 256
    """Clips a step. Optimiser and dispatch cost the same for fewer."""
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        for name in ("attention_heads", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        for name in ("heads", "rates"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} {values} must be given, each once")
        if not all(rate > 0 for rate in self.rates):
            raise ValueError(f"rates {self.rates} must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerFeatures:
    """Features of some clips at one layer, standardised by channel.

    Attributes:
        tokens: in the precision that they were extracted in, [N L D].
        average: fp32 [N D], mean over the places.
        spread: fp32 [N L], standard deviation over the channels at each place.
    """

    tokens: Float[Tensor, "N L D"]
    average: Float[Tensor, "N D"]
    spread: Float[Tensor, "N L"]

    def __len__(self) -> int:
        return len(self.tokens)


class ChannelScale(NamedTuple):
    """What a layer's features are standardised by.

    Attributes:
        mean: of each channel over all places of the training clips, [D].
        deviation: of each channel over them, [D].
    """

    mean: Float[Tensor, " D"]
    deviation: Float[Tensor, " D"]


def channel_scale(train: Features, layer: int) -> ChannelScale:
    """Measure the channels of a layer on the training clips."""
    tokens, mean = train.tokens[layer], train.averages[layer].mean(0)
    # Around the mean, not as the difference of two squares: what bf16 rounds off a large, constant
    # channel would make that negative.
    total = torch.zeros_like(mean)
    for block in tokens.split(BLOCK):
        total += (block.float() - mean).square_().sum((0, 1))
    places = len(tokens) * tokens.shape[1]
    return ChannelScale(mean=mean, deviation=(total / places).clamp_min(1e-12).sqrt())


def layer_features(features: Features, layer: int, scale: ChannelScale) -> LayerFeatures:
    """Standardise one layer of what was extracted."""
    tokens = torch.empty_like(features.tokens[layer])
    spread = torch.empty(tokens.shape[:2])
    for first in range(0, len(tokens), BLOCK):
        part = slice(first, first + BLOCK)
        block = (features.tokens[layer][part].float() - scale.mean).mul_(1 / scale.deviation)
        tokens[part] = block
        # `var` is 6 times as slow; what is standardised loses nothing to the difference.
        variance = block.square().mean(-1) - block.mean(-1).square()
        spread[part] = (variance.clamp_min(0) + NORM_EPS).sqrt()
    average = (features.averages[layer] - scale.mean) / scale.deviation
    return LayerFeatures(tokens=tokens, average=average, spread=spread)


def fit_bank(
    train: LayerFeatures,
    labels: Int64[Tensor, " N"],
    classes: int,
    config: BankConfig,
    *,
    seed: int,
) -> HeadBank:
    """Train every head at every rate on one layer.

    A head that diverges spoils no other: each has its own loss and gradient. It ends with scores
    that are not numbers, and no split will choose it.

    Args:
        train: features of the training clips.
        labels: their classes.
        classes: how many there are, J.
        config: heads, rates, schedule.
        seed: of the fresh heads and of the order of the clips.
    """
    width = train.tokens.shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bank = HeadBank(
            config.heads,
            copies=len(config.rates),
            width=width,
            classes=classes,
            heads=config.attention_heads,
        )
    peak = max(config.rates)
    rate_of = {
        name: config.rates[int(name.split(".")[1])] / peak for name, _ in bank.named_parameters()
    }
    optimizer = AdamWConfig(betas=(0.9, 0.999), weight_decay=config.weight_decay).build(
        bank, lr_scales=rate_of
    )
    steps = config.epochs * math.ceil(len(train) / config.batch)
    for _ in train_steps(
        bank,
        _summed_losses,
        _batches(train, labels, config, seed),
        optimizer,
        WarmupCosine(peak=peak, warmup=steps // 20, steps=steps, floor=0.0),
        steps=range(steps),
        clip_norm=math.inf,
        clipped=bank.heads(),
        accept=lambda *_: True,
    ):
        pass
    return bank.eval()


@torch.no_grad()
def predict_bank(bank: HeadBank, features: LayerFeatures) -> Int64[Tensor, "R K N M"]:
    """Rank the classes of every clip by every head at every rate; the `RANKED` likeliest."""
    parts = []
    for first in range(0, len(features), PREDICTED):
        part = slice(first, first + PREDICTED)
        batch = _Batch(
            tokens=features.tokens[part],
            average=features.average[part],
            spread=features.spread[part],
        )
        scores = _scores(bank, batch).nan_to_num(nan=-torch.inf)
        parts.append(scores.topk(min(RANKED, scores.shape[-1])).indices)
    return torch.cat(parts, dim=2)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Batch(LayerFeatures):
    labels: Int64[Tensor, " N"] | None = None


def _scores(bank: nn.Module, batch: _Batch) -> Float[Tensor, "R K B J"]:
    precision = "bf16" if batch.tokens.dtype == torch.bfloat16 else "fp32"
    with compute(precision, batch.tokens.device):
        return bank(batch.tokens, batch.average, batch.spread)


def _summed_losses(bank: nn.Module, batch: _Batch) -> Tensor:
    """Sum of all heads' mean losses: the gradient of each is as if it were trained alone."""
    assert batch.labels is not None
    scores = _scores(bank, batch)
    labels = batch.labels.expand(*scores.shape[:2], -1)
    losses = F.cross_entropy(scores.flatten(0, 2), labels.flatten(), reduction="sum")
    return losses / len(batch)


def _batches(
    train: LayerFeatures, labels: Int64[Tensor, " N"], config: BankConfig, seed: int
) -> Iterator[_Batch]:
    """Shuffled batches without end; each overwrites the one before it."""
    generator = torch.Generator().manual_seed(seed)
    # Into the same memory each time: asking the system for it takes longer than copying.
    space = torch.empty(config.batch, *train.tokens.shape[1:], dtype=train.tokens.dtype)
    while True:
        for chosen in torch.randperm(len(train), generator=generator).split(config.batch):
            tokens = space[: len(chosen)]
            torch.index_select(train.tokens, 0, chosen, out=tokens)
            yield _Batch(
                tokens=tokens,
                average=train.average[chosen],
                spread=train.spread[chosen],
                labels=labels[chosen],
            )
