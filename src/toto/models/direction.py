"""Which way a decoder attends: to what came before, or to everything.

Pre-training and generation are causal. Fine-tuning to labels may attend both ways (docs/paper.md,
P8): the whole clip is there, and no token is to be predicted. It changes no weight and no shape, so
it is no part of a decoder's config, but of the run that uses it.
"""

from typing import TYPE_CHECKING, Any, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from toto.models.cache import KVCache, causal_attention

if TYPE_CHECKING:
    from toto.models import Decoder

Direction = Literal["causal", "bidirectional"]


def bidirectional_attention(
    q_BNLK: Float[Tensor, "B N L K"],
    k_BNLK: Float[Tensor, "B N L K"],
    v_BNLK: Float[Tensor, "B N L K"],
    cache: KVCache | None,
    layer: int,
    *,
    scale: float | None = None,
) -> Float[Tensor, "B N L K"]:
    """Let each position look at all; in the place of `causal_attention`.

    Raises:
        ValueError: if there is a cache: what was computed before the next token came would be
            wrong once it is there.
    """
    if cache is not None:
        raise ValueError(
            f"layer {layer} attends in both directions, so that no token can follow another; "
            "generate with the pre-training run"
        )
    return F.scaled_dot_product_attention(q_BNLK, k_BNLK, v_BNLK, scale=scale)


def set_direction(model: "Decoder", direction: Direction) -> None:
    """Let all layers of a decoder attend one way.

    Raises:
        ValueError: if it is to be bidirectional and has no attention.
    """
    wanted = causal_attention if direction == "causal" else bidirectional_attention
    for block in model.blocks:
        attention: Any = getattr(block, "attention", None)
        if attention is not None:
            attention.attend = wanted
        elif direction == "bidirectional":
            raise ValueError(
                "attention 'bidirectional': a Mamba reads in one direction alone; "
                "--attention causal"
            )
