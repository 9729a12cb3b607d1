"""What every registered decoder must do, whatever is inside."""

from typing import Any

import pytest
import torch

from toto.models import MODELS

CONTEXT, VOCAB = 32, 23


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    config = MODELS[request.param](
        vocab_size=VOCAB, width=16, depth=3, heads=2, mlp_width=24, context=CONTEXT, init_std=0.3
    )
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
