"""Attention of all heads, from the matrix that gives queries, keys and values to that after it.

Pre-training and generation are causal. Fine-tuning to labels may attend both ways (docs/paper.md,
P8): the whole clip is there, and no token is to be predicted. It changes no weight and no shape, so
it is no part of a decoder's config, but of the run that uses it.
"""

from typing import TYPE_CHECKING, Any, Literal

import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from toto.models.cache import KVCache
from toto.models.rope import rotate

if TYPE_CHECKING:
    from toto.models import Decoder

Direction = Literal["causal", "bidirectional"]
Angles = tuple[Float32[Tensor, "L K"], Float32[Tensor, "L K"]]
"""Cosines and sines by which queries and keys are turned (`toto.models.rope`)."""


def causal_attention(
    qkv_BLD: Float[Tensor, "B L 3*D"],
    angles: Angles | None,
    cache: KVCache | None,
    layer: int,
    *,
    heads: int,
    scale: float | None = None,
) -> Float[Tensor, "B L D"]:
    """Let each new position look at itself and at those before it, cached ones included.

    Args:
        qkv_BLD: queries, keys and values of the new positions, in this order, each by heads.
        angles: of the new positions; nothing is turned without them.
        cache: positions before them; it takes up the new ones.
        layer: which of the cache's layers this is.
        heads: N.
        scale: what q.k is multiplied by; if left out, 1 / sqrt(K).
    """
    q_BNLK, k_BNLK, v_BNLK = _by_head(qkv_BLD, angles, heads)
    if cache is None or cache.length == 0:
        if cache is not None:
            cache.write(layer, k_BNLK, v_BNLK)
        return _merged(
            F.scaled_dot_product_attention(q_BNLK, k_BNLK, v_BNLK, is_causal=True, scale=scale)
        )
    k_BNPK, v_BNPK = cache.write(layer, k_BNLK, v_BNLK)
    seen = cache.seen(q_BNLK.shape[2])
    k_BNPK, v_BNPK = k_BNPK.to(q_BNLK.dtype), v_BNPK.to(q_BNLK.dtype)
    return _merged(
        F.scaled_dot_product_attention(q_BNLK, k_BNPK, v_BNPK, attn_mask=seen, scale=scale)
    )


def bidirectional_attention(
    qkv_BLD: Float[Tensor, "B L 3*D"],
    angles: Angles | None,
    cache: KVCache | None,
    layer: int,
    *,
    heads: int,
    scale: float | None = None,
) -> Float[Tensor, "B L D"]:
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
    return _merged(F.scaled_dot_product_attention(*_by_head(qkv_BLD, angles, heads), scale=scale))


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


def _by_head(
    qkv_BLD: Float[Tensor, "B L 3*D"], angles: Angles | None, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [B N L K]."""
    parts = qkv_BLD.chunk(3, dim=-1)
    q_BNLK, k_BNLK, v_BNLK = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in parts)
    if angles is not None:
        q_BNLK, k_BNLK = rotate(q_BNLK, *angles), rotate(k_BNLK, *angles)
    return q_BNLK, k_BNLK, v_BNLK


def _merged(y_BNLK: Float[Tensor, "B N L K"]) -> Float[Tensor, "B L D"]:
    return y_BNLK.transpose(1, 2).flatten(-2)
