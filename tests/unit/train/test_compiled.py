import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from toto.models import Llama, LlamaConfig
from toto.runtime.parallel import whole
from toto.train import compiled
from toto.train.compiled import compile_decoder, resolve_compile
from toto.train.objectives import next_token, token_losses
from toto.types import Batch

# torch.compile warns of what it does itself, and hides that, but not where warnings are errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated"),
]
CPU = torch.device("cpu")
# More layers than dynamo recompiles one function for, after which it goes on uncompiled.
DEEP = LlamaConfig(vocab_size=37, width=16, depth=12, heads=2, mlp_width=24, context=10)


def batch(config: LlamaConfig) -> Batch:
    ids = torch.randint(config.vocab_size, (2, config.context + 1))
    return Batch(ids=ids, weight=torch.rand(2, config.context))


class Counted:
    """A backend that counts the graphs it is given, and compiles nothing."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: Any) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    torch._dynamo.reset()
    backend = Counted()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    return backend


def step(model: Llama, one: Batch) -> tuple[Tensor, list[Tensor]]:
    loss = next_token(model, one)
    return loss, list(torch.autograd.grad(loss, list(model.parameters())))


def test_one_block_is_compiled_for_all_and_names_stay(counted: Counted) -> None:
    model, one = DEEP.build(), batch(DEEP)
    names = list(model.state_dict())
    expected = step(model, one)
    compile_decoder(model)
    assert list(model.state_dict()) == names
    assert counted.graphs == 0  # nothing before its first use
    for _ in range(2):
        found = step(model, one)
    assert counted.graphs == 2  # the block and the loss, each as one graph
    assert torch.equal(found[0], expected[0])
    for one_gradient, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one_gradient, other, rtol=1e-5, atol=1e-8)


@pytest.fixture
def alone() -> Iterator[DeviceMesh]:
    """A group of this process only, over which a model can be sharded."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
def test_compiled_blocks_are_spread_over_ranks(
    counted: Counted, alone: DeviceMesh, kind: str, recomputed: bool
) -> None:
    """Loss, all gradients and their names are those of the plain model on one device."""
    model, one = DEEP.build(), batch(DEEP)
    expected = step(model, one)
    compile_decoder(model)
    if recomputed:
        for block in model.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if kind == "fsdp":
        for block in model.blocks:
            fully_shard(block, mesh=alone)
        spread = fully_shard(model, mesh=alone)
    else:
        spread = DistributedDataParallel(model)
    loss = next_token(spread, one)
    loss.backward()
    assert torch.equal(loss, expected[0])
    assert 0 < counted.graphs <= 2
    for parameter, wanted in zip(model.parameters(), expected[1], strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(whole(parameter.grad), wanted, rtol=1e-5, atol=1e-8)


@torch.no_grad()
def test_validation_and_generation_are_not_compiled(counted: Counted) -> None:
    model, one = DEEP.build(), batch(DEEP)
    compile_decoder(model)
    token_losses(model, one)
    model(one.ids[:, :3], cache=model.new_cache(2))
    assert counted.graphs == 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_step_is_the_plain_one(precision: str) -> None:
    """In fp32 up to the order of sums; in bf16 as near to plain fp32 as plain bf16 is."""
    torch._dynamo.reset()
    config = LlamaConfig(
        vocab_size=515, width=64, depth=3, heads=2, mlp_width=171, context=64, init_std=0.1
    )
    exact, one = config.build(), batch(config)
    other = copy.deepcopy(exact)
    compile_decoder(other)
    expected = step(exact, one)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        plain, found = step(exact, one), step(other, one)
    if precision == "fp32":
        torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0)
        for gradient, wanted in zip(found[1], expected[1], strict=True):
            assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()
        return
    torch.testing.assert_close(found[0], expected[0], rtol=2e-3, atol=0)
    for gradient, eager, wanted in zip(found[1], plain[1], expected[1], strict=True):
        away, eager_away = (gradient - wanted).norm(), (eager - wanted).norm()
        assert away <= 1.5 * eager_away + 1e-3 * wanted.norm()


def test_only_runs_that_repay_it_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda _: "/a/compiler")
    short, long = (resolve_compile("auto", CPU, flops=flops) for flops in (1e12, 1e18))
    assert (short.on, long.on) == (False, True)
    assert "1.0e+12 FLOPs a rank are fewer than" in short.why
    assert resolve_compile("on", CPU, flops=1e12).on
    assert not resolve_compile("off", CPU, flops=1e18).on
    assert not resolve_compile("auto", torch.device("cuda"), flops=1e15).on


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"compile 'on' finds no C\+\+ compiler \(no-such-compil"):
        resolve_compile("on", CPU, flops=1e18)
    choice = resolve_compile("auto", CPU, flops=1e18)
    assert not choice.on
    assert choice.why == "it would pay, but there is no C++ compiler (no-such-compiler)"
    assert not resolve_compile("off", CPU, flops=1e18).on


def test_triton_and_its_compiler_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(compiled, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="finds no triton; install it, or use 'off'"):
        resolve_compile("on", cuda, flops=1e20)
    monkeypatch.setattr(compiled, "find_spec", lambda _: object())
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    with pytest.raises(ValueError, match=r"finds no C compiler \(gcc\)"):
        resolve_compile("on", cuda, flops=1e20)


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="compile 'yes' is unknown; use 'auto', 'on' or 'off'"):
        resolve_compile("yes", CPU, flops=1e18)
