"""The CPU's own operators against the textbook's in fp64; at least as near to it as torch's are."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toto.models import LlamaConfig, cpu_kernels
from toto.models.attention import bidirectional_attention, causal_attention, set_direction
from toto.models.cache import KVCache
from toto.models.cpu_kernels import (
    build,
    built_add,
    built_attention,
    built_gate,
    built_score_slopes,
)
from toto.models.cross_entropy import score_slopes
from toto.models.gate import silu_gate
from toto.models.rope import rotary_tables
from toto.runtime.cpu_library import compiler, suits
from toto.train.compiled import compile_decoder

needed = pytest.mark.skipif(
    not suits() or shutil.which(compiler()) is None,
    reason="needs a processor with AVX512's bf16 and no AMX, and a C++ compiler",
)


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    if suits() and shutil.which(compiler()):
        build()


def given(sequences: int, places: int, width: int) -> tuple[Tensor, Tensor]:
    """What a matrix gives to attention, and the slope of its output."""
    torch.manual_seed(places)
    qkv = torch.randn(sequences, places, 3 * width).bfloat16()
    return qkv, torch.randn(sequences, places, width).bfloat16()


def with_slopes(
    attend: Any, tensors: tuple[Tensor, Tensor], heads: int, dtype: torch.dtype, *, turned: bool
) -> list[Tensor]:
    """The output, and the slopes of queries, keys and values."""
    qkv, slope = (tensor.to(dtype) for tensor in tensors)
    width = slope.shape[-1] // heads
    angles = rotary_tables(slope.shape[1], width, 100.0) if turned else None
    # fp64 stays fp64 where `rotate` would turn in fp32.
    kept = qkv.clone().requires_grad_()
    if dtype == torch.float64 and angles is not None:
        mixed = attend(turned_exactly(kept, angles, heads), None, None, 0, heads=heads)
    else:
        mixed = attend(kept, angles, None, 0, heads=heads)
    (by_qkv,) = torch.autograd.grad(mixed, kept, slope)
    return [mixed.detach(), *by_qkv.chunk(3, -1)]


def turned_exactly(qkv: Tensor, angles: tuple[Tensor, Tensor], heads: int) -> Tensor:
    q, k, v = qkv.chunk(3, -1)
    cos, sin = (table.double()[:, None] for table in angles)
    parts = []
    for part in (q, k):
        split = part.unflatten(-1, (heads, -1))
        first, second = split.chunk(2, -1)
        parts.append((split * cos + torch.cat([-second, first], -1) * sin).flatten(-2))
    return torch.cat([*parts, v], -1)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


# Around blocks of 64, 128 and 256, odd and even, and one place alone.
PLACES = [2, 31, 64, 65, 128, 129, 255, 256, 257, 513, 1027]


@needed
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("width", [32, 64, 96, 128])
def test_attention_is_as_near_to_fp64_as_that_of_torch(places: int, width: int) -> None:
    tensors = given(2, places, 3 * width)
    for turned in (False, True):
        results = partial(with_slopes, tensors=tensors, heads=3, turned=turned)
        exact = results(causal_attention, dtype=torch.float64)
        ours = results(built_attention, dtype=torch.bfloat16)
        theirs = results(causal_attention, dtype=torch.bfloat16)
        for mine, other, wanted in zip(ours, theirs, exact, strict=True):
            assert mine.dtype == torch.bfloat16
            # A rounding to bf16 is 0.2 %; twice that, or a fifth more than torch where it has more.
            assert error(mine, wanted) <= max(1.2 * error(other, wanted), 4e-3)


@needed
def test_one_place_sees_itself() -> None:
    qkv, _ = given(1, 1, 64)
    assert torch.equal(built_attention(qkv, None, None, 0, heads=2), qkv[..., 128:])


@needed
def test_large_scores_do_not_overflow_and_the_scale_is_kept() -> None:
    qkv, _ = given(1, 300, 128)
    for scale in (0.01, 3.0, 100.0):
        wanted = causal_attention(qkv.double(), None, None, 0, heads=2, scale=scale)
        found = built_attention(qkv, None, None, 0, heads=2, scale=scale)
        assert found.isfinite().all()
        assert error(found, wanted) < 4e-3


@needed
def test_what_comes_later_changes_no_bit() -> None:
    qkv, slope = given(1, 300, 128)
    run = partial(with_slopes, heads=2, dtype=torch.bfloat16, turned=True)
    before = run(built_attention, (qkv, slope))
    for at in (1, 63, 64, 200, 299):
        changed = qkv.clone()
        changed[:, at:] = torch.randn_like(changed[:, at:])
        after = run(built_attention, (changed, slope))
        assert torch.equal(after[0][:, :at], before[0][:, :at])
        assert not torch.equal(after[0], before[0])


@needed
def test_what_is_not_a_number_stays_none() -> None:
    qkv, _ = given(1, 40, 64)
    qkv[0, 20, 3] = torch.nan
    found = built_attention(qkv, None, None, 0, heads=2)
    assert found[0, :20].isfinite().all()
    assert found[0, 20, :32].isnan().all()
    gate_up = torch.randn(2, 64).bfloat16()
    gate_up[0, 3] = torch.nan
    assert built_gate(gate_up).isnan().nonzero().tolist() == [[0, 3]]
    for at in (0, 17, 49, 50):
        scores = torch.randn(2, 51).bfloat16()
        scores[1, at] = torch.nan
        loss, _ = built_score_slopes(scores, torch.tensor([3, 3]), torch.ones(2))
        assert loss.isnan()


@needed
@pytest.mark.parametrize("width", [1, 8, 16, 100, 1536])
def test_the_gate_is_nearer_to_fp64_than_that_of_torch(width: int) -> None:
    torch.manual_seed(width)
    gate_up, slope = 3 * torch.randn(3, 5, 2 * width), torch.randn(3, 5, width)
    results = []
    for gate, dtype in (
        (silu_gate, torch.float64),
        (built_gate, torch.bfloat16),
        (silu_gate, torch.bfloat16),
    ):
        read = gate_up.bfloat16().to(dtype).requires_grad_()
        out = gate(read)
        results.append((out.detach(), *torch.autograd.grad(out, read, slope.bfloat16().to(dtype))))
    for wanted, found, other in zip(*results, strict=True):
        assert found.dtype == torch.bfloat16
        assert error(found, wanted) <= max(error(other, wanted), 3e-3)


@needed
@pytest.mark.parametrize("ids", [1, 15, 16, 17, 8195])
def test_slopes_of_scores_are_those_of_torch(ids: int) -> None:
    torch.manual_seed(ids)
    scores = (4 * torch.randn(37, ids)).bfloat16()
    targets, weight = torch.randint(ids, (37,)), torch.rand(37)
    wanted_loss, wanted = score_slopes(scores.double(), targets, weight.double())
    loss, slopes = built_score_slopes(scores.clone(), targets, weight)
    # Exponentials are right to 3e-6, and so is each place's loss in nats.
    assert abs(loss.double() - wanted_loss) < 3e-6 * len(scores)
    assert torch.allclose(slopes.double(), wanted, rtol=4e-3, atol=2e-6)


@needed
def test_a_target_that_is_no_id_is_refused() -> None:
    for wrong in (-1, 8):
        with pytest.raises(RuntimeError, match=f"id {wrong} is none of 8"):
            built_score_slopes(torch.zeros(1, 8).bfloat16(), torch.tensor([wrong]), torch.ones(1))


@needed
def test_parts_are_added_as_torch_adds_them() -> None:
    for size in (1, 15, 16, 70_000):
        total, part = torch.randn(1, size), torch.randn(1, size).bfloat16()
        wanted = total + part
        built_add(total, part)
        assert torch.equal(total, wanted)


@needed
def test_the_number_of_threads_changes_no_bit() -> None:
    tensors, threads = given(2, 300, 192), torch.get_num_threads()
    scores, targets, weight = (
        torch.randn(64, 99).bfloat16(),
        torch.randint(99, (64,)),
        torch.rand(64),
    )
    gate_up = torch.randn(64, 128).bfloat16()
    try:
        found = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(
                [
                    *with_slopes(built_attention, tensors, 3, torch.bfloat16, turned=True),
                    *built_score_slopes(scores.clone(), targets, weight),
                    built_gate(gate_up),
                ]
            )
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@needed
def test_the_operators_are_declared_as_torch_wants_them() -> None:
    qkv, _ = given(1, 40, 64)
    angles = rotary_tables(40, 32, 100.0)
    check = torch.library.opcheck
    check(torch.ops.toto_cpu.attend, (qkv.requires_grad_(), *angles, 2, 0.2))
    check(torch.ops.toto_cpu.gated, (torch.randn(3, 40).bfloat16().requires_grad_(),))


def test_what_it_is_not_for_goes_to_torch() -> None:
    attend = [partial(one, heads=2) for one in (built_attention, causal_attention)]
    for qkv, angles in (
        (given(1, 8, 64)[0].float(), rotary_tables(8, 32, 100.0)),
        (given(1, 8, 96)[0], None),
    ):
        found, wanted = (one(qkv, angles, None, 0) for one in attend)
        assert torch.equal(found, wanted)
    caches = [
        KVCache.empty(
            layers=1, batch=1, heads=2, context=8, head_width=32, dtype=torch.bfloat16,
            device=torch.device("cpu"),
        )
        for _ in range(2)
    ]  # fmt: skip
    qkv, _ = given(1, 8, 64)
    found, wanted = (one(qkv, None, kept, 0) for one, kept in zip(attend, caches, strict=True))
    assert torch.equal(found, wanted)
    assert torch.equal(caches[0].keys, caches[1].keys)
    numbers = torch.randn(3, 8)
    assert torch.equal(built_gate(numbers), silu_gate(numbers))
    targets, weight = torch.tensor([1, 0, 7]), torch.rand(3)
    found, wanted = (one(numbers, targets, weight) for one in (built_score_slopes, score_slopes))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    total = torch.zeros(3, 8)
    built_add(total, numbers)
    assert torch.equal(total, numbers)


@needed
# torch.compile warns of what it does itself.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
def test_a_compiled_decoder_uses_them() -> None:
    model = LlamaConfig(vocab_size=8, width=32, depth=2, heads=1, mlp_width=8, context=4).build()
    blocks: list[Any] = list(model.blocks)
    assert all(block.attention.attend is causal_attention for block in blocks)
    assert all(block.mlp.gate is silu_gate for block in blocks)
    compile_decoder(model)
    assert all(block.attention.attend is built_attention for block in blocks)
    assert all(block.mlp.gate is built_gate for block in blocks)
    assert model.cross_entropy.score_slopes is built_score_slopes


@needed
def test_what_attends_both_ways_is_left_as_it_is() -> None:
    model = LlamaConfig(vocab_size=8, width=32, depth=1, heads=1, mlp_width=8, context=4).build()
    set_direction(model, "bidirectional")
    compile_decoder(model)
    block: Any = model.blocks[0]
    assert block.attention.attend is bidirectional_attention


@pytest.mark.skipif(shutil.which(compiler()) is None, reason="needs a C++ compiler")
def test_a_source_that_does_not_compile_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "wrong.cpp"
    source.write_text("int wrong() { return nothing; }\n")
    monkeypatch.setattr(cpu_kernels, "SOURCES", [source])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(
        ValueError, match=r"does not compile cpu_kernels: .*; use --compile off"
    ) as e:
        build.__wrapped__()
    assert "\n" not in str(e.value)
    assert not list((tmp_path / "cache" / "toto").iterdir())
