"""A training step of our decoder against transformers' LlamaForCausalLM and litgpt's GPT.

Same shape, same 4,096 tokens a step, same fused AdamW, one thread; the paper's smallest size, 126 M
parameters, and a smaller one of 20 M, where less of a step is matrix products. transformers runs at
its default (sdpa, fp32), in bf16 autocast, and in that compiled with its own loss, the faster of
which is its best; litgpt in bf16 autocast, compiled. Ours is what `toto pretrain` runs where the
run is long enough to compile, and plain where it is not. Compiling is outside of the times. What a
GPU does is in `train_step_gpu`.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.side_by_side import PACKAGES, cpu_times_s, line
from toto.models.llama import LlamaConfig
from toto.recipes import PRETRAIN
from toto.runtime.devices import compute, resolve_precision
from toto.train.compiled import compile_decoder
from toto.train.float8 import use_float8
from toto.train.objectives import next_token
from toto.train.optimizer import AdamWConfig
from toto.types import Batch

SMALL = LlamaConfig(vocab_size=8195, width=384, depth=6, heads=6, mlp_width=1536)
TOKENS = 4096


class Transformers(nn.Module):
    """transformers' decoder with its own loss."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        from transformers import LlamaConfig as PeerConfig
        from transformers import LlamaForCausalLM

        self.model = LlamaForCausalLM(
            PeerConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.width,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                num_key_value_heads=config.heads,
                intermediate_size=config.mlp_width,
                max_position_embeddings=config.context,
                attn_implementation="sdpa",
                use_cache=False,
            )
        )

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of the targets."""
        return self.model(input_ids=ids, labels=targets, shift_labels=targets).loss


class LitGpt(nn.Module):
    """litgpt's decoder in LLaMA's shape, with the loss of its pre-training."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        if str(PACKAGES) not in sys.path:
            sys.path.append(str(PACKAGES))
        try:
            from litgpt.model import GPT, Config
        except ModuleNotFoundError as error:
            raise SystemExit(f"no {error.name}: `make bench` installs litgpt") from error
        self.model = GPT(
            Config(
                block_size=config.context,
                vocab_size=config.vocab_size,
                padded_vocab_size=config.vocab_size,
                n_layer=config.depth,
                n_head=config.heads,
                n_embd=config.width,
                intermediate_size=config.mlp_width,
                rotary_percentage=1.0,
                parallel_residual=False,
                bias=False,
                norm_class_name="RMSNorm",
                mlp_class_name="LLaMAMLP",
            )
        )

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of the targets."""
        return F.cross_entropy(self.model(ids).flatten(0, 1), targets.flatten())


def step_of(
    model: nn.Module, loss_of: Callable[[Batch], Tensor], batch: Batch, precision: str
) -> Callable[[], Tensor]:
    """One whole training step: forward, backward, AdamW."""
    place = batch.ids.device
    optimizer = AdamWConfig().build(model)

    def take() -> Tensor:
        with compute(resolve_precision(precision, place), place):
            loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return take


def ours(
    config: LlamaConfig, batch: Batch, precision: str, *, compiled: bool, float8: bool = False
) -> Any:
    """Our step; FP8 is emulated where there is no GPU."""
    place = batch.ids.device
    model = config.build().to(place)
    if float8:
        if str(PACKAGES) not in sys.path:
            sys.path.append(str(PACKAGES))
        use_float8(model, place, emulated=place.type == "cpu")
    if compiled:
        compile_decoder(model)
    return step_of(model, lambda batch: next_token(model, batch), batch, precision)


def theirs(
    kind: type[Transformers | LitGpt],
    config: LlamaConfig,
    batch: Batch,
    precision: str,
    *,
    compiled: bool,
) -> Any:
    """A peer's step."""
    model = kind(config).to(batch.ids.device)
    call = torch.compile(model) if compiled else model
    ids, targets = batch.ids[:, :-1].contiguous(), batch.ids[:, 1:].contiguous()
    return step_of(model, lambda _: call(ids, targets), batch, precision)


def run() -> Iterator[str]:
    """Yield the lines of the paper's smallest model, and of the small one at both contexts."""
    base = PRETRAIN["base"]().model
    for name, config, context, rounds in (
        ("126 M", base, 1024, 3),
        ("20 M", SMALL, 1024, 7),
        ("20 M", SMALL, 4096, 7),
    ):
        yield f"  {name}, context {context}"
        yield from at(replace(config, context=context), tokens=TOKENS, rounds=rounds)


def at(config: LlamaConfig, *, tokens: int, rounds: int, compiled: bool = True) -> Iterator[str]:
    """Yield one line a comparison at a context.

    Args:
        config: of all models.
        tokens: a step.
        rounds: how often all of them take a step.
        compiled: whether those that are compiled are; a test of this file cannot wait for it.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    length, rows = config.context, tokens // config.context
    ids = torch.randint(config.vocab_size - 3, (rows, length + 1))
    batch = Batch(ids=ids, weight=torch.ones(rows, length))
    fast = resolve_precision("auto", torch.device("cpu"))
    quick = f"{fast}, {'compiled' if compiled else 'again'}"
    make = {
        "ours": lambda: ours(config, batch, fast, compiled=compiled),
        "ours, plain": lambda: ours(config, batch, fast, compiled=False),
        "fp32": lambda: theirs(Transformers, config, batch, "fp32", compiled=False),
        fast: lambda: theirs(Transformers, config, batch, fast, compiled=False),
        quick: lambda: theirs(Transformers, config, batch, fast, compiled=compiled),
        "litgpt": lambda: theirs(LitGpt, config, batch, fast, compiled=compiled),
    }
    steps, first_s = {}, {}
    for name, build in make.items():
        steps[name] = build()
        began = time.process_time()
        steps[name]()
        first_s[name] = time.process_time() - began
        steps[name]()
    times_s = cpu_times_s(steps, rounds=rounds)

    def against(own: str, peer: str) -> list[float]:
        return [theirs_s / s for s, theirs_s in zip(times_s[own], times_s[peer], strict=True)]

    best = min((fast, quick), key=lambda name: median(times_s[name]))
    step = f"training step, {length} tokens, ours"
    yield line(f"{step} / transformers fp32 (its default)", against("ours", "fp32"))
    yield line(f"{step} / transformers {best} (its best)", against("ours", best))
    yield line(f"{step} / litgpt {quick}", against("ours", "litgpt"))
    yield line(f"{step} not compiled / transformers fp32", against("ours, plain", "fp32"))
    yield line(f"{step} not compiled / transformers {fast}", against("ours, plain", fast))
    saved_s = median(times_s["ours, plain"]) - median(times_s["ours"])
    spent_s = first_s["ours"] - median(times_s["ours"])
    after = f"repaid after {spent_s / saved_s:.0f} steps" if saved_s > 0 else "not repaid"
    yield f"  ours is {quick}: compiling takes {spent_s:.0f} s, {after}"
