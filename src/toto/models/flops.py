"""Parameters, FLOPs and memory of a decoder, by arithmetic: nothing is built.

A multiplication and an addition are 2 FLOPs; what is done number by number (norms, activations,
positions, softmax) is not counted, but for the recurrence of Mamba, which is its place of
attention. Attention is counted causally, half of what PaLM-style counts give; the embedding look-up
is free, the projection of patches is not.
Source: docs/paper.md, M rows; 6 FLOPs a weight and token for forward and backward.
"""

from dataclasses import dataclass

from toto.models import DecoderConfig, Gpt2Config, LlamaConfig, MambaConfig

ADAM_BYTES = 16
"""fp32 weight, gradient and two moments of one parameter."""

SCAN_FLOPS = 7
"""Of the selective scan, for each of the M numbers of a channel and each position: the exponent
dt A (1) and its exponential (1), the input taken up (1), the state carried on (2) and read (2)."""


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
        cache_bytes: what a model that has read one full sequence keeps of it: keys and values in
            bf16, or the state of the recurrence in fp32 and the convolution's inputs in bf16.
    """

    parameters: int
    embedding: int
    train_flops_a_token: int
    forward_flops_a_token: int
    state_bytes: int
    cache_bytes: int


def model_cost(config: DecoderConfig) -> ModelCost:
    """Count a decoder."""
    if isinstance(config, LlamaConfig):
        return _llama(config)
    return _gpt2(config) if isinstance(config, Gpt2Config) else _mamba(config)


def _llama(config: LlamaConfig) -> ModelCost:
    width, depth = config.width, config.depth
    body = depth * (4 * width**2 + 3 * width * config.mlp_width)
    projection, head = config.patch_values * width, config.outputs * width
    embedding = config.embedded * width + projection + (0 if config.tied else head)
    norms = (2 * depth + 1) * width
    return _cost(
        parameters=body + embedding + norms,
        embedding=embedding,
        forward=2 * (body + projection + head) + _attention(config),
        cache_bytes=_key_value_bytes(config),
    )


def _gpt2(config: Gpt2Config) -> ModelCost:
    width, depth = config.width, config.depth
    body = depth * (4 * width**2 + 2 * width * config.mlp_width)
    head = config.vocab_size * width
    embedding = head if config.tied else 2 * head
    # In a block: of the qkv, the output, both MLP matrices; then a gain and a bias a norm.
    biases = depth * (3 * width + width + config.mlp_width + width)
    norms = (2 * depth + 1) * 2 * width
    return _cost(
        parameters=body + biases + norms + embedding,
        embedding=embedding,
        forward=2 * (body + head) + _attention(config),
        cache_bytes=_key_value_bytes(config),
    )


def _mamba(config: MambaConfig) -> ModelCost:
    width, depth, inside, states = config.width, config.depth, config.channels, config.state_size
    rank = config.step_rank
    matrices = 3 * width * inside + inside * (rank + 2 * states) + rank * inside
    convolution = inside * config.kernel
    # Biases of convolution and step sizes, D; A_log.
    vectors = 3 * inside + inside * states
    head = config.vocab_size * width
    embedding = head if config.tied else 2 * head
    norms = (depth + 1) * width
    scan = SCAN_FLOPS * inside * states
    return _cost(
        parameters=depth * (matrices + convolution + vectors) + norms + embedding,
        embedding=embedding,
        forward=depth * (2 * (matrices + convolution) + scan) + 2 * head,
        cache_bytes=depth * inside * (4 * states + 2 * (config.kernel - 1)),
    )


def _attention(config: LlamaConfig | Gpt2Config) -> int:
    """QK and AV take 2 x width FLOPs each for every earlier position, on average half of them."""
    return config.depth * 2 * config.width * config.context


def _key_value_bytes(config: LlamaConfig | Gpt2Config) -> int:
    return 2 * 2 * config.depth * config.width * config.context


def _cost(*, parameters: int, embedding: int, forward: int, cache_bytes: int) -> ModelCost:
    return ModelCost(
        parameters=parameters,
        embedding=embedding,
        train_flops_a_token=3 * forward,
        forward_flops_a_token=forward,
        state_bytes=ADAM_BYTES * parameters,
        cache_bytes=cache_bytes,
    )
