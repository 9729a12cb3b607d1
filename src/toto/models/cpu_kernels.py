"""What a compiled training step in bf16 takes of C++ on a CPU; `cpu_sources` holds it.

torch's flash attention reaches a third of what a processor's own bf16 products do where it has no
tile registers (Zen 4, torch 2.13), and its compiler's loops between the products take exponentials
of full fp32 precision, of a gate twice. Ours take half the time, and attention is nearer to fp64.
They are built when a training step is compiled, by the same compiler.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from toto.models.attention import Angles, causal_attention
from toto.models.cache import KVCache
from toto.models.cross_entropy import score_slopes
from toto.models.gate import silu_gate
from toto.runtime.cpu_library import load_library

SOURCES = [
    Path(__file__).with_name("cpu_sources") / name
    for name in ("attention.cpp", "elementwise.cpp", "lanes.h")
]
WIDTHS = 32
"""A head's width has to be a multiple of it: the bf16 numbers of a register."""


@cache
def build() -> None:
    """Compile the sources and declare their operators, once a process.

    Raises:
        ValueError: if the compiler refuses them.
    """
    load_library("cpu_kernels", SOURCES, instead="use --compile off")
    library = torch.library
    library.register_fake("toto_cpu::attend", _like_attend)
    library.register_fake("toto_cpu::attend_backward", lambda slope, qkv, *_: torch.empty_like(qkv))
    library.register_autograd("toto_cpu::attend", _attend_backward, setup_context=_keep_attend)
    library.register_fake("toto_cpu::gated", _like_gated)
    library.register_fake("toto_cpu::gated_backward", lambda _, gate_up: torch.empty_like(gate_up))
    library.register_autograd("toto_cpu::gated", _gated_backward, setup_context=_keep_gated)


def built_attention(
    qkv_BLD: Float[Tensor, "B L 3*D"],
    angles: Angles | None,
    cache: KVCache | None,
    layer: int,
    *,
    heads: int,
    scale: float | None = None,
) -> Float[Tensor, "B L D"]:
    """Do what `causal_attention` does, faster where it can; call `build` before.

    It can in bf16 without a cache, with heads whose width is a multiple of `WIDTHS`.
    """
    width = qkv_BLD.shape[-1] // 3 // heads
    if cache is not None or qkv_BLD.dtype != torch.bfloat16 or width % WIDTHS:
        return causal_attention(qkv_BLD, angles, cache, layer, heads=heads, scale=scale)
    cos_LK, sin_LK = angles or (qkv_BLD.new_empty(0, dtype=torch.float32),) * 2
    return torch.ops.toto_cpu.attend(
        qkv_BLD, cos_LK, sin_LK, heads, width**-0.5 if scale is None else scale
    )[0]


def built_gate(gate_up_BLF: Float[Tensor, "B L 2*F"]) -> Float[Tensor, "B L F"]:
    """Do what `silu_gate` does, in bf16 with one rounding; call `build` before."""
    if gate_up_BLF.dtype != torch.bfloat16:
        return silu_gate(gate_up_BLF)
    return torch.ops.toto_cpu.gated(gate_up_BLF)


def built_score_slopes(
    scores_RV: Float[Tensor, "R V"], targets_R: Int64[Tensor, " R"], weight_R: Float32[Tensor, " R"]
) -> tuple[Float32[Tensor, ""], Float[Tensor, "R V"]]:
    """Do what `score_slopes` does, in bf16 where the scores lie; call `build` before."""
    if scores_RV.dtype != torch.bfloat16:
        return score_slopes(scores_RV, targets_R, weight_R)
    return torch.ops.toto_cpu.score_slopes(scores_RV, targets_R, weight_R), scores_RV


def built_add(total: Float32[Tensor, "V D"], part: Float[Tensor, "V D"]) -> None:
    """Add to a sum in its own type; call `build` before."""
    if part.dtype != torch.bfloat16:
        total += part
    else:
        torch.ops.toto_cpu.add(total, part)


def _like_attend(qkv: Tensor, _cos: Tensor, _sin: Tensor, heads: int, _scale: float) -> Any:
    sequences, places, width = qkv.shape
    log_sums = qkv.new_empty((sequences, heads, places), dtype=torch.float32)
    return qkv.new_empty((sequences, places, width // 3)), log_sums


def _keep_attend(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *given, ctx.heads, ctx.scale = inputs
    ctx.save_for_backward(*given, *output)


def _attend_backward(ctx: Any, slope: Tensor, _by_log_sums: Tensor) -> tuple[Tensor | None, ...]:
    backward = torch.ops.toto_cpu.attend_backward
    by_qkv = backward(slope, *ctx.saved_tensors, ctx.heads, ctx.scale)
    return by_qkv, None, None, None, None


def _like_gated(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))


def _keep_gated(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gated_backward(ctx: Any, slope: Tensor) -> Tensor:
    return torch.ops.toto_cpu.gated_backward(slope, *ctx.saved_tensors)
