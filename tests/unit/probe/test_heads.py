"""Heads that pool together, against the same heads written out one by one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from toto.probe.bank import (
    BankConfig,
    ChannelScale,
    LayerFeatures,
    channel_scale,
    fit_bank,
    layer_features,
    predict_bank,
)
from toto.probe.fit import Features
from toto.probe.heads import HEADS, AttentionHead, HeadBank, HeadName, VJepaHead

CLIPS, PLACES, WIDTH, CLASSES, HEADS_OF_ATTENTION = 5, 7, 12, 4, 3


def features(tokens: Tensor, labels: Tensor | None = None) -> Features:
    labels = torch.zeros(len(tokens), dtype=torch.long) if labels is None else labels
    return Features(tokens=tokens[None], averages=tokens.float().mean(1)[None], labels=labels[None])


def standardised(tokens: Tensor) -> LayerFeatures:
    found = features(tokens)
    return layer_features(found, 0, channel_scale(found, 0))


def bank_of(*names: HeadName, copies: int = 1) -> HeadBank:
    bank = HeadBank(names, copies=copies, width=WIDTH, classes=CLASSES, heads=HEADS_OF_ATTENTION)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.normal_(std=0.5)  # what begins at 0 would hide what is misplaced
    return bank


def score(bank: HeadBank, read: LayerFeatures) -> Tensor:
    return bank(read.tokens, read.average, read.spread)


def crossed(query_D: Tensor, key_BLD: Tensor, value_BLD: Tensor) -> Tensor:
    """Cross-attention of one query, with keys and values made: [B D]."""
    q = query_D.expand(len(key_BLD), 1, -1)
    parts = [t.unflatten(-1, (HEADS_OF_ATTENTION, -1)).transpose(1, 2) for t in (q, key_BLD)]
    value = value_BLD.unflatten(-1, (HEADS_OF_ATTENTION, -1)).transpose(1, 2)
    return F.scaled_dot_product_attention(*parts, value).flatten(1)


@torch.no_grad()
def written_out(name: HeadName, head: torch.nn.Module, x_BLD: Tensor) -> Tensor:
    if name == "average":
        return head.classify(x_BLD.mean(1))
    if isinstance(head, AttentionHead):
        pooled = crossed(
            head.query.flatten(),
            F.linear(x_BLD, head.key.flatten(0, 1)),
            F.linear(x_BLD, head.value.flatten(0, 1)),
        )
        return head.classify(F.gelu(head.hidden(pooled)) if name == "attention-mlp" else pooled)
    assert isinstance(head, VJepaHead)
    normal = F.layer_norm(x_BLD, (WIDTH,), head.gain, head.shift)
    key = F.linear(normal, head.key.flatten(0, 1), torch.full((WIDTH,), 0.3))
    pooled = crossed(head.to_query(head.query), key, head.value(normal))
    stream = head.query + head.out(pooled)
    stream = stream + head.narrow(F.gelu(head.widen(head.norm(stream))))
    return head.classify(stream)


@torch.no_grad()
@pytest.mark.parametrize("name", HEADS)
def test_folded_heads_are_the_written_out_ones(name: HeadName) -> None:
    torch.manual_seed(0)
    bank = bank_of(name)
    read = standardised(5 + 3 * torch.randn(CLIPS, PLACES, WIDTH))
    expected = written_out(name, bank.copies[0][0], read.tokens)
    torch.testing.assert_close(score(bank, read)[0, 0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_heads_together_score_as_each_alone() -> None:
    torch.manual_seed(0)
    read = standardised(torch.randn(CLIPS, PLACES, WIDTH))
    together = bank_of(*HEADS, copies=2)
    for k, name in enumerate(HEADS):
        for copy in range(2):
            alone = bank_of(name)
            alone.copies[0][0].load_state_dict(together.copies[copy][k].state_dict())
            torch.testing.assert_close(
                score(together, read)[copy, k], score(alone, read)[0, 0], rtol=1e-4, atol=1e-5
            )


def test_no_head_has_a_gradient_of_another() -> None:
    bank = bank_of(*HEADS, copies=2)
    read = standardised(torch.randn(CLIPS, PLACES, WIDTH))
    score(bank, read)[1, 3].square().sum().backward()
    touched = {
        tuple(name.split(".")[1:3])
        for name, p in bank.named_parameters()
        if p.grad is not None and p.grad.abs().max() > 0
    }
    assert touched == {("1", "3")}


def test_features_are_standardised_by_the_training_clips() -> None:
    torch.manual_seed(0)
    tokens = (40 + 3 * torch.randn(50, PLACES, WIDTH)).bfloat16()
    scale = channel_scale(features(tokens), 0)
    torch.testing.assert_close(
        scale.deviation, tokens.float().flatten(0, 1).std(0, correction=0), rtol=1e-3, atol=0
    )
    read = layer_features(features(tokens[:7]), 0, ChannelScale(scale.mean, scale.deviation))
    expected = (tokens[:7].float() - scale.mean) / scale.deviation
    torch.testing.assert_close(read.tokens.float(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(read.spread, expected.std(-1, correction=0), rtol=1e-3, atol=1e-3)


def problem(clips: int, seed: int, *, everywhere: bool) -> tuple[LayerFeatures, Tensor]:
    """The class shows in all places, or in one of many that nothing else tells apart."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(CLASSES, (clips,), generator=draw)
    tokens = torch.randn(clips, PLACES, WIDTH, generator=draw)
    if everywhere:
        tokens += 1.5 * F.one_hot(label, WIDTH)[:, None]
    else:
        place = torch.randint(PLACES, (clips,), generator=draw)
        tokens[torch.arange(clips), place, label] += 12
    return standardised(tokens.bfloat16()), label


