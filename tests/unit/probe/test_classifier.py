"""Heads on a decoder: what they read, and where the labels' gradient goes."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from toto.models import MODELS
from toto.probe.classifier import HeadConfig, Pooling, StoppedProbes, WholeClassifier

LLAMA = MODELS["llama"](
    vocab_size=19, width=16, depth=3, heads=2, mlp_width=24, context=16, init_std=0.3
)
POOLINGS = [HeadConfig(pooling=pooling, heads=2) for pooling in get_args(Pooling)]


def ids(batch: int = 2, length: int = 10) -> torch.Tensor:
    return torch.randint(16, (batch, length))


def graded(model: torch.nn.Module) -> set[str]:
    return {
        name
        for name, p in model.named_parameters()
        if p.grad is not None and bool(p.grad.abs().max() > 0)
    }


@pytest.mark.parametrize("head", POOLINGS, ids=get_args(Pooling))
def test_labels_reach_all_that_a_whole_classifier_reads(head: HeadConfig) -> None:
    model = WholeClassifier(LLAMA.build(), head, 5, layer=2)
    torch.nn.init.normal_(model.head.classify.weight)
    answer = model(ids())
    assert answer.next_token_loss is None
    assert answer.scores.shape == (1, 2, 5)
    F.cross_entropy(answer.scores[0], torch.tensor([1, 4])).backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert graded(model) == trained
    behind = {"decoder.norm.weight", "decoder.head.weight", "decoder.blocks.2.mlp.down.weight"}
    assert not trained & behind


@pytest.mark.parametrize("head", POOLINGS, ids=get_args(Pooling))
def test_no_label_reaches_the_decoder_behind_stopped_probes(head: HeadConfig) -> None:
    model = StoppedProbes(LLAMA.build(), head, 5)
    for probe in model.probes:
        torch.nn.init.normal_(probe.classify.weight)
    answer = model(ids())
    assert answer.scores.shape == (4, 2, 5)
    answer.scores.logsumexp(-1).sum().backward(retain_graph=True)
    names = {name for name, _ in model.named_parameters()}
    assert graded(model) == {name for name in names if name.startswith("probes.")}
    answer.next_token_loss.backward()
    assert graded(model) == names


@pytest.mark.parametrize("patch_values", [0, 12])
def test_probes_alone_learn_behind_a_frozen_decoder(patch_values: int) -> None:
    decoder = replace(LLAMA, patch_values=patch_values).build()
    model = StoppedProbes(decoder, HeadConfig(), 5, frozen=True)
    for probe in model.probes:
        torch.nn.init.normal_(probe.classify.weight)
    sequences = ids()
    patches = torch.randn(2, sequences.shape[1] - 1, 12) if patch_values else None
    answer = model(sequences, patches)
    assert answer.next_token_loss is None
    answer.scores.logsumexp(-1).sum().backward()
    names = {name for name, _ in model.named_parameters()}
    assert graded(model) == {name for name in names if name.startswith("probes.")}
    assert model.apart == tuple(model.probes)
    if not patch_values:
        learning = StoppedProbes(decoder, HeadConfig(), 5)
        learning.probes.load_state_dict(model.probes.state_dict())
        torch.testing.assert_close(learning(sequences).scores, answer.scores)


def test_the_next_token_loss_is_the_decoders_own() -> None:
    model = StoppedProbes(LLAMA.build(), HeadConfig(), 5)
    sequences = ids(3)
    logits = model.decoder(sequences[:, :-1])
    expected = F.cross_entropy(logits.flatten(0, 1), sequences[:, 1:].flatten())
    torch.testing.assert_close(model(sequences).next_token_loss, expected)


def test_a_probe_reads_its_layer_without_start_and_end() -> None:
    model = StoppedProbes(LLAMA.build(), HeadConfig(), 5)
    sequences = ids(3)
    for probe in model.probes:
        torch.nn.init.normal_(probe.classify.weight)
    streams = model.decoder.hidden(sequences[:, :-1], range(4))
    scores = model(sequences).scores
    for layer, probe in enumerate(model.probes):
        x = streams[layer][:, 1:]
        normal = (x - x.mean(-1, keepdim=True)) / (
            x.var(-1, correction=0, keepdim=True) + 1e-5
        ).sqrt()
        expected = normal.mean(1) @ probe.classify.weight.T + probe.classify.bias
        torch.testing.assert_close(scores[layer], expected, rtol=1e-4, atol=1e-4)


def test_attention_pooling_weighs_places_by_the_query() -> None:
    head = HeadConfig(pooling="attention", heads=2).build(8, 3)
    torch.nn.init.normal_(head.classify.weight)
    torch.nn.init.normal_(head.pool.query, std=2)
    stream = torch.randn(2, 5, 8)
    x = head.norm(stream)
    k, v = head.pool.key_value(x).chunk(2, dim=-1)
    pooled = []
    for number in range(2):
        part = slice(4 * number, 4 * number + 4)
        weights = (k[..., part] @ head.pool.query[number] / 2).softmax(1)
        pooled.append((weights[..., None] * v[..., part]).sum(1))
    expected = torch.cat(pooled, dim=-1) @ head.classify.weight.T + head.classify.bias
    torch.testing.assert_close(head(stream), expected)


def test_the_large_head_has_a_hidden_layer_behind_its_attention() -> None:
    small, large = (
        HeadConfig(pooling=pooling, heads=2).build(8, 3)
        for pooling in ("attention", "attention-mlp")
    )
    torch.nn.init.normal_(large.classify.weight)
    small.pool.load_state_dict(large.pool.state_dict(), strict=False)
    stream = torch.randn(2, 5, 8)
    hidden = F.gelu(large.pool.hidden(small.pool(small.norm(stream))))
    torch.testing.assert_close(large(stream), large.classify(hidden))


def test_a_frozen_probe_can_read_one_layer() -> None:
    every = StoppedProbes(LLAMA.build(), HeadConfig(), 5, frozen=True)
    one = StoppedProbes(every.decoder, HeadConfig(), 5, frozen=True, layer=2)
    torch.nn.init.normal_(one.probes[0].classify.weight)
    every.probes[2].load_state_dict(one.probes[0].state_dict())
    sequences = ids()
    assert one.layers == (2,)
    torch.testing.assert_close(one(sequences).scores[0], every(sequences).scores[2])
    with pytest.raises(ValueError, match=r"layer 4 is not in 1..3"):
        StoppedProbes(every.decoder, HeadConfig(), 5, frozen=True, layer=4)


def test_scores_begin_near_nothing() -> None:
    for head in POOLINGS:
        scores = WholeClassifier(LLAMA.build(), head, 5, layer=3)(ids()).scores
        assert scores.abs().max() < 1e-3


def test_refuses_what_a_decoder_cannot_give() -> None:
    with pytest.raises(ValueError, match=r"layer 4 is not in 1..3"):
        WholeClassifier(LLAMA.build(), HeadConfig(), 5, layer=4)
    with pytest.raises(ValueError, match="width 16 is not a multiple of 3 heads"):
        WholeClassifier(LLAMA.build(), HeadConfig(pooling="attention", heads=3), 5, layer=3)
    with pytest.raises(ValueError, match="heads 0 must be at least 1"):
        HeadConfig(heads=0)
    patches = replace(LLAMA, patch_values=12).build()
    with pytest.raises(ValueError, match="this run reads patches; --protocol whole"):
        StoppedProbes(patches, HeadConfig(), 5)
