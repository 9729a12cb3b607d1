"""The bank of probes against attention pooling as it is written down, one probe at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from toto.probe.pool import LayerProbes, ProbeShape

LAYERS, CLIPS, TOKENS, WIDTH, HEADS = 3, 5, 14, 12, 3
CLASSES = (4, 6)


@pytest.fixture
def features() -> Tensor:
    # Channels of different means and sizes, as those of a residual stream.
    scale = torch.logspace(-1, 1, WIDTH)
    return scale * (torch.randn(LAYERS, CLIPS, TOKENS, WIDTH) + torch.randn(WIDTH))


@pytest.fixture
def probes(features: Tensor) -> LayerProbes:
    mean, deviation = features.mean((1, 2)), features.std((1, 2))
    shape = ProbeShape(layers=LAYERS, width=WIDTH, classes=CLASSES, heads=HEADS)
    made = LayerProbes(shape, mean=mean, deviation=deviation)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.5)  # fresh heads are zero, which would hide everything
    return made.requires_grad_(False)


def plain(probes: LayerProbes, features: Tensor, layer: int, task: int) -> tuple[Tensor, Tensor]:
    """One query against keys and values that are made, for each head; then a linear layer."""
    x_BLD = (features[layer] - probes.mean[layer]) / probes.deviation[layer]
    heads = []
    for head in range(HEADS):
        k_BLK = x_BLD @ probes.key[layer, task, head].T
        v_BLK = x_BLD @ probes.value[layer, task, head].T
        scores_BL = k_BLK @ probes.query[layer, task, head] / math.sqrt(WIDTH // HEADS)
        heads.append((scores_BL.softmax(1)[..., None] * v_BLK).sum(1))
    pooled_BD = torch.cat(heads, dim=-1)
    attended = pooled_BD @ probes.attention_head[layer, task].T + probes.attention_bias[layer, task]
    averaged = x_BLD.mean(1) @ probes.average_head[layer, task].T + probes.average_bias[layer, task]
    return attended[:, : CLASSES[task]], averaged[:, : CLASSES[task]]


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_every_probe_is_the_plain_one(
    probes: LayerProbes, features: Tensor, layer: int, task: int
) -> None:
    scores = probes(features, features.mean(2))[:, layer, task, :, : CLASSES[task]]
    attended, averaged = plain(probes, features, layer, task)
    assert attended.std() > 0.1
    torch.testing.assert_close(scores[0], attended, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores[1], averaged, rtol=1e-4, atol=1e-4)


def test_heads_of_attention_are_those_of_torch(probes: LayerProbes, features: Tensor) -> None:
    x_BLD = (features[1] - probes.mean[1]) / probes.deviation[1]
    query = probes.query[1, 0][None, :, None].expand(CLIPS, -1, -1, -1)
    keys, values = (
        torch.einsum("bld,nkd->bnlk", x_BLD, matrix[1, 0]) for matrix in (probes.key, probes.value)
    )
    pooled = F.scaled_dot_product_attention(query, keys, values).flatten(1)
    expected = pooled @ probes.attention_head[1, 0].T + probes.attention_bias[1, 0]
    got = probes(features, features.mean(2))[0, 1, 0]
    torch.testing.assert_close(got[:, :4], expected[:, :4], rtol=1e-4, atol=1e-4)


def test_classes_that_a_task_has_not_are_never_taken(probes: LayerProbes, features: Tensor) -> None:
    scores = probes(features, features.mean(2))
    assert (scores[:, :, 0, :, 4:] == -torch.inf).all()
    assert scores[:, :, 0, :, :4].isfinite().all()
    assert scores[:, :, 1].isfinite().all()


def test_no_probe_shares_a_parameter_with_another(probes: LayerProbes, features: Tensor) -> None:
    probes.requires_grad_(True)
    probes(features, features.mean(2))[0, 1, 1].sum().backward()
    for name, parameter in probes.named_parameters():
        assert parameter.grad is not None
        touched = (parameter.grad.flatten(2).abs().sum(-1) > 0).nonzero().tolist()
        assert touched == ([] if name.startswith("average") else [[1, 1]]), name


def test_bf16_features_score_as_fp32_ones(probes: LayerProbes, features: Tensor) -> None:
    averages = features.mean(2)
    exact = probes(features.bfloat16().float(), averages)[:, :, 1]
    rounded = probes(features.bfloat16(), averages)[:, :, 1]
    # bf16 has 8 bits: gaze, attention and pooled values are each off by up to 0.4 %.
    assert (rounded - exact).abs().max() < 0.05 * exact.std()


def test_rejects_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 12 is not a multiple of 5 heads"):
        ProbeShape(layers=1, width=12, classes=(2,), heads=5)
