"""Which way a decoder attends, and what that forbids."""

from typing import Any

import pytest
import torch

from toto.models import MODELS
from toto.models.attention import set_direction

SIZES = {"vocab_size": 19, "width": 16, "depth": 3, "context": 16}
WITH_ATTENTION = {
    "llama": MODELS["llama"](**SIZES, heads=2, mlp_width=24, init_std=0.3),
    "gpt2": MODELS["gpt2"](**SIZES, heads=2, init_std=0.3),
}


@pytest.fixture(params=sorted(WITH_ATTENTION))
def model(request: pytest.FixtureRequest) -> Any:
    return WITH_ATTENTION[request.param].build().eval().requires_grad_(False)


def features(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model.hidden(ids, [3])[3]


def test_a_late_token_changes_early_features_only_when_bidirectional(model: Any) -> None:
    ids = torch.randint(19, (1, 12))
    other = ids.clone()
    other[0, 9] = (other[0, 9] + 1) % 19
    assert torch.equal(features(model, ids)[:, :9], features(model, other)[:, :9])
    set_direction(model, "bidirectional")
    changed = (features(model, ids) - features(model, other)).abs().amax(-1)
    assert (changed > 0).all()


def test_causal_again_is_as_before(model: Any) -> None:
    ids = torch.randint(19, (2, 12))
    before = features(model, ids)
    set_direction(model, "bidirectional")
    assert not torch.equal(features(model, ids), before)
    set_direction(model, "causal")
    assert torch.equal(features(model, ids), before)


def test_weights_and_config_know_nothing_of_it(model: Any) -> None:
    config, names = model.config, list(model.state_dict())
    set_direction(model, "bidirectional")
    assert model.config is config
    assert list(model.state_dict()) == names


def test_refuses_to_continue_a_sequence(model: Any) -> None:
    set_direction(model, "bidirectional")
    with pytest.raises(ValueError, match="layer 0 attends in both directions, so that no token"):
        model(torch.randint(19, (1, 4)), model.new_cache(1))


def test_a_mamba_reads_in_one_direction() -> None:
    model = MODELS["mamba"](**SIZES).build()
    set_direction(model, "causal")
    with pytest.raises(
        ValueError, match="a Mamba reads in one direction alone; --attention causal"
    ):
        set_direction(model, "bidirectional")
