"""What every registered decoder must do, whatever is inside."""

import dataclasses
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from toto.config import from_dict, to_dict
from toto.models import MODELS, DecoderConfig, MambaConfig, decoder_config
from toto.models.flops import model_cost
from toto.train.optimizer import AdamWConfig

CONTEXT, VOCAB = 32, 23
SIZES: dict[str, Any] = {"vocab_size": VOCAB, "width": 16, "depth": 3, "context": CONTEXT}
COUNTED = {
    "llama": ("vocab_size", "width", "depth", "heads", "mlp_width", "context"),
    "gpt2": ("vocab_size", "width", "depth", "heads", "context"),
    "mamba": ("vocab_size", "width", "depth", "context", "state_size", "expand", "kernel"),
}
"""Sizes of each of which there must be one at least."""
SMALL: dict[str, DecoderConfig] = {
    "llama": MODELS["llama"](**SIZES, heads=2, mlp_width=24, init_std=0.3),
    "gpt2": MODELS["gpt2"](**SIZES, heads=2, init_std=0.3),
    "mamba": MODELS["mamba"](**SIZES, state_size=5, init_std=0.3),
}


def test_every_registered_model_is_here() -> None:
    assert SMALL.keys() == MODELS.keys()


@pytest.fixture(params=sorted(MODELS))
def config(request: pytest.FixtureRequest) -> Any:
    return SMALL[request.param]


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def tied_or_not(request: pytest.FixtureRequest, config: Any) -> Any:
    return replace(config, tied=request.param)


@pytest.fixture
def model(config: Any) -> Any:
    return config.build().eval().requires_grad_(False)


def tokens(batch: int = 2, length: int = CONTEXT) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length))


@pytest.mark.parametrize("changed", [0, 1, 17, CONTEXT - 1])
def test_a_token_changes_nothing_before_it(model: Any, changed: int) -> None:
    ids = tokens(batch=1)
    other = ids.clone()
    other[0, changed] = (other[0, changed] + 1) % VOCAB
    before, after = model(ids), model(other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    # Every later position sees it, not only its own.
    assert ((before - after).abs().amax(-1)[0, changed:] > 0).all()


@pytest.mark.parametrize("changed", [3, 20])
def test_hidden_layers_are_causal_too(model: Any, changed: int) -> None:
    ids = tokens(batch=1)
    other = ids.clone()
    other[0, changed] = (other[0, changed] + 1) % VOCAB
    layers = range(model.config.depth + 1)
    before, after = model.hidden(ids, layers), model.hidden(other, layers)
    for layer in layers:
        assert torch.equal(before[layer][:, :changed], after[layer][:, :changed])
        assert not torch.equal(before[layer][:, changed:], after[layer][:, changed:])


@pytest.mark.parametrize(
    "parts",
    [[1] * CONTEXT, [10] + [1] * (CONTEXT - 10), [7, 9, 1, 15], [CONTEXT]],
    ids=["one by one", "prefill, then one by one", "in chunks", "all at once"],
)
def test_a_cache_gives_what_one_pass_gives(model: Any, parts: list[int]) -> None:
    ids = tokens()
    cache = model.new_cache(len(ids))
    seen = [model(part, cache) for part in ids.split(parts, dim=1)]
    # fp32: the attention kernels for one query and for many add in another order.
    torch.testing.assert_close(torch.cat(seen, dim=1), model(ids), rtol=1e-5, atol=1e-5)
    assert cache.length == CONTEXT


def test_a_batch_reads_as_each_row_alone(model: Any) -> None:
    ids = tokens(batch=3)
    alone = torch.cat([model(row[None]) for row in ids])
    torch.testing.assert_close(model(ids), alone, rtol=1e-5, atol=1e-5)


def test_hidden_of_all_layers_is_hidden_of_each(model: Any) -> None:
    ids = tokens()
    depth = model.config.depth
    together = model.hidden(ids, range(depth + 1))
    assert sorted(together) == list(range(depth + 1))
    for layer, value in together.items():
        assert value.shape == (*ids.shape, model.config.width)
        assert torch.equal(value, model.hidden(ids, [layer])[layer])
    assert model.hidden(ids, []) == {}


def test_hidden_stops_at_the_last_layer_asked_for(model: Any) -> None:
    ran: list[int] = []
    for number, block in enumerate(model.blocks, start=1):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    model.hidden(tokens(), [0, 2])
    assert ran == [1, 2]


def test_the_last_hidden_layer_feeds_the_head(tied_or_not: Any) -> None:
    model = tied_or_not.build().eval().requires_grad_(False)
    ids, depth = tokens(), model.config.depth
    assert (model.head is None) == model.config.tied
    matrix = model.embedding.weight if model.config.tied else model.head.weight
    expected = F.linear(model.norm(model.hidden(ids, [depth])[depth]), matrix)
    torch.testing.assert_close(model(ids), expected, rtol=1e-5, atol=1e-6)


def test_counted_parameters_are_those_of_the_built_model(tied_or_not: Any) -> None:
    with torch.device("meta"):
        model = tied_or_not.build()
    cost = model_cost(tied_or_not)
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    tables = 1 if tied_or_not.tied else 2
    assert cost.embedding == tables * VOCAB * tied_or_not.width
    assert cost.state_bytes == 16 * cost.parameters


@torch.no_grad()
def test_counted_flops_are_those_that_torch_counts(tied_or_not: Any) -> None:
    model, ids = tied_or_not.build(), torch.zeros(1, CONTEXT, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(ids)
    counts = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    matrices = counts["aten.mm"] + counts.get("aten.addmm", 0)
    if isinstance(tied_or_not, MambaConfig):
        # torch does not look into the scan: 7 a number of the state and position, as is said there.
        scanned = tied_or_not.depth * CONTEXT * tied_or_not.channels * tied_or_not.state_size
        expected = matrices + counts["aten.convolution"] + 7 * scanned
    else:
        # torch counts attention over the whole square; causally, half of it is needed.
        expected = matrices + counts["aten.bmm"] / 2
    cost = model_cost(tied_or_not)
    assert cost.forward_flops_a_token * CONTEXT == expected
    assert cost.train_flops_a_token == 3 * cost.forward_flops_a_token


def test_counted_cache_bytes_are_those_of_a_cache_in_bf16(config: Any) -> None:
    cache = config.build().new_cache(1, torch.bfloat16)
    tensors = [value for value in dataclasses.astuple(cache) if isinstance(value, torch.Tensor)]
    assert model_cost(config).cache_bytes == sum(value.nbytes for value in tensors)


def test_weight_decay_is_for_matrices_alone(tied_or_not: Any) -> None:
    model = tied_or_not.build()
    groups = AdamWConfig().build(model).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    matrices = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv1d)
    }
    assert {name for name, p in model.named_parameters() if id(p) in decayed} == matrices


