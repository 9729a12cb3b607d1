"""The CPU's own attention against the textbook's in fp64; at least as near to it as torch's is."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from toto.models import LlamaConfig, cpu_attention
from toto.models.cache import KVCache, causal_attention
from toto.models.cpu_attention import build, built_attention, can_build, compiler
from toto.train.compiled import compile_decoder

needed = pytest.mark.skipif(
    not can_build() or shutil.which(compiler()) is None,
    reason="needs a processor with AVX512's bf16 and no AMX, and a C++ compiler",
)


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    if can_build() and shutil.which(compiler()):
        build()


def given(sequences: int, heads: int, places: int, width: int) -> list[Tensor]:
    """Queries, keys and values as blocks give them, not contiguous, and the slope of the output."""
    shape = (sequences, places, heads, width)
    torch.manual_seed(places)
    return [torch.randn(shape).bfloat16().transpose(1, 2) for _ in range(4)]


def with_slopes(attend: object, tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    *qkv, slope = (tensor.to(dtype) for tensor in tensors)
    for tensor in qkv:
        tensor.requires_grad_()
    mixed = attend(*qkv, None, 0)  # type: ignore[operator]
    return [mixed.detach(), *torch.autograd.grad(mixed, qkv, slope)]


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


# Around blocks of 64, 128 and 256, odd and even, and one place alone.
PLACES = [2, 31, 64, 65, 128, 129, 255, 256, 257, 513, 1027]


@needed
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("width", [32, 64, 96, 128])
def test_output_and_slopes_are_as_near_to_fp64_as_those_of_torch(places: int, width: int) -> None:
    tensors = given(2, 3, places, width)
    exact = with_slopes(causal_attention, tensors, torch.float64)
    ours = with_slopes(built_attention, tensors, torch.bfloat16)
    theirs = with_slopes(causal_attention, tensors, torch.bfloat16)
    for mine, other, wanted in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        # A rounding to bf16 is 0.2 %; twice that, or a fifth more than torch where it has more.
        assert error(mine, wanted) <= max(1.2 * error(other, wanted), 4e-3)


@needed
def test_one_place_sees_itself() -> None:
    q, k, v, _ = given(1, 2, 1, 32)
    assert torch.equal(built_attention(q, k, v, None, 0), v)


@needed
def test_large_scores_do_not_overflow_and_the_scale_is_kept() -> None:
    q, k, v, _ = given(1, 2, 300, 64)
    for scale in (0.01, 3.0, 100.0):
        wanted = F.scaled_dot_product_attention(
            q.double(), k.double(), v.double(), is_causal=True, scale=scale
        )
        found = built_attention(q, k, v, None, 0, scale=scale)
        assert found.isfinite().all()
        assert error(found, wanted) < 4e-3


@needed
def test_what_comes_later_changes_no_bit() -> None:
    tensors = given(1, 2, 300, 64)
    before = with_slopes(built_attention, tensors, torch.bfloat16)
    for at in (1, 63, 64, 200, 299):
        changed = [tensor.clone() for tensor in tensors]
        for tensor in changed[:3]:
            tensor[:, :, at:] = torch.randn_like(tensor[:, :, at:])
        after = with_slopes(built_attention, changed, torch.bfloat16)
        assert torch.equal(after[0][:, :, :at], before[0][:, :, :at])
        assert not torch.equal(after[0], before[0])


@needed
def test_the_number_of_threads_changes_no_bit() -> None:
    tensors, threads = given(2, 3, 300, 64), torch.get_num_threads()
    try:
        found = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(with_slopes(built_attention, tensors, torch.bfloat16))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@needed
def test_the_operators_are_declared_as_torch_wants_them() -> None:
    q, k, v, _ = given(1, 2, 40, 32)
    qkv = [tensor.requires_grad_() for tensor in (q, k, v)]
    torch.library.opcheck(torch.ops.toto_cpu.causal_attention, (*qkv, 0.2))


def test_what_it_is_not_for_goes_to_the_attention_of_torch() -> None:
    q, k, v, _ = (tensor.float() for tensor in given(1, 2, 8, 32))
    assert torch.equal(built_attention(q, k, v, None, 0), causal_attention(q, k, v, None, 0))
    q, k, v, _ = given(1, 2, 8, 48)
    assert torch.equal(built_attention(q, k, v, None, 0), causal_attention(q, k, v, None, 0))
    q, k, v, _ = given(1, 2, 8, 32)
    caches = [
        KVCache.empty(
            layers=1, batch=1, heads=2, context=8, head_width=32, dtype=torch.bfloat16,
            device=q.device,
        )
        for _ in range(2)
    ]  # fmt: skip
    found, wanted = (
        attend(q, k, v, kept, 0)
        for attend, kept in zip((built_attention, causal_attention), caches, strict=True)
    )
    assert torch.equal(found, wanted)
    assert torch.equal(caches[0].keys, caches[1].keys)


@needed
# torch.compile warns of what it does itself.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
def test_a_compiled_decoder_uses_it() -> None:
    model = LlamaConfig(vocab_size=8, width=32, depth=2, heads=1, mlp_width=8, context=4).build()
    attentions: list[Any] = [block.attention for block in model.blocks]
    assert all(attention.attend is causal_attention for attention in attentions)
    compile_decoder(model)
    assert all(attention.attend is built_attention for attention in attentions)


@pytest.mark.skipif(shutil.which(compiler()) is None, reason="needs a C++ compiler")
def test_a_source_that_does_not_compile_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "wrong.cpp"
    source.write_text("int wrong() { return nothing; }\n")
    monkeypatch.setattr(cpu_attention, "SOURCE", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"does not compile wrong.cpp: .*; use --compile off") as e:
        build.__wrapped__()
    assert "\n" not in str(e.value)
    assert not list((tmp_path / "cache" / "toto").iterdir())


def test_it_is_built_for_nothing_but_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    capable = {"avx512_bf16": True, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable)
    monkeypatch.setattr(sys, "platform", "linux")
    assert can_build()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not can_build()
    monkeypatch.setattr(sys, "platform", "linux")
    capable["amx_bf16"] = True
    assert not can_build()
