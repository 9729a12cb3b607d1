import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from toto.models import LlamaConfig
from toto.train.float8 import use_float8
from toto.train.objectives import next_token
from toto.types import Batch

CONFIG = LlamaConfig(vocab_size=37, width=32, depth=2, heads=2, mlp_width=40, context=16)
CPU = torch.device("cpu")


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The matrices that torchao is asked to convert; it stands aside itself."""
    names: list[str] = []

    def convert(module: nn.Module, *, config: Any, module_filter_fn: Callable[..., bool]) -> None:
        assert config == {"emulate": True}
        names.extend(
            name for name, child in module.named_modules() if module_filter_fn(child, name)
        )

    fake = ModuleType("torchao.float8")
    fake.convert_to_float8_training = convert  # pyright: ignore[reportAttributeAccessIssue]
    fake.Float8LinearConfig = dict  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.float8", fake)
    return names


def test_matrices_of_blocks_whose_sides_are_multiples_of_16_are_chosen(chosen: list[str]) -> None:
    use_float8(CONFIG.build(), CPU, emulated=True)
    # The MLP is 40 wide: `down` has a side that is no multiple of 16, `gate_up`'s 80 is one.
    kinds = ("attention.qkv", "attention.out", "mlp.gate_up")
    assert chosen == [f"{layer}.{kind}" for layer in range(2) for kind in kinds]


def test_a_model_without_such_matrices_is_refused(chosen: list[str]) -> None:
    narrow = replace(CONFIG, width=24, mlp_width=12)
    with pytest.raises(ValueError, match="FP8 needs matrices whose sides are multiples of 16"):
        use_float8(narrow.build(), CPU, emulated=True)
    assert not chosen


@pytest.mark.usefixtures("chosen")
def test_a_device_without_fp8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"compute capability 8\.9, cpu is none; use bf16"):
        use_float8(CONFIG.build(), CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with pytest.raises(ValueError, match=r"compute capability 8\.9, cuda:0 is none; use bf16"):
        use_float8(CONFIG.build(), torch.device("cuda", 0))


def test_without_torchao_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ValueError, match=r"FP8 needs torchao.*pip install 'toto-video\[fp8\]'"):
        use_float8(CONFIG.build(), CPU, emulated=True)


def test_emulated_fp8_is_near_fp32() -> None:
    pytest.importorskip("torchao", reason="needs the extra `fp8`")
    model = replace(CONFIG, mlp_width=48, init_std=0.2).build()
    names = list(model.state_dict())
    batch = Batch(ids=torch.randint(37, (2, 17)), weight=torch.ones(2, 16))
    exact = next_token(model, batch)
    use_float8(model, CPU, emulated=True)
    assert list(model.state_dict()) == names
    loss = next_token(model, batch)
    assert loss != exact
    # FP8 keeps 4 bits: 2^-4 of a number, and the loss is a mean over many.
    torch.testing.assert_close(loss, exact, rtol=2**-4, atol=0)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
