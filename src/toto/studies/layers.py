"""The layer atlas: what every layer knows, by every head, chosen where nothing is reported.

Heads are trained on one split, a second one chooses layer, head and learning rate, and the third is
read once by what was chosen: for the curves by each head and layer at its chosen rate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from toto.probe.bank import (
    BankConfig,
    channel_scale,
    fit_bank,
    layer_features,
    predict_bank,
)
from toto.probe.fit import Features
from toto.probe.heads import HeadName


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerOutcome:
    """What one layer's heads know, each at the rate that the selection split chose.

    Attributes:
        layer: 0 (embedding) to depth.
        rates: number of the chosen rate, by head, [K].
        selection: accuracy on the split that chose, by head, [K].
        test: accuracy on the test split, by head, [K].
        ranked: the likeliest classes of every test clip, the likeliest first, [K N M].
    """

    layer: int
    rates: Int64[Tensor, " K"]
    selection: Float[Tensor, " K"]
    test: Float[Tensor, " K"]
    ranked: Int64[Tensor, "K N M"]


def layer_outcomes(
    train: Features,
    selection: Features,
    test: Features,
    classes: int,
    config: BankConfig,
    *,
    seed: int,
) -> Iterator[LayerOutcome]:
    """Train and score the heads of one layer after another.

    Args:
        train: features of the clips that heads are trained on; of one task.
        selection: of those that choose.
        test: of those that are reported.
        classes: of the task, J.
        config: heads and their training.
        seed: of the fresh heads and of the order of the clips.

    Raises:
        ValueError: if the heads of attention do not divide the width.
    """
    for layer in range(len(train.tokens)):
        scale = channel_scale(train, layer)
        bank = fit_bank(
            layer_features(train, layer, scale), train.labels[0], classes, config, seed=seed
        )
        chose = predict_bank(bank, layer_features(selection, layer, scale))
        accuracy_RK = _accuracy(chose, selection.labels[0])
        # Of equals the lowest rate.
        best_K = accuracy_RK.argmax(0)
        each = torch.arange(len(best_K))
        ranked = predict_bank(bank, layer_features(test, layer, scale))[best_K, each]
        yield LayerOutcome(
            layer=layer,
            rates=best_K,
            selection=accuracy_RK[best_K, each],
            test=_accuracy(ranked, test.labels[0]),
            ranked=ranked,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """A layer, head and rate, with how well they did on the split that chose them and on the test.

    Attributes:
        layer: 0 (embedding) to depth.
        head: its name.
        rate: learning rate.
        selection: accuracy on the split that chose.
        test: accuracy on the test split.
    """

    layer: int
    head: HeadName
    rate: float
    selection: float
    test: float


def pick(
    outcomes: Sequence[LayerOutcome], config: BankConfig, heads: Sequence[HeadName] | None = None
) -> Pick:
    """Choose layer, head and rate by the selection split alone; of equals the first.

    Args:
        outcomes: of all layers.
        config: that they were trained with.
        heads: among which; all if left out.
    """
    columns = [config.heads.index(name) for name in heads or config.heads]
    accuracy_ZK = torch.stack([outcome.selection for outcome in outcomes])[:, columns]
    row, column = divmod(int(accuracy_ZK.argmax()), len(columns))
    outcome, head = outcomes[row], columns[column]
    return Pick(
        layer=outcome.layer,
        head=config.heads[head],
        rate=config.rates[int(outcome.rates[head])],
        selection=float(outcome.selection[head]),
        test=float(outcome.test[head]),
    )


def held_out_of(
    labels: Int64[Tensor, " N"], share: float, *, seed: int
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " m"]]:
    """Part the clips of a training split: those that train, and those that choose.

    Args:
        labels: of the clips; each class gives its share, one clip at least.
        share: of the clips that choose.
        seed: of the draw.

    Returns:
        Numbers of both, each rising.

    Raises:
        ValueError: if a class has fewer than two clips.
    """
    generator = torch.Generator().manual_seed(seed)
    chooses = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        if len(members) < 2:
            raise ValueError(
                f"class {int(label)} has {len(members)} training clip; one to train and one to "
                "choose are needed, or a --selection split"
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        chooses[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~chooses).nonzero().flatten(), chooses.nonzero().flatten()


def _accuracy(ranked: Int64[Tensor, "*any N M"], labels: Int64[Tensor, " N"]) -> Tensor:
    return (ranked[..., 0] == labels).float().mean(-1)
