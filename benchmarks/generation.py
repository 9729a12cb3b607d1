"""Decoding of the `base` model, 120 M, against transformers' `generate`, on one thread.

Same weights, same prompt of 256 tokens, same number of new ones, all greedy. transformers in bf16
at its default, and with a static cache and compiled, which is its best; ours in bf16 and int8, as
`toto generate --weights` runs it. The clock is CPU time between the first new token and the last,
so that neither the prompt nor compiling counts.

The limit is what memory gives: a token needs all matrices and the cached keys and values once, at
the speed at which one core reads as many bytes in the same round.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.side_by_side import line
from toto.models.built_reader import BuiltReader
from toto.models.decoding import Reader, open_reader, resolve_decoding
from toto.models.export import to_transformers, write_config
from toto.models.llama import Llama, LlamaConfig
from toto.models.rounding import Weights
from toto.models.sampling import Draws, SamplingConfig, continue_sequence
from toto.recipes import PRETRAIN
from toto.runtime.cpu_library import load_library

PROMPT, NEW, ROUNDS = 256, 64, 5
GREEDY = SamplingConfig(temperature=0.0)
Work = Callable[[], list[float]]
"""Continues the prompts; gives the CPU time at which each new token was there."""


def transformers_model(model: Llama, dtype: str) -> Any:
    """The same weights in transformers."""
    from transformers import LlamaConfig as PeerConfig
    from transformers import LlamaForCausalLM

    fields = write_config(model.config, dtype="fp32", start=0, end=0)
    peer = LlamaForCausalLM(PeerConfig(**fields))
    peer.load_state_dict(to_transformers(model.config, model.state_dict()))
    peer.generation_config.eos_token_id = None
    return peer.eval().to(getattr(torch, dtype))


def compilation() -> Any:
    """How `generate` compiles a step on a GPU, for the CPU."""
    from transformers import CompileConfig

    config = CompileConfig(mode="default")
    config._compile_all_devices = True
    return config


def theirs(peer: Any, prompt: Tensor, new: int, **options: Any) -> Work:
    """`generate`, greedy."""

    def work() -> list[float]:
        stamps: list[float] = []

        def note(_ids: Tensor, scores: Tensor) -> Tensor:
            stamps.append(time.process_time())
            return scores

        peer.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            logits_processor=[note],
            **options,
        )
        return stamps

    return work


def ours(reader: Reader, prompt: Tensor, new: int, codes: int) -> Work:
    """Our continuation, surprise of every token included."""

    def work() -> list[float]:
        tokens = continue_sequence(
            reader,
            prompt,
            tokens=new,
            codes=codes,
            config=GREEDY,
            draws=Draws(0, clips=len(prompt), futures=1),
        )
        return [time.process_time() for _ in tokens]

    return work


def read_gb_s(bytes_read: Tensor) -> float:
    """How fast memory is read here and now."""
    began = time.process_time()
    torch.ops.toto_bench.read_memory(bytes_read)
    return bytes_read.nbytes / (time.process_time() - began) / 1e9


def gb_a_step(config: LlamaConfig, weights: Weights, rows: int, past: float) -> float:
    """All matrices, and the keys and values of every row's past tokens."""
    block = config.width * (4 * config.width + 3 * config.mlp_width)
    matrices = config.depth * block + config.width * config.vocab_size
    cached = 2 * config.depth * config.width * past
    return (matrices * (1 if weights == "int8" else 2) + rows * cached * 2) / 1e9


def costs(reader: Reader, counts: tuple[int, ...], codes: int, rounds: int) -> list[float]:
    """What reading some tokens at once costs, as multiples of one: guesses and what they save."""
    assert isinstance(reader, BuiltReader)
    times_s: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(rounds):
        for count in counts[:: 1 if number % 2 else -1]:
            ids = torch.randint(codes - 3, (1, count))
            began = time.process_time()
            reader.read(ids)
            times_s[count].append(time.process_time() - began)
            reader.forget(count)
    return [median(times_s[count]) / median(times_s[counts[0]]) for count in counts]


def run() -> Iterator[str]:
    """Yield the lines of one row and of eight."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = PRETRAIN["base"]().model
    assert isinstance(config, LlamaConfig)
    model = config.build().eval().requires_grad_(False)
    chosen = resolve_decoding(model, "bf16")
    if not chosen.built:
        yield f"decoding: not measured, {chosen.why}"
        return
    source = Path(__file__).with_name("read_memory.cpp")
    load_library("read_memory", [source], instead="measure elsewhere")
    for rows in (1, 8):
        yield from at(model, rows, prompt=PROMPT, new=NEW, rounds=ROUNDS)


def at(
    model: Llama, rows: int, *, prompt: int, new: int, rounds: int, compiled: bool = True
) -> Iterator[str]:
    """Yield the lines of a number of rows.

    Args:
        model: in fp32.
        rows: sequences at once.
        prompt: its length.
        new: tokens to add.
        rounds: how often everyone goes.
        compiled: whether transformers' best is; a test of this file cannot wait for it.
    """
    codes = model.config.vocab_size
    ids = torch.randint(codes - 3, (rows, prompt))
    peer = transformers_model(model, "bfloat16")
    best: dict[str, Any] = {"cache_implementation": "static"}
    if compiled:
        best["compile_config"] = compilation()
    readers: dict[Weights, Reader] = {w: open_reader(model, w) for w in ("bf16", "int8")}
    works = {
        "default": theirs(peer, ids, new),
        "best": theirs(peer, ids, new, **best),
        "bf16": ours(readers["bf16"], ids, new, codes),
        "int8": ours(readers["int8"], ids, new, codes),
    }
    for work in works.values():
        work()
    room = torch.ops.toto_decode.large_pages(2**28).fill_(1)
    tokens_s: dict[str, list[float]] = {name: [] for name in works}
    memory_gb_s: list[float] = []
    for number in range(rounds):
        for name in list(works)[:: 1 if number % 2 else -1]:
            stamps = works[name]()
            tokens_s[name].append(rows * (len(stamps) - 1) / (stamps[-1] - stamps[0]))
        memory_gb_s.append(max(read_gb_s(room) for _ in range(5)))

    def against(own: str, other: str) -> list[float]:
        return [a / b for a, b in zip(tokens_s[own], tokens_s[other], strict=True)]

    step = f"decoding, {rows} row{'s' * (rows > 1)}, ours"
    yield line(f"{step} bf16 / transformers bf16 (its default)", against("bf16", "default"))
    yield line(f"{step} bf16 / transformers bf16, static, compiled", against("bf16", "best"))
    yield line(f"{step} int8 / transformers bf16 (its default)", against("int8", "default"))
    for weights in readers:
        needed_gb = gb_a_step(model.config, weights, rows, prompt + new / 2)
        shares = [
            speed / rows * needed_gb / limit
            for speed, limit in zip(tokens_s[weights], memory_gb_s, strict=True)
        ]
        yield line(f"{step} {weights}, of what memory gives", shares)
    speeds = ", ".join(f"{name} {median(speed):.1f}" for name, speed in tokens_s.items())
    yield f"  tokens/s: {speeds}; memory {median(memory_gb_s):.1f} GB/s"
    if rows == 1:
        counts = (1, 2, 4, 8)
        found = ", ".join(f"{c:.2f}" for c in costs(readers["bf16"], counts, codes, 4 * rounds))
        yield f"  reading {', '.join(map(str, counts))} tokens at once, bf16: {found} times one"
