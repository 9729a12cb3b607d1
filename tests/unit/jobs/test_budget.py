"""What a run is said to take, against what autograd keeps and against arithmetic by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from toto.cli.verbs import show
from toto.jobs.budget import activation_bytes_a_token, budget, duration, fit, told
from toto.jobs.show import describe
from toto.models import DecoderConfig, Gpt2Config, LlamaConfig, MambaConfig
from toto.recipes import PRETRAIN
from toto.runtime.devices import Precision, compute
from toto.runtime.parallel import Parallel

SIZES = {"vocab_size": 300, "context": 101}
# Deep and narrow: what stands outside the blocks and the scores is not in the formula.
MODELS: dict[str, DecoderConfig] = {
    "llama": LlamaConfig(width=64, depth=12, heads=2, mlp_width=176, **SIZES),
    "gpt2": Gpt2Config(width=64, depth=12, heads=2, **SIZES),
    "mamba": MambaConfig(width=64, depth=12, **SIZES),
}
FSDP = Parallel(strategy="fsdp", accumulate=4)
P = 1_146_722_304


def kept_bytes(config: DecoderConfig, precision: Precision) -> int:
    """What autograd keeps of one sequence, weights and their copies not counted."""
    model = config.build()
    weights = {tuple(p.shape) for p in model.parameters()}
    weights |= {shape[::-1] for shape in weights}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tuple(tensor.shape) not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(config.vocab_size, (1, config.context + 1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with compute(precision, torch.device("cpu")):
            logits = model(ids[:, :-1])
        F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_what_autograd_keeps(name: str, precision: Precision) -> None:
    config = MODELS[name]
    told = activation_bytes_a_token(config, precision, checkpointing=False)
    # Of 12 (or 10) bytes of a score autograd keeps 4; the others are there for a moment.
    told -= (8 if precision == "fp32" else 6) * config.vocab_size
    assert told == pytest.approx(kept_bytes(config, precision) / config.context, rel=0.05)


def test_memory_of_one_device_by_hand() -> None:
    job = PRETRAIN["1b"]()
    takes = budget(job, Parallel(accumulate=256), length=4098, world=1, precision="fp32")
    assert takes.weights_bytes == takes.gradients_bytes == 4 * P
    assert takes.moments_bytes == 8 * P
    assert takes.activations_bytes == 4098 * (22 * (48 * 2048 + 16 * 5504) + 12 * 8195)
    assert takes.memory_bytes == 16 * P + takes.activations_bytes
    assert takes.tokens_a_step == 256 * 4098
    assert takes.flops_a_step == pytest.approx(8.27e15, rel=1e-3)


def test_sharding_divides_the_state_and_checkpointing_the_activations() -> None:
    job = PRETRAIN["1b"]()
    asked: dict[str, Any] = {"length": 4098, "world": 8, "precision": "bf16"}
    whole = budget(job, Parallel(strategy="ddp", accumulate=4), **asked)
    parts = budget(job, replace(FSDP, accumulate=1), **asked)
    assert whole.weights_bytes == 6 * P
    assert parts.moments_bytes == whole.moments_bytes // 8 == P
    assert parts.gradients_bytes == P // 2
    # Gradients that are not exchanged yet are whole.
    assert budget(job, FSDP, **asked).gradients_bytes == P // 2 + 4 * P
    hsdp = Parallel(strategy="hsdp", replicas=2, accumulate=1)
    assert budget(job, hsdp, **asked).moments_bytes == 2 * P
    light = budget(job, replace(FSDP, activation_checkpointing=True), **asked)
    assert light.activations_bytes < 0.2 * whole.activations_bytes
    assert light.weights_bytes == budget(job, FSDP, **asked).weights_bytes - 2 * P


def test_the_fewest_parts_that_fit_are_taken() -> None:
    job = PRETRAIN["large"]()
    asked: dict[str, Any] = {"length": 4098, "world": 8, "precision": "bf16"}
    ddp = Parallel(strategy="ddp")
    found = fit(job, ddp, memory_bytes=80 * 10**9, **asked)
    assert budget(job, found, **asked).memory_bytes <= 64 * 10**9
    fewer = replace(found, accumulate=found.accumulate // 2)
    assert budget(job, fewer, **asked).memory_bytes > 64 * 10**9
    assert 32 % found.accumulate == 0
    assert fit(job, ddp, memory_bytes=10**9, **asked).accumulate == 32
    asked_for = replace(ddp, accumulate=2)
    assert fit(job, asked_for, memory_bytes=10**9, **asked) == asked_for
    tiny = fit(PRETRAIN["tiny"](), ddp, memory_bytes=10**9, **{**asked, "length": 66, "world": 2})
    assert tiny.accumulate == 1


def test_show_tells_the_memory_of_each_of_many_devices() -> None:
    job = PRETRAIN["1b"]()
    alone, shared = dict(describe(job)), dict(describe(job, world=8, device_gb=24))
    assert "for 1 rank, 4 sequences at once in bf16" in alone["memory of a device"]
    assert "for 8 ranks by fsdp, 1 sequences at once in bf16" in shared["memory of a device"]
    assert alone["FLOPs a step"] == shared["FLOPs a step"] == "8.27e+15"
    with pytest.raises(ValueError, match="batch 256 does not divide into 3 ranks x 1 parts; choos"):
        dict(describe(job, world=3))


def test_toto_show_takes_the_number_of_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    show(["pretrain", "1b", "--world=8", "--device-gb", "24"])
    assert "for 8 ranks by fsdp, 1 sequences at once in bf16" in capsys.readouterr().out
    for option, value in (("--world", "many"), ("--device-gb", "0")):
        with pytest.raises(SystemExit):
            show(["pretrain", "1b", option, value])
        said = capsys.readouterr().err
        assert said == f"toto: {option} '{value}' is not a whole number from 1 on\n"


def test_a_run_is_told_before_it_starts() -> None:
    job = PRETRAIN["base"]()
    asked: dict[str, Any] = {"length": 4098, "world": 2, "precision": "bf16", "steps": 10**6}
    parallel = Parallel(strategy="ddp", accumulate=16)
    takes = budget(job, parallel, length=4098, world=2, precision="bf16")
    lines = list(told(job, parallel, memory_bytes=80 * 10**9, ceiling=1.2e15, **asked))
    assert lines == [
        "1,049,088 tokens a step, 125,852,928 parameters, 9.90e+14 FLOPs a step; "
        "2 ranks by ddp, 8 sequences at once in bf16",
        f"estimate: {takes.memory()} a device; 1.65 s a step, 19.1 days to the end, at 50% "
        "of the 1.2e+03 TFLOP/s that matrix products reach now",
    ]
    *_, last = told(job, parallel, memory_bytes=4 * 10**9, ceiling=1.2e15, **asked)
    assert last.startswith("that is more than the 4.0 GB of a device: try more ranks, --strategy")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0123, "0.0123 s"), (90, "90 s"), (120, "2.0 min"), (9_000, "2.5 h"), (1e6, "11.6 days")],
)
def test_durations_are_in_the_unit_that_suits_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said