def test_the_sum_of_costs_is_that_of_the_scores(tied_or_not: Any) -> None:
    model, ids, targets = tied_or_not.build(), tokens(), tokens()
    weight = torch.rand(targets.shape)
    costs = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), reduction="none")
    expected = (costs.view_as(weight) * weight).sum()
    torch.testing.assert_close(model(ids, targets=targets, weight=weight), expected)


def test_every_weight_gets_a_gradient(tied_or_not: Any) -> None:
    model = tied_or_not.build()
    F.cross_entropy(model(tokens()).flatten(0, 1), tokens().flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_reset_fills_every_weight(config: Any) -> None:
    torch.manual_seed(3)
    expected = config.build().state_dict()
    with torch.device("meta"):
        model = config.build()
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.fill_(torch.nan)
    torch.manual_seed(3)
    model.reset()
    for name, value in model.state_dict().items():
        assert torch.isfinite(value).all(), name
        assert value.std() == pytest.approx(expected[name].std().item(), rel=0.5, abs=1e-6), name


def test_the_stream_keeps_its_precision_in_bf16(model: Any) -> None:
    ids = tokens()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.hidden(ids, [0, 3])
        logits, cached = model(ids), model(ids, model.new_cache(len(ids)))
    assert {value.dtype for value in hidden.values()} == {torch.float32}
    # bf16 has 8 bits: a block's products are off by 2^-8 of their size, or a few times that.
    scale = model(ids).std()
    assert (logits - model(ids)).std() < 0.05 * scale
    assert (cached - logits).abs().max() < 0.05 * scale


def test_a_saved_config_is_read_back_as_what_it_was(config: Any) -> None:
    saved = json.loads(json.dumps(to_dict(config)))
    assert decoder_config(saved) == config
    assert from_dict(type(config), saved) == config


def test_a_saved_config_without_a_field_is_refused_by_name(config: Any) -> None:
    saved = to_dict(config)
    del saved["width"]
    with pytest.raises(ValueError, match=f"width: missing from a saved {type(config).__name__}"):
        decoder_config(saved)


def test_the_same_seed_gives_the_same_weights(model: Any) -> None:
    torch.manual_seed(7)
    one = model.config.build().state_dict()
    torch.manual_seed(7)
    two = model.config.build().state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_rejects_a_sequence_longer_than_the_context(model: Any) -> None:
    with pytest.raises(ValueError, match="33 tokens do not fit a context of 32"):
        model(tokens(length=CONTEXT + 1))
    with pytest.raises(ValueError, match="33 tokens do not fit a context of 32"):
        model.hidden(tokens(length=CONTEXT + 1), [1])


def test_rejects_a_token_more_than_the_cache_has_room_for(model: Any) -> None:
    cache = model.new_cache(2)
    model(tokens(), cache)
    with pytest.raises(ValueError, match="33 tokens do not fit a context of 32"):
        model(tokens(length=1), cache)


@pytest.mark.parametrize("layer", [-1, 4])
def test_rejects_a_layer_that_is_not_there(model: Any, layer: int) -> None:
    with pytest.raises(ValueError, match=rf"layer {layer} is not in 0\.\.3"):
        model.hidden(tokens(), [0, layer])


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name in COUNTED for size in COUNTED[name]]
)
def test_rejects_a_size_below_1(name: str, size: str) -> None:
    sizes: dict[str, Any] = {size: 0}
    with pytest.raises(ValueError, match=f"{size} 0 must be at least 1"):
        replace(SMALL[name], **sizes)


def test_rejects_patches_where_ids_are_read(model: Any) -> None:
    patches = torch.zeros(2, CONTEXT, 12)
    with pytest.raises(ValueError, match="the model reads ids, not patches; build it with patch_"):
        model(tokens(), patches=patches)
    with pytest.raises(ValueError, match="the model reads ids, not patches; build it with patch_"):
        model.hidden(tokens(), [1], patches)
