import pytest
import torch
from torch import nn

from toto.models import LlamaConfig
from toto.tokenizers import DVAEConfig
from toto.train.optimizer import AdamWConfig


def names(model: nn.Module, group: int) -> set[str]:
    chosen = {id(p) for p in AdamWConfig().build(model).param_groups[group]["params"]}
    return {name for name, p in model.named_parameters() if id(p) in chosen}


def llama(*, tied: bool) -> nn.Module:
    return LlamaConfig(
        vocab_size=11, width=8, depth=2, heads=2, mlp_width=12, context=8, tied=tied
    ).build()


@pytest.mark.parametrize("tied", [True, False])
def test_norms_and_embeddings_are_not_decayed(tied: bool) -> None:
    model = llama(tied=tied)
    every = {name for name, _ in model.named_parameters()}
    plain = names(model, 1)
    assert plain == {name for name in every if "norm" in name} | {"embedding.weight"}
    assert names(model, 0) == every - plain


def test_biases_are_not_decayed() -> None:
    model = DVAEConfig(vocab_size=8, width=4, decoder_stem=4, blocks_per_group=1).build()
    assert names(model, 0) == {n for n, _ in model.named_parameters() if n.endswith("weight")}
    assert names(model, 1) == {n for n, _ in model.named_parameters() if n.endswith("bias")}


def test_settings_arrive() -> None:
    config = AdamWConfig(betas=(0.8, 0.7), eps=1e-5, weight_decay=0.3)
    decayed, plain = config.build(llama(tied=False)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    for group in (decayed, plain):
        assert (group["betas"], group["eps"], group["lr"]) == ((0.8, 0.7), 1e-5, 0.0)


def test_only_the_decayed_shrink_without_a_gradient() -> None:
    model = llama(tied=False)
    optimizer = AdamWConfig(weight_decay=0.5).build(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    for name, value in model.state_dict().items():
        still = "norm" in name or name == "embedding.weight"
        torch.testing.assert_close(value, before[name] * (1.0 if still else 0.95))
