"""Parameters, FLOPs and memory of a decoder, by arithmetic: nothing is built.

Attention is counted causally, half of what PaLM-style counts give; the embedding look-up is free,
the projection of patches is not.
Source: docs/paper.md, M rows; 6 FLOPs a weight and token for forward and backward.
"""

from dataclasses import dataclass

from toto.models.llama import LlamaConfig

ADAM_BYTES = 16
"""fp32 weight, gradient and two moments of one parameter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCost:
    """What a decoder costs.

    Attributes:
        parameters: all weights.
        embedding: of these, the embedding, the projection of patches and, untied, the output
            matrix.
        train_flops_a_token: forward and backward at full context, causal attention.
        forward_flops_a_token: a third of it.
        state_bytes: weights, gradients and AdamW moments in fp32.
        cache_bytes: keys and values of one full sequence in bf16.
    """

    parameters: int
    embedding: int
    train_flops_a_token: int
    forward_flops_a_token: int
    state_bytes: int
    cache_bytes: int


def model_cost(config: LlamaConfig) -> ModelCost:
    """Count a decoder."""
    width, depth = config.width, config.depth
    block = 4 * width**2 + 3 * width * config.mlp_width
    body = depth * block
    projection, head = config.patch_values * width, config.outputs * width
    embedding = config.embedded * width + projection + (0 if config.tied else head)
    norms = (2 * depth + 1) * width
    parameters = body + embedding + norms
    # QK and AV each take 2 x width FLOPs for every earlier position, on average half the context.
    attention = depth * 2 * width * config.context
    forward = 2 * (body + projection + head) + attention
    return ModelCost(
        parameters=parameters,
        embedding=embedding,
        train_flops_a_token=3 * forward,
        forward_flops_a_token=forward,
        state_bytes=ADAM_BYTES * parameters,
        cache_bytes=2 * 2 * depth * width * config.context,
    )
