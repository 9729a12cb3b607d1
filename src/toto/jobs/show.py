"""`toto show`: what a pre-training recipe costs, by arithmetic, before anything is built."""

import json
from collections.abc import Iterator

from toto.config import digest, to_dict
from toto.jobs.pretrain import Pretrain
from toto.models.flops import model_cost
from toto.tokenizers.patches import patch_side_px


def describe(job: Pretrain) -> Iterator[tuple[str, str]]:
    """List a recipe's sizes and costs as (name, value with unit)."""
    cost, model = model_cost(job.model), job.model
    tokens = job.batch * model.context
    total = tokens * job.steps
    flops = cost.train_flops_a_token
    yield "parameters", f"{cost.parameters:,} ({cost.parameters / 1e6:.1f} M)"
    yield "of these, embedding and head", f"{cost.embedding:,}"
    yield (
        "shape",
        f"width {model.width}, depth {model.depth}, heads {model.heads}, MLP {model.mlp_width}",
    )
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
        f"{flops / 1e9:.3f} G for training (forward and backward, causal attention), "
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
    yield "memory of a full KV cache", f"{cost.cache_bytes / 1e6:.1f} MB a sequence in bf16"
    yield "config digest", digest(job)


def as_json(job: Pretrain) -> str:
    """Give the resolved config as JSON."""
    return json.dumps(to_dict(job), indent=2)
