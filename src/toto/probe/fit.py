"""Fitting the probes of all layers together on features that were extracted once."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from toto.probe.encoder import Encoder
from toto.probe.pool import POOLINGS, LayerProbes, ProbeShape
from toto.train.loop import train_steps
from toto.train.schedule import WarmupCosine


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """How probes are trained; the same for every layer, pooling and backbone."""

    epochs: int = 30
    batch: int = 50
    lr: float = 3e-3
    weight_decay: float = 0.05
    heads: int = 4

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise ValueError(f"epochs {self.epochs} and batch {self.batch} must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Features:
    """Features of some clips at every layer, with their labels.

    Attributes:
        tokens: bf16 [Z N L D]; the reduced precision halves the memory of the largest tensor.
        averages: fp32 [Z N D], mean over the tokens.
        labels: class of each clip in each task, i64 [G N].
    """

    tokens: Float[Tensor, "Z N L D"]
    averages: Float[Tensor, "Z N D"]
    labels: Int64[Tensor, "G N"]


def extract(
    backbone: Encoder,
    clips: Int64[Tensor, "N T Y X"] | UInt8[Tensor, "N T H W 3"],
    labels: Int64[Tensor, "G N"],
    *,
    batch: int = 16,
) -> Iterator[Features]:
    """Read all layers' features in one pass over the clips; yields batches, to show progress.

    The caller joins them with `join`, which sets the memory aside once.
    """
    layers = range(backbone.depth + 1)
    for first in range(0, len(clips), batch):
        part = slice(first, first + batch)
        hidden = backbone.token_features(clips[part], layers)
        tokens = torch.stack([hidden[layer].bfloat16() for layer in layers]).cpu()
        averages = torch.stack([hidden[layer].float().mean(1) for layer in layers]).cpu()
        yield Features(tokens=tokens, averages=averages, labels=labels[:, part])


def join(parts: Iterator[Features], clips: int) -> Features:
    """Join batches of features into one tensor of `clips` clips, without a second copy of all.

    Raises:
        ValueError: if the batches hold more or fewer clips.
    """
    tokens = averages = None
    labels, at = [], 0
    for part in parts:
        count = part.tokens.shape[1]
        if at + count > clips:
            raise ValueError(f"features of more than the {clips} clips expected were extracted")
        if tokens is None or averages is None:
            layers, _, length, width = part.tokens.shape
            tokens = torch.empty(layers, clips, length, width, dtype=part.tokens.dtype)
            averages = torch.empty(layers, clips, width)
        tokens[:, at : at + count] = part.tokens
        averages[:, at : at + count] = part.averages
        labels.append(part.labels)
        at += count
    if tokens is None or averages is None or at != clips:
        raise ValueError(f"features of {at} clips were extracted, {clips} were expected")
    return Features(tokens=tokens, averages=averages, labels=torch.cat(labels, dim=1))


def fit_probes(
    train: Features, classes: Sequence[int], config: FitConfig, *, seed: int
) -> LayerProbes:
    """Train a probe for every task, layer and pooling on one split.

    Args:
        train: features of the training clips.
        classes: of each task.
        config: schedule and sizes.
        seed: of the fresh weights and of the order of the clips.
    """
    layers, clips, _, width = train.tokens.shape
    # In blocks: the features in fp32 would not fit a laptop. Around the mean, not as the difference
    # of two squares: what bf16 rounds off a large, constant channel would make that negative.
    mean = train.averages.mean(1)
    variance = torch.stack([_variance(train.tokens[layer], mean[layer]) for layer in range(layers)])
    deviation = variance.clamp_min(1e-12).sqrt()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = ProbeShape(layers=layers, width=width, classes=tuple(classes), heads=config.heads)
        probes = LayerProbes(shape, mean=mean, deviation=deviation)
    steps = config.epochs * math.ceil(clips / config.batch)
    optimizer = torch.optim.AdamW(
        probes.parameters(), lr=0.0, weight_decay=config.weight_decay, fused=True
    )
    schedule = WarmupCosine(peak=config.lr, warmup=steps // 20, steps=steps, floor=0.0)
    batches = _batches(train, config, seed)
    # No clipping: a common norm would let one probe's gradient scale another's step.
    for _ in train_steps(
        probes,
        _cross_entropy,
        batches,
        optimizer,
        schedule,
        steps=range(steps),
        clip_norm=math.inf,
    ):
        pass
    return probes.eval()


@torch.no_grad()
def predict(probes: LayerProbes, features: Features) -> Int64[Tensor, "2 Z G N"]:
    """Predict the class of every clip by every probe."""
    parts = [
        probes(features.tokens[:, first : first + 50], features.averages[:, first : first + 50])
        for first in range(0, features.tokens.shape[1], 50)
    ]
    return torch.cat([part.argmax(-1) for part in parts], dim=-1)


def accuracy(
    predicted: Int64[Tensor, "2 Z G N"], labels: Int64[Tensor, "G N"]
) -> Float[Tensor, "2 Z G"]:
    """Share of the clips that each probe has right."""
    return (predicted == labels).float().mean(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The probe that a held-out split chose.

    Attributes:
        pooling: one of `POOLINGS`.
        layer: 0 (embedding) to depth.
        selection: its accuracy on the split that chose it.
    """

    pooling: str
    layer: int
    selection: float


def choose(selection: Float[Tensor, "2 Z"]) -> Choice:
    """Choose pooling and layer by accuracy; of equals, the earliest layer."""
    best = int(selection.T.flatten().argmax())
    layer, pooling = divmod(best, len(POOLINGS))
    return Choice(
        pooling=POOLINGS[pooling], layer=layer, selection=float(selection[pooling, layer])
    )


def _cross_entropy(model: nn.Module, batch: Features) -> Tensor:
    """Sum of all probes' mean losses: the gradient of each is as if it were trained alone."""
    scores = model(batch.tokens, batch.averages)
    labels = batch.labels.expand(*scores.shape[:2], -1, -1)
    losses = F.cross_entropy(scores.flatten(0, 3), labels.flatten(), reduction="sum")
    return losses / batch.labels.shape[1]


def _batches(train: Features, config: FitConfig, seed: int) -> Iterator[Features]:
    """Shuffled batches without end; each overwrites the one before it."""
    generator = torch.Generator().manual_seed(seed)
    layers, clips, length, width = train.tokens.shape
    # Into the same memory each time: asking the system for it took longer than copying (14 x).
    space = torch.empty(layers * config.batch * length * width, dtype=train.tokens.dtype)
    while True:
        for chosen in torch.randperm(clips, generator=generator).split(config.batch):
            room = space[: layers * len(chosen) * length * width]
            tokens = room.view(layers, len(chosen), length, width)
            torch.index_select(train.tokens, 1, chosen, out=tokens)
            averages, labels = train.averages[:, chosen], train.labels[:, chosen]
            yield Features(tokens=tokens, averages=averages, labels=labels)


def _variance(tokens: Float[Tensor, "N L D"], mean: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    blocks = [
        (block.float() - mean).square().mean((0, 1)) * len(block) for block in tokens.split(8)
    ]
    return torch.stack(blocks).sum(0) / len(tokens)