QUICK = BankConfig(attention_heads=3, rates=(1e-2, 3e-2), epochs=12, batch=50)


@pytest.mark.parametrize("everywhere", [True, False])
def test_every_head_finds_what_is_there(everywhere: bool) -> None:
    train, label = problem(400, 0, everywhere=everywhere)
    test, expected = problem(200, 1, everywhere=everywhere)
    ranked = predict_bank(fit_bank(train, label, CLASSES, QUICK, seed=0), test)
    assert ranked.shape == (2, len(HEADS), 200, CLASSES)
    found = (ranked[..., 0] == expected).float().mean(-1).amax(0)
    assert (found > 0.85).all(), dict(zip(HEADS, found.tolist(), strict=True))


def test_a_head_that_diverges_spoils_no_other() -> None:
    train, label = problem(200, 0, everywhere=True)
    config = BankConfig(heads=("attention",), attention_heads=3, rates=(1e-2, 1e38), epochs=8)
    bank = fit_bank(train, label, CLASSES, config, seed=0)
    assert not torch.isfinite(bank.copies[1][0].value).all()
    right = (predict_bank(bank, train)[..., 0] == label).float().mean(-1)[:, 0]
    assert right[0] > 0.85
    assert right[1] < 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": ()}, r"rates \(\) must be given, each once"),
        ({"heads": ("aim", "aim")}, r"heads \('aim', 'aim'\) must be given, each once"),
        ({"rates": (0.0,)}, r"rates \(0.0,\) must be above 0"),
        ({"epochs": 0}, "epochs 0 must be at least 1"),
    ],
)
def test_a_bank_refuses_what_it_cannot_train(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BankConfig(**changes)


def test_a_bank_refuses_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 12 is not a multiple of 5 heads"):
        HeadBank(("aim",), copies=1, width=12, classes=2, heads=5)


def test_classifiers_of_the_papers_heads_begin_at_zero() -> None:
    bank = HeadBank(("average", "attention"), copies=1, width=12, classes=3, heads=3)
    read = standardised(torch.randn(2, PLACES, WIDTH))
    assert score(bank, read).abs().max() == 0
    assert math.isclose(float(bank.copies[0][1].query.detach().std()), 0.02, rel_tol=1)
