"""What a run will take, told before it starts: memory of a device, FLOPs and time of a step."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from toto.jobs.pretrain import Pretrain
from toto.models import DecoderConfig, LlamaConfig, MambaConfig
from toto.models.flops import model_cost
from toto.runtime.devices import Precision
from toto.runtime.parallel import Parallel

EXPECTED_MFU = 0.5
"""Share of the matmul ceiling that a step is expected to reach; what it does reach is in the run's
log."""
FILLED_SHARE = 0.8
"""Of a device's memory, what an estimate may take; libraries and fragmentation want some."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a run takes, by arithmetic.

    Attributes:
        tokens_a_step: of all ranks.
        flops_a_step: of all ranks, forward and backward; recomputing activations does not count.
        weights_bytes: on a device: fp32, or this rank's part of them with what it fetches of the
            others'; and the bf16 copies that autocast makes and the backward pass needs.
        gradients_bytes: on a device, fp32.
        moments_bytes: AdamW's two, on a device, fp32.
        activations_bytes: on a device, of the part of the batch it takes at once.
    """

    tokens_a_step: int
    flops_a_step: int
    weights_bytes: int
    gradients_bytes: int
    moments_bytes: int
    activations_bytes: int

    @property
    def memory_bytes(self) -> int:
        """All of it; buffers of the libraries are not counted."""
        return (
            self.weights_bytes + self.gradients_bytes + self.moments_bytes + self.activations_bytes
        )

    def memory(self) -> str:
        """The memory in words."""
        parts = (
            f"weights {_gb(self.weights_bytes)}, gradients {_gb(self.gradients_bytes)}, "
            f"moments {_gb(self.moments_bytes)}, activations {_gb(self.activations_bytes)}"
        )
        return f"{_gb(self.memory_bytes)} GB ({parts})"


def budget(
    job: Pretrain, parallel: Parallel, *, length: int, world: int, precision: Precision
) -> Budget:
    """Reckon up a run.

    Args:
        job: the run.
        parallel: resolved.
        length: tokens of a sequence; FLOPs a token are those of a full context.
        world: how many ranks there are.
        precision: that they compute in.
    """
    cost, shards = model_cost(job.model), parallel.shards(world)
    bf16 = precision == "bf16"
    blocks = cost.parameters - cost.embedding
    weights = 4 * cost.parameters // shards
    if shards > 1:
        # Embedding and head stay once fetched; of the blocks the present and the next.
        weights += 4 * (cost.embedding + 2 * blocks // job.model.depth)
    if bf16 and not parallel.activation_checkpointing:
        weights += 2 * cost.parameters
    gradients = 4 * cost.parameters // shards
    if shards > 1 and parallel.accumulate > 1:
        # What is not exchanged before the last part piles up whole.
        gradients += 4 * cost.parameters
    tokens = job.batch * length
    at_once = tokens // (world * parallel.accumulate)
    return Budget(
        tokens_a_step=tokens,
        flops_a_step=tokens * cost.train_flops_a_token,
        weights_bytes=weights,
        gradients_bytes=gradients,
        moments_bytes=8 * cost.parameters // shards,
        activations_bytes=at_once
        * activation_bytes_a_token(
            job.model, precision, checkpointing=parallel.activation_checkpointing
        ),
    )


def fit(
    job: Pretrain,
    parallel: Parallel,
    *,
    length: int,
    world: int,
    precision: Precision,
    memory_bytes: int,
) -> Parallel:
    """Settle in how many parts a rank takes its share of the batch, where that was left open.

    Args:
        job: the run.
        parallel: resolved but for `accumulate`.
        length: tokens of a sequence.
        world: how many ranks there are; they divide the batch.
        precision: that they compute in.
        memory_bytes: of the smallest device.

    Returns:
        The same with the fewest parts that are expected to fit, or with a sequence each where none
        are.
    """
    if parallel.accumulate:
        return parallel
    share = job.batch // world
    for parts in range(1, share + 1):
        tried = replace(parallel, accumulate=parts)
        if share % parts == 0:
            takes = budget(job, tried, length=length, world=world, precision=precision)
            if takes.memory_bytes <= FILLED_SHARE * memory_bytes:
                return tried
    return replace(parallel, accumulate=share)


def activation_bytes_a_token(
    model: DecoderConfig, precision: Precision, *, checkpointing: bool
) -> int:
    """What one token leaves for the backward pass.

    The sum over the tensors that autograd keeps: in a block of LLaMA, in fp32, 12 of the width D
    and 4 of the MLP width F, 48 D + 16 F bytes; with bf16 products beside an fp32 stream 32 D + 8
    F. GPT-2, whose F is 4 D: 64 D and 36 D. Mamba, for I channels: 57 I and 40 I. Behind the
    blocks, V scores in the precision of the products, in fp32, and their gradient. With
    checkpointing only the fp32 stream before each block stays, and one block at a time is whole. A
    compiled step keeps less.

    Args:
        model: of the run.
        precision: that it computes in.
        checkpointing: whether blocks are computed again.
    """
    bf16 = precision == "bf16"
    if isinstance(model, LlamaConfig):
        block = 32 * model.width + 8 * model.mlp_width
        block += 0 if bf16 else 16 * model.width + 8 * model.mlp_width
    elif isinstance(model, MambaConfig):
        block = (40 if bf16 else 57) * model.channels
    else:
        block = (36 if bf16 else 64) * model.width
    scores = (10 if bf16 else 12) * model.outputs
    if checkpointing:
        return model.depth * 4 * model.width + block + scores
    return model.depth * block + scores


def told(
    job: Pretrain,
    parallel: Parallel,
    *,
    length: int,
    world: int,
    precision: Precision,
    memory_bytes: int,
    ceiling: float,
    steps: int,
) -> Iterator[str]:
    """Lines for the person who starts a run.

    Args:
        job: the run.
        parallel: resolved.
        length: tokens of a sequence.
        world: how many ranks there are.
        precision: that they compute in.
        memory_bytes: of the smallest device.
        ceiling: FLOPs a second that matrix products reach on all ranks together.
        steps: still to be taken.
    """
    takes = budget(job, parallel, length=length, world=world, precision=precision)
    yield (
        f"{takes.tokens_a_step:,} tokens a step, {model_cost(job.model).parameters:,} parameters, "
        f"{takes.flops_a_step:.2e} FLOPs a step; {spread(job, parallel, world)} in {precision}"
    )
    step_s = takes.flops_a_step / (EXPECTED_MFU * ceiling)
    yield (
        f"estimate: {takes.memory()} a device; {duration(step_s)} a step, "
        f"{duration(steps * step_s)} to the end, at {EXPECTED_MFU:.0%} of the "
        f"{ceiling / 1e12:.3g} TFLOP/s that matrix products reach now"
    )
    if takes.memory_bytes > memory_bytes:
        yield (
            f"that is more than the {memory_bytes / 1e9:.1f} GB of a device: try more ranks, "
            "--strategy fsdp, or --activation-checkpointing"
        )


def spread(job: Pretrain, parallel: Parallel, world: int) -> str:
    """Ranks, strategy and what each takes at once, in words."""
    ranks = f"{world} ranks by {parallel.strategy}" if world > 1 else "1 rank"
    return f"{ranks}, {job.batch // (world * parallel.accumulate)} sequences at once"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, length_s in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:,.1f} {unit}"
    return f"{seconds:.3g} s"


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f}"
