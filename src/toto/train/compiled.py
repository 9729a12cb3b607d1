"""Whether a training step is compiled, and how: block by block, the loss, C++ on some CPUs.

One block is compiled and serves all of them, so that a deeper model takes no longer to compile.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from toto.models import Decoder
from toto.models.attention import causal_attention
from toto.models.cpu_kernels import (
    build,
    built_add,
    built_attention,
    built_gate,
    built_score_slopes,
)
from toto.models.cross_entropy import score_slopes
from toto.models.llama import SwiGLU
from toto.runtime.cpu_library import compiler, suits

WORTH_FLOPS = {"cpu": 1e14, "cuda": 1e18}
"""Training FLOPs of one rank from which compiling pays many times over. CPU, measured at 20 M
parameters: it takes 8 s, which 11 steps of 0.48 TFLOP save, 5e12. A demo's 2e13 stay plain, so that
it needs no compiler. CUDA: not measured; two minutes to compile are repaid by a third of six
minutes at 300 TFLOP/s, 1e17."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compilation:
    """What was decided.

    Attributes:
        on: whether to compile.
        why: a few words for the log.
    """

    on: bool
    why: str


def resolve_compile(wanted: str, place: torch.device, *, flops: float) -> Compilation:
    """Decide whether to compile; the same for every start of a run on one kind of device.

    A compiled step rounds otherwise than a plain one, so that a run must not change between them.
    The decision therefore looks at what the run computes, and not at how fast it turns out to be.

    Args:
        wanted: "on", "off", or "auto": where the run is long enough.
        place: the device that computes.
        flops: of the whole run's training on one rank (`toto.models.flops`).

    Raises:
        ValueError: for any other value, or if it is "on" and there is no compiler.
    """
    if wanted not in ("auto", "on", "off"):
        raise ValueError(f"compile {wanted!r} is unknown; use 'auto', 'on' or 'off'")
    missing = _missing_compiler(place)
    if wanted == "on":
        if missing:
            raise ValueError(f"compile 'on' finds no {missing}; install it, or use 'off'")
        return Compilation(on=True, why="asked for")
    if wanted == "off":
        return Compilation(on=False, why="asked for")
    worth = WORTH_FLOPS.get(place.type, float("inf"))
    if flops < worth:
        return Compilation(
            on=False, why=f"{flops:.1e} FLOPs a rank are fewer than the {worth:.0e} that repay it"
        )
    if missing:
        return Compilation(on=False, why=f"it would pay, but there is no {missing}")
    return Compilation(on=True, why=f"{flops:.1e} FLOPs a rank repay it")


def compile_decoder(model: Decoder) -> None:
    """Compile the training step of a decoder, in place; nothing is compiled before its first use.

    Call it on the fresh model, before it is spread over ranks: what wraps a block later then stays
    outside of what is compiled. Parameters keep their names. Passes without gradients, validation
    and generation among them, take the plain lines, since every new shape would compile anew.
    """
    built = not torch.cuda.is_available() and suits()
    if built:
        build()
    for block in model.blocks:
        if built:
            _use_built(block)
        block.forward = _in_training(block.forward)
    model.norm.forward = _in_training(model.norm.forward)
    loss = model.cross_entropy
    if built:
        loss.score_slopes, loss.add = built_score_slopes, built_add
    else:
        loss.score_slopes = _in_training(score_slopes, always=True)


def _use_built(block: torch.nn.Module) -> None:
    attention: Any = getattr(block, "attention", None)
    if attention is not None and attention.attend is causal_attention:
        attention.attend = built_attention
    mlp: Any = getattr(block, "mlp", None)
    if isinstance(mlp, SwiGLU):
        mlp.gate = built_gate


def _in_training(plain: Callable[..., Any], *, always: bool = False) -> Callable[..., Any]:
    # Shapes never change within training; dynamic ones would make slower code.
    compiled = torch.compile(plain, dynamic=False)

    def call(*args: Any) -> Any:
        return (compiled if always or torch.is_grad_enabled() else plain)(*args)

    return call


def _missing_compiler(place: torch.device) -> str | None:
    """Name what torch.compile needs and does not find here."""
    if place.type == "cuda":
        if find_spec("triton") is None:
            return "triton"
        names = [os.environ.get("CC", ""), "gcc", "clang", "cc"]
        return None if any(map(shutil.which, names)) else "C compiler (gcc)"
    name = compiler()
    return None if shutil.which(name) else f"C++ compiler ({name})"
