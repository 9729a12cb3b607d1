import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from toto.data.layout import Layout, LayoutConfig
from toto.models import LlamaConfig
from toto.probe.backbone import Backbone
from toto.probe.fit import (
    Features,
    FitConfig,
    accuracy,
    choose,
    extract,
    fit_probes,
    join,
    predict,
)
from toto.probe.pool import LayerProbes, ProbeShape
from toto.tokenizers import Grey

LAYERS, TOKENS, WIDTH, CLASSES = 3, 6, 8, 4
QUICK = FitConfig(epochs=20, batch=50, lr=1e-2, heads=2)


def of(tokens: Tensor, labels: Tensor) -> Features:
    return Features(tokens=tokens.bfloat16(), averages=tokens.mean(2), labels=labels)


def rows(features: Features, chosen: Tensor) -> Features:
    return Features(
        tokens=features.tokens[:, chosen],
        averages=features.averages[:, chosen],
        labels=features.labels[:, chosen],
    )


def problem(clips: int, seed: int, *, shuffled: bool = False) -> Features:
    """Layer 0 knows nothing; 1 shows the class in one token among many, 2 in all of them.

    The second task is the parity of the first.
    """
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(CLASSES, (clips,), generator=generator)
    tokens = torch.randn(LAYERS, clips, TOKENS, WIDTH, generator=generator)
    place = torch.randint(TOKENS, (clips,), generator=generator)
    tokens[1, torch.arange(clips), place, label] += 12
    tokens[2] += 1.5 * torch.nn.functional.one_hot(label, WIDTH)[:, None]
    if shuffled:
        label = label[torch.randperm(clips, generator=generator)]
    return of(tokens, torch.stack([label, label % 2]))


def scores(train: Features, test: Features, config: FitConfig = QUICK) -> Tensor:
    probes = fit_probes(train, [CLASSES, 2], config, seed=0)
    return accuracy(predict(probes, test), test.labels)


def test_separates_what_can_be_separated() -> None:
    found = scores(problem(300, 0), problem(400, 1))
    assert found.shape == (2, LAYERS, 2)
    assert (found[:, 2] > 0.95).all()  # the class is everywhere: both poolings see it
    assert (found[0, 1] > 0.95).all()  # in one token: the attention finds it
    # Chance of a layer that knows nothing; 400 clips: four deviations.
    for task, chance in enumerate((1 / CLASSES, 1 / 2)):
        bound = 4 * math.sqrt(chance * (1 - chance) / 400)
        assert (found[:, 0, task] - chance).abs().max() < bound


def test_stays_at_chance_on_shuffled_labels() -> None:
    found = scores(problem(300, 0, shuffled=True), problem(400, 1, shuffled=True))
    for task, chance in enumerate((1 / CLASSES, 1 / 2)):
        bound = 4 * math.sqrt(chance * (1 - chance) / 400)
        assert (found[:, :, task] - chance).abs().max() < bound


def test_a_seed_repeats_the_fit() -> None:
    train = problem(60, 0)
    one, two, other = (fit_probes(train, [CLASSES, 2], QUICK, seed=seed) for seed in (1, 1, 2))
    weights = one.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in two.state_dict().items())
    assert not torch.equal(one.query, other.query)


