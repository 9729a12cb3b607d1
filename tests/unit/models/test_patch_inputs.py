"""The decoder that reads patches is the decoder that reads ids, but for its first and last map."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from toto.models import Llama, LlamaConfig
from toto.models.flops import model_cost
from toto.recipes import PRETRAIN

CODES, LENGTH = 20, 24
IDS = LlamaConfig(
    vocab_size=CODES + 3, width=16, depth=3, heads=2, mlp_width=24, context=LENGTH, init_std=0.3
)
TO_TOKENS = replace(IDS, patch_values=12)
TO_PATCHES = replace(TO_TOKENS, vocab_size=4, predicts="patches")


@pytest.fixture(params=["tokens", "patches"])
def model(request: pytest.FixtureRequest) -> Llama:
    config = TO_TOKENS if request.param == "tokens" else TO_PATCHES
    return config.build().eval().requires_grad_(False)


def sequence(model: Llama, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Start, patches, end; noise at every place."""
    ids = torch.zeros(batch, LENGTH, dtype=torch.long)
    ids[:, 0], ids[:, -1] = model.config.vocab_size - 3, model.config.vocab_size - 2
    return ids, torch.randn(batch, LENGTH, model.config.patch_values)


def test_the_outputs_are_scores_or_values(model: Llama) -> None:
    ids, patches = sequence(model)
    outputs = 12 if model.config.predicts == "patches" else CODES + 3
    assert model(ids, patches=patches).shape == (2, LENGTH, outputs)


@torch.no_grad()
def test_one_hot_patches_are_ids() -> None:
    """A projection that looks up the embedding's rows: the same model, bit for bit or nearly."""
    by_id = IDS.build().eval()
    by_patch = replace(IDS, patch_values=CODES).build().eval()
    weights = by_id.state_dict()
    table = weights.pop("embedding.weight")
    by_patch.load_state_dict(
        {**weights, "embedding.weight": table[CODES:], "projection.weight": table[:CODES].T}
    )
    ids = torch.randint(CODES + 3, (2, LENGTH))  # special ids anywhere, not only at the ends
    patches = F.one_hot(ids, CODES + 3)[..., :CODES].float()
    other = torch.where(ids < CODES, (ids + 7) % CODES, ids)  # only which are special counts
    layers = range(4)
    expected, found = by_id.hidden(ids, layers), by_patch.hidden(other, layers, patches)
    for layer in layers:
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(by_patch(other, patches=patches), by_id(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changed", [1, 9, LENGTH - 2])
def test_a_patch_changes_nothing_before_it(model: Llama, changed: int) -> None:
    ids, patches = sequence(model, batch=1)
    other = patches.clone()
    other[0, changed, 5] += 1
    before, after = model(ids, patches=patches), model(ids, patches=other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert ((before - after).abs().amax(-1)[0, changed:] > 0).all()


@pytest.mark.parametrize("changed", [0, LENGTH - 1])
def test_values_at_a_special_id_are_not_looked_at(model: Llama, changed: int) -> None:
    ids, patches = sequence(model)
    other = patches.clone()
    other[:, changed] = 1e6
    assert torch.equal(model(ids, patches=patches), model(ids, patches=other))


def test_the_special_ids_are_told_apart(model: Llama) -> None:
    ids, patches = sequence(model)
    images = ids.clone()
    images[:, 0] = model.config.vocab_size - 1
    difference = (model(ids, patches=patches) - model(images, patches=patches)).abs()
    assert (difference.amax(-1) > 0).all()


@pytest.mark.parametrize("parts", [[1] * LENGTH, [7, 9, 1, 7]], ids=["one by one", "in chunks"])
def test_a_cache_gives_what_one_pass_gives(model: Llama, parts: list[int]) -> None:
    ids, patches = sequence(model)
    cache = model.new_cache(len(ids))
    seen = [
        model(part, cache, values)
        for part, values in zip(ids.split(parts, 1), patches.split(parts, 1), strict=True)
    ]
    torch.testing.assert_close(
        torch.cat(seen, dim=1), model(ids, patches=patches), rtol=1e-5, atol=1e-5
    )


def test_the_stream_keeps_its_precision_in_bf16(model: Llama) -> None:
    ids, patches = sequence(model)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.hidden(ids, [0, 3], patches)
    assert hidden[0].dtype == hidden[3].dtype == torch.float32


@pytest.mark.parametrize("config", [TO_TOKENS, TO_PATCHES])
def test_counted_costs_are_those_of_the_built_model(config: LlamaConfig) -> None:
    model, cost = config.build(), model_cost(config)
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert model.head is not None
    assert model.projection is not None
    parts = (model.embedding.weight, model.projection.weight, model.head.weight)
    assert cost.embedding == sum(part.numel() for part in parts)
    assert model.embedding.weight.shape == (3, 16)
    ids, patches = sequence(model, batch=1)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(ids, patches=patches)
    counts = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    expected = counts["aten.mm"] + counts["aten.bmm"] / 2
    assert cost.forward_flops_a_token * LENGTH == expected


@pytest.mark.parametrize(
    ("name", "parameters"),
    # Blocks and norms of large; 3 special ids, projection and head.
    [
        ("patch-patch", 268_435_456 + 33 * 1024 + (3 + 768 + 768) * 1024),
        ("patch-dvae", 268_435_456 + 33 * 1024 + (3 + 192 + 8195) * 1024),
    ],
)
def test_the_recipes_have_the_parameters_of_large_but_for_both_ends(
    name: str, parameters: int
) -> None:
    config = PRETRAIN[name]().model
    with torch.device("meta"):
        built = sum(parameter.numel() for parameter in config.build().parameters())
    assert built == model_cost(config).parameters == parameters


def test_refuses_ids_alone() -> None:
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="the model reads patches of 12 values; give them with"):
        TO_TOKENS.build()(ids)
    with pytest.raises(ValueError, match="the model reads patches of 12 values; give them with"):
        TO_PATCHES.build().hidden(ids, [1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_values": -3}, r"patch_values -3 must be 0 \(ids are read\) or more"),
        ({"patch_values": 12, "vocab_size": 3}, "vocab_size 3 leaves no id beside the special"),
        ({"patch_values": 12, "tied": True}, "tied: a model that reads patches has no embedding"),
        ({"predicts": "patches"}, "predicts patches, but reads ids; set patch_values"),
        (
            {"patch_values": 12, "predicts": "patches"},
            "vocab_size 23 must be 4 where patches are predicted: one id for any patch, and the",
        ),
    ],
)
def test_rejects(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(IDS, **fields)
