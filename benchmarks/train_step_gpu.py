"""The paper's sizes on one GPU: model FLOPs utilisation (MFU), memory, transformers beside them.

Whole steps (forward, backward, fused AdamW) of random ids at the recipes' context, bf16 autocast,
compiled; `1b` also in FP8, where torchao is installed. MFU is causal FLOPs (`toto.models.flops`)
over the matrix products' ceiling measured in the same call; the share of the data sheet's 989
TFLOP/s of an H100 or H200 stands beside it. A micro-batch that does not fit is halved.

Without a GPU the same lines run at a tiny size, which says nothing about one.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.train_step import Transformers, ours, theirs
from toto.models.flops import model_cost
from toto.models.llama import LlamaConfig
from toto.recipes import PRETRAIN
from toto.runtime.ceiling import matmul_flops_per_s
from toto.runtime.devices import peak_memory_bytes
from toto.types import Batch

SHEET_FLOPS = 989e12
"""Dense bf16 of an H100 or H200 by its data sheet."""
SIZES = {"base": 32, "large": 16, "1b": 16}
"""Sequences a step to begin with."""
FLOAT8 = ("1b",)
TINY = LlamaConfig(vocab_size=35, width=32, depth=2, heads=2, mlp_width=48, context=32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What was measured of one step.

    Attributes:
        rows: sequences that it had.
        tokens_per_s: of the median step.
        memory_bytes: most that was held.
    """

    rows: int
    tokens_per_s: float
    memory_bytes: int


def run() -> Iterator[str]:
    """Yield the lines of every size; without a GPU those of a tiny one, and that they are."""
    if torch.cuda.is_available():
        place = torch.device("cuda", 0)
        yield f"training steps on {torch.cuda.get_device_name(place)}"
        configs = {name: PRETRAIN[name]().model for name in SIZES}
        yield from lines(configs, SIZES, place, steps=10)
        return
    tiny = dict.fromkeys(FLOAT8, TINY)
    rows = dict.fromkeys(FLOAT8, 2)
    yield from lines(tiny, rows, torch.device("cpu"), steps=2, compiled=False)
    yield "no GPU here: the lines above are of a tiny model on the CPU, uncompiled"
    yield "no GPU figure exists"


def lines(
    configs: dict[str, Any],
    rows: dict[str, int],
    place: torch.device,
    *,
    steps: int,
    compiled: bool = True,
) -> Iterator[str]:
    """Yield one line a size and kind of step."""
    ceiling = matmul_flops_per_s("bf16", place)
    yield f"ceiling: {ceiling / 1e12:.1f} TFLOP/s of bf16 matrix products"
    for name, config in configs.items():
        flops = model_cost(config).train_flops_a_token
        kinds: dict[str, Callable[[Batch], Any]] = {
            "ours, bf16": lambda batch, config=config: ours(
                config, batch, "bf16", compiled=compiled
            ),
            "transformers, bf16": lambda batch, config=config: theirs(
                Transformers, config, batch, "bf16", compiled=compiled
            ),
        }
        if name in FLOAT8:
            kinds["ours, FP8"] = lambda batch, config=config: ours(
                config, batch, "bf16", compiled=compiled, float8=True
            )
        for kind, make in kinds.items():
            label = f"{name:<6} {kind:<20}"
            try:
                speed = measured(make, config, rows[name], place, steps=steps)
            except ValueError as error:  # FP8 that is not installed here
                yield f"{label} not measured: {error}"
                continue
            reached = speed.tokens_per_s * flops
            yield (
                f"{label} {speed.tokens_per_s:12,.0f} tokens/s  MFU {reached / ceiling:6.1%} "
                f"({reached / SHEET_FLOPS:.1%} of 989)  {speed.memory_bytes / 1e9:6.1f} GB  "
                f"{speed.rows} x {config.context} tokens"
            )


def measured(
    make: Callable[[Batch], Any], config: LlamaConfig, rows: int, place: torch.device, *, steps: int
) -> Speed:
    """Time steps of as many sequences as fit, from `rows` down by halves."""
    while True:
        try:
            return _measured(make, config, rows, place, steps=steps)
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
            rows //= 2
        torch.cuda.empty_cache()  # outside of the handler, whose traceback holds the tensors


def _measured(
    make: Callable[[Batch], Any], config: LlamaConfig, rows: int, place: torch.device, *, steps: int
) -> Speed:
    torch.manual_seed(0)
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    ids = torch.randint(config.vocab_size - 3, (rows, config.context), device=place)
    batch = Batch(ids=ids, weight=torch.ones(rows, config.context - 1, device=place))
    step = make(batch)
    for _ in range(3):
        step()
    times_s = []
    for _ in range(steps):
        began = time.perf_counter()
        step().item()  # which waits for the device
        times_s.append(time.perf_counter() - began)
    memory = torch.cuda.max_memory_allocated(place) if place.type == "cuda" else peak_memory_bytes()
    tokens = rows * (config.context - 1)
    return Speed(
        rows=rows,
        tokens_per_s=tokens / sorted(times_s)[len(times_s) // 2],
        memory_bytes=memory,
    )
