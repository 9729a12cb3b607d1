"""Layer-wise decay of the learning rate, by the names of parameters."""

import pytest
import torch

from toto.models import MODELS
from toto.probe.classifier import INSIDE, HeadConfig, StoppedProbes, WholeClassifier
from toto.train.layer_decay import layer_scales
from toto.train.loop import train_steps
from toto.train.optimizer import AdamWConfig

LLAMA = MODELS["llama"](vocab_size=19, width=16, depth=3, heads=2, mlp_width=24, context=16)


def test_each_layer_has_its_factor() -> None:
    model = StoppedProbes(LLAMA.build(), HeadConfig(), 4)
    names = [name for name, _ in model.named_parameters()]
    scales = layer_scales(names, inside=INSIDE, layer=3, decay=0.5, head=3.0)
    assert scales["decoder.embedding.weight"] == 0.5**4
    assert scales["decoder.blocks.0.attention.qkv.weight"] == 0.5**3
    assert scales["decoder.blocks.1.mlp_norm.weight"] == 0.5**2
    assert scales["decoder.blocks.2.mlp.down.weight"] == 0.5
    assert scales["decoder.norm.weight"] == scales["decoder.head.weight"] == 1.0
    assert {scales[name] for name in names if name.startswith("probes.")} == {3.0}


def test_the_last_layer_that_is_read_is_next_to_the_head() -> None:
    model = WholeClassifier(LLAMA.build(), HeadConfig(), 4, layer=2)
    names = (name for name, _ in model.named_parameters())
    scales = layer_scales(names, inside=INSIDE, layer=2, decay=0.5)
    assert scales["decoder.blocks.1.mlp.down.weight"] == 0.5
    assert scales["decoder.blocks.0.mlp.down.weight"] == 0.25
    assert scales["head.classify.weight"] == 1.0


def test_patches_enter_at_the_bottom() -> None:
    names = ["decoder.projection.weight", "decoder.embedding.weight"]
    assert layer_scales(names, inside=INSIDE, layer=1, decay=0.5) == dict.fromkeys(names, 0.25)


def test_the_loop_multiplies_the_schedule_by_it() -> None:
    model = WholeClassifier(LLAMA.build(), HeadConfig(), 4, layer=3)
    scales = layer_scales(
        (name for name, _ in model.named_parameters()), inside=INSIDE, layer=3, decay=0.5
    )
    optimizer = AdamWConfig(weight_decay=0.0).build(model, lr_scales=scales)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ids = torch.randint(16, (2, 9))

    def loss(module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return module(batch).scores.logsumexp(-1).sum() + module.head.classify.weight.sum()

    # The head begins at almost nothing, and would let no gradient through.
    torch.nn.init.normal_(model.head.classify.weight)
    before["head.classify.weight"] = model.head.classify.weight.detach().clone()
    steps = train_steps(
        model, loss, iter([ids]), optimizer, lambda _: 1e-2, steps=range(1), clip_norm=1e9
    )
    assert len(list(steps)) == 1
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Adam's first step is the learning rate, wherever the gradient is far above eps.
            moved = (parameter.detach() - before[name]).abs().max().item()
            assert moved == pytest.approx(1e-2 * scales[name], rel=1e-2), name
        else:
            assert torch.equal(parameter, before[name]), name


def test_weights_that_are_decayed_or_not_stay_so() -> None:
    model = LLAMA.build()
    plain = AdamWConfig().build(model)
    names = [name for name, _ in model.named_parameters()]
    scaled = AdamWConfig().build(model, lr_scales=dict.fromkeys(names, 0.5))

    def decays(optimizer: torch.optim.AdamW) -> dict[int, float]:
        return {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}

    assert decays(plain) == decays(scaled)
    assert {group["lr_scale"] for group in scaled.param_groups if group["params"]} == {0.5}