def test_fitting_leaves_the_common_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    fit_probes(problem(20, 0), [CLASSES, 2], QUICK, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_layer_is_fitted_as_if_alone() -> None:
    """Neither the loss nor the clipping of one probe may reach another."""
    train = problem(60, 0)
    probes = fit_probes(train, [CLASSES, 2], QUICK, seed=0)
    wild = Features(
        tokens=torch.cat([train.tokens[:2], 1000 * train.tokens[2:]]),
        averages=torch.cat([train.averages[:2], -5 * train.averages[2:]]),
        labels=train.labels,
    )
    other = fit_probes(wild, [CLASSES, 2], QUICK, seed=0)
    torch.testing.assert_close(other.attention_head[:2], probes.attention_head[:2])
    torch.testing.assert_close(other.average_head[:2], probes.average_head[:2])
    assert not torch.allclose(other.average_head[2], probes.average_head[2])


def test_features_are_standardised_by_the_training_split() -> None:
    train = problem(130, 0)
    probes = fit_probes(train, [CLASSES, 2], FitConfig(epochs=1, heads=2), seed=0)
    tokens = train.tokens.double()
    torch.testing.assert_close(probes.mean.double(), tokens.mean((1, 2)), rtol=0.0, atol=2e-3)
    expected = tokens.std((1, 2), correction=0)
    torch.testing.assert_close(probes.deviation.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_large_constant_channel_does_not_explode() -> None:
    """What bf16 rounds off such a channel is more than its variance."""
    train = problem(100, 0)
    tokens = train.tokens.float()
    tokens[..., 0] = 1.003 + 1e-4 * torch.randn(tokens.shape[:-1])
    tokens[..., 1] = 300.7
    train = of(tokens, train.labels)
    probes = fit_probes(train, [CLASSES, 2], FitConfig(epochs=1, heads=2), seed=0)
    standard = (train.tokens.float() - probes.mean[:, None, None]) / probes.deviation[:, None, None]
    assert standard.abs().max() < 20
    averages = (train.averages - probes.mean[:, None]) / probes.deviation[:, None]
    assert averages.abs().max() < 20


def test_predictions_do_not_depend_on_how_many_are_asked_for() -> None:
    train = problem(120, 0)
    probes = fit_probes(train, [CLASSES, 2], FitConfig(epochs=2, heads=2), seed=0)
    whole = predict(probes, train)
    assert whole.shape == (2, LAYERS, 2, 120)
    for chosen in (torch.arange(3), torch.arange(60, 120)):
        assert torch.equal(predict(probes, rows(train, chosen)), whole[..., chosen])


def test_accuracy_by_hand() -> None:
    predicted = torch.tensor([[[[0, 1, 2, 3]]], [[[3, 1, 2, 0]]]])
    assert accuracy(predicted, torch.tensor([[0, 1, 2, 0]])).tolist() == [[[0.75]], [[0.75]]]
    assert accuracy(predicted, torch.tensor([[3, 1, 2, 0]])).flatten().tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("selection", "pooling", "layer"),
    [
        ([[0.1, 0.9, 0.3], [0.2, 0.4, 0.8]], "attention", 1),
        ([[0.1, 0.3, 0.3], [0.2, 0.4, 0.8]], "average", 2),
        ([[0.1, 0.5, 0.5], [0.5, 0.4, 0.5]], "average", 0),  # of equals, the earliest layer
        ([[0.1, 0.5, 0.2], [0.1, 0.5, 0.2]], "attention", 1),  # and in one layer, the attention
    ],
)
def test_chooses_the_best_probe(selection: Any, pooling: str, layer: int) -> None:
    choice = choose(torch.tensor(selection))
    assert (choice.pooling, choice.layer) == (pooling, layer)
    assert choice.selection == pytest.approx(max(map(max, selection)))


def parts(counts: list[int]) -> Iterator[Features]:
    whole = problem(sum(counts), 0)
    for chosen in torch.arange(sum(counts)).split(counts):
        yield rows(whole, chosen)


def test_joined_features_are_those_of_the_parts() -> None:
    whole, joined = problem(10, 0), join(parts([4, 4, 2]), 10)
    assert joined.tokens.dtype == torch.bfloat16
    assert torch.equal(joined.tokens, whole.tokens)
    assert torch.equal(joined.averages, whole.averages)
    assert torch.equal(joined.labels, whole.labels)


@pytest.mark.parametrize(
    ("counts", "clips", "message"),
    [
        ([4, 4], 10, "features of 8 clips were extracted, 10 were expected"),
        ([], 3, "features of 0 clips were extracted, 3 were expected"),
        ([4, 4], 6, "features of more than the 6 clips expected were extracted"),
    ],
)
def test_rejects_another_number_of_clips(counts: list[int], clips: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        join(parts(counts) if counts else iter([]), clips)


def test_extracted_features_are_those_of_the_model() -> None:
    grey = Grey()
    config = LlamaConfig(vocab_size=19, width=16, depth=2, heads=2, mlp_width=24, context=30)
    layout = Layout(LayoutConfig(frames=3), codes=16, frame_tokens=4)
    backbone = Backbone(model=config.build().eval(), tokenizer=grey, layout=layout)
    grids = torch.randint(16, (5, 3, 2, 2))
    labels = torch.arange(5)[None]
    features = join(extract(backbone, grids, labels, batch=2), 5)
    assert torch.equal(features.labels, labels)
    for number, grid in enumerate(grids):
        ids = torch.cat([torch.tensor([16]), grid.flatten()])[None]
        with torch.no_grad():
            hidden = backbone.model.hidden(ids, range(3))
        for layer in range(3):
            expected = hidden[layer][0, 1:]  # without the start token
            got = features.tokens[layer, number].float()
            torch.testing.assert_close(got, expected, rtol=2**-7, atol=1e-6)  # bf16
            torch.testing.assert_close(features.averages[layer, number], expected.mean(0))


@pytest.mark.parametrize("fields", [{"epochs": 0}, {"batch": 0}])
def test_rejects_a_fit_of_nothing(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"epochs \d+ and batch \d+ must be at least 1"):
        FitConfig(**fields)


def test_fresh_probes_have_no_opinion() -> None:
    probes = LayerProbes(
        ProbeShape(layers=2, width=4, classes=(3,), heads=2),
        mean=torch.zeros(2, 4),
        deviation=torch.ones(2, 4),
    )
    features = torch.randn(2, 5, 6, 4)
    assert not probes(features, features.mean(2)).any()
