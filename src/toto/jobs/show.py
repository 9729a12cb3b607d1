"""`toto show`: what a pre-training recipe costs, by arithmetic, before anything is built."""

import json
from collections.abc import Iterator

from toto.config import digest, to_dict
from toto.jobs.budget import budget, fit, spread
from toto.jobs.pretrain import Pretrain
from toto.models import MambaConfig
from toto.models.flops import model_cost
from toto.runtime.devices import Precision
from toto.runtime.parallel import Parallel, is_large
from toto.tokenizers.patches import patch_side_px


def describe(
    job: Pretrain, parallel: Parallel | None = None, *, world: int = 1, device_gb: int = 80
) -> Iterator[tuple[str, str]]:
    """List a recipe's sizes and costs as (name, value with unit).

    Args:
        job: the recipe.
        parallel: how it is spread over the ranks.
        world: how many ranks.
        device_gb: memory of each one's device, by which `auto` chooses.

    Raises:
        ValueError: if the ranks do not divide the batch, or the strategy does not fit them.
    """
    cost, model = model_cost(job.model), job.model
    tokens = job.batch * model.context
    total = tokens * job.steps
    flops = cost.train_flops_a_token
    yield "parameters", f"{cost.parameters:,} ({cost.parameters / 1e6:.1f} M)"
    yield "of these, embedding and head", f"{cost.embedding:,}"
    inside = (
        f"{model.channels} channels with {model.state_size} numbers each in a block"
        if isinstance(model, MambaConfig)
        else f"heads {model.heads}, MLP {model.mlp_width}"
    )
    yield "shape", f"width {model.width}, depth {model.depth}, {inside}"
    if model.patch_values:
        side_px = patch_side_px(model.patch_values)
        yield "input", f"patches of {side_px} x {side_px} px, {model.patch_values:,} values"
    if model.predicts == "patches":
        yield "output", f"the next patch, {model.outputs:,} values"
    else:
        yield "vocabulary", f"{model.vocab_size:,} ids, {'tied' if model.tied else 'untied'} head"
    yield "context", f"{model.context:,} tokens"
    yield (
        "FLOPs a token",
        f"{flops / 1e9:.3f} G for training (forward and backward"
        f"{'' if isinstance(model, MambaConfig) else ', causal attention'}), "
        f"{cost.forward_flops_a_token / 1e9:.3f} G forward",
    )
    yield "tokens a step", f"{tokens:,} ({job.batch} sequences)"
    yield "steps", f"{job.steps:,}"
    yield "tokens in all", f"{total:,} ({total / 1e9:,.1f} B)"
    yield "FLOPs in all", f"{total * flops:.2e}"
    yield (
        "memory of the training state",
        f"{cost.state_bytes / 1e9:.2f} GB (fp32 weights, gradients, AdamW)",
    )
    yield from _on_a_device(job, parallel or Parallel(), world, device_gb)
    kept, dtype = (
        ("the recurrent state", "fp32")
        if isinstance(model, MambaConfig)
        else ("a full KV cache", "bf16")
    )
    yield f"memory of {kept}", f"{cost.cache_bytes / 1e6:.1f} MB a sequence in {dtype}"
    yield "config digest", digest(job)


def _on_a_device(
    job: Pretrain, parallel: Parallel, world: int, device_gb: int
) -> Iterator[tuple[str, str]]:
    parts = max(1, parallel.accumulate)
    if job.batch % (world * parts):
        raise ValueError(
            f"batch {job.batch} does not divide into {world} ranks x {parts} parts; "
            "choose another --world, --batch or --accumulate"
        )
    memory_bytes = device_gb * 10**9
    large = is_large(model_cost(job.model).state_bytes, memory_bytes)
    precision: Precision = "fp32" if job.precision == "fp32" else "bf16"
    resolved = fit(
        job,
        parallel.resolve(world, large=large),
        length=job.model.context,
        world=world,
        precision=precision,
        memory_bytes=memory_bytes,
    )
    takes = budget(job, resolved, length=job.model.context, world=world, precision=precision)
    yield "FLOPs a step", f"{takes.flops_a_step:.2e}"
    yield (
        "memory of a device",
        f"{takes.memory()}, estimated for {spread(job, resolved, world)} in {precision}",
    )


def as_json(job: Pretrain) -> str:
    """Give the resolved config as JSON."""
    return json.dumps(to_dict(job), indent=2)
