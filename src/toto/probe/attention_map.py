"""Where one place of a clip looks: a layer's attention weights, to be shown to people.

The models attend by fused kernels, which never hold a weight. Here queries and keys of one layer
are made once more, and only the weights of the place that is asked for.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from toto.models.attention import Direction
from toto.models.llama import LlamaConfig
from toto.models.rope import rotary_tables, rotate
from toto.probe.backbone import Backbone
from toto.runtime.devices import compute


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gaze:
    """How much of its attention a place gives to each patch of the clip.

    Attributes:
        patches: by head; 0 at what a causal layer has not seen yet.
        start: what each head gives to the start token. With `patches` it sums to 1.
    """

    patches: Float32[Tensor, "N T Y X"]
    start: Float32[Tensor, " N"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QueriesAndKeys:
    """What decides the attention of one layer, for all places of one clip, on the CPU.

    Attributes:
        queries: already turned by their positions; the start token has the first place.
        keys: likewise.
        scale: what q.k is multiplied by.
        direction: whether later places are seen.
        grid: frames, rows and columns of patches.
    """

    queries: Float[Tensor, "N L K"]
    keys: Float[Tensor, "N L K"]
    scale: float
    direction: Direction
    grid: tuple[int, int, int]

    def gaze(self, frame: int, row: int, column: int) -> Gaze:
        """Weigh what the patch there looks at.

        The stream at a patch has read that patch, and from it the next one is predicted.

        Raises:
            ValueError: if the clip has no such patch.
        """
        place, grid = (frame, row, column), self.grid
        if not all(0 <= at < size for at, size in zip(place, grid, strict=True)):
            raise ValueError(f"patch {place} (frame, row, column) is not in a clip of {grid}")
        position = 1 + (frame * grid[1] + row) * grid[2] + column
        scores_NL = self.scale * torch.einsum(
            "nk,nlk->nl", self.queries[:, position].float(), self.keys.float()
        )
        if self.direction == "causal":
            scores_NL[:, position + 1 :] = -torch.inf
        weights_NL = scores_NL.softmax(dim=-1)
        return Gaze(patches=weights_NL[:, 1:].unflatten(1, grid), start=weights_NL[:, 0])


@torch.no_grad()
def queries_and_keys(
    backbone: Backbone,
    clip: Int64[Tensor, "T Y X"] | UInt8[Tensor, "T H W 3"],
    layer: int,
) -> QueriesAndKeys:
    """Read a clip up to one layer, and take that layer's queries and keys.

    Args:
        backbone: the model.
        clip: codes, or frames where the model reads patches.
        layer: 1 to depth; the layer's input is the stream behind the one before.

    Raises:
        ValueError: if there is no such layer, the model has no attention, or the clip does not
            fit the context.
    """
    if not 1 <= layer <= backbone.depth:
        raise ValueError(f"layer {layer} is not in 1..{backbone.depth}; only those attend")
    block: Any = backbone.model.blocks[layer - 1]
    if not hasattr(block, "attention"):
        raise ValueError("a Mamba has no attention to look at; open a LLaMA or a GPT-2")
    config, attention = backbone.model.config, block.attention
    stream_BLD = backbone.hidden(clip[None], [layer - 1])[layer - 1]
    with compute(backbone.precision, stream_BLD.device):
        parts = attention.qkv(block.attention_norm(stream_BLD)).chunk(3, dim=-1)[:2]
    q_BNLK, k_BNLK = (t.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for t in parts)
    scale = q_BNLK.shape[-1] ** -0.5
    if isinstance(config, LlamaConfig):
        length, width = q_BNLK.shape[-2:]
        angles = rotary_tables(length, width, config.rope_base, stream_BLD.device)
        q_BNLK, k_BNLK = rotate(q_BNLK, *angles), rotate(k_BNLK, *angles)
        scale = attention.scale or scale
    return QueriesAndKeys(
        # One place's weights are little work, and these may be kept for as long as people look.
        queries=q_BNLK[0].cpu(),
        keys=k_BNLK[0].cpu(),
        scale=scale,
        direction=backbone.attention,
        grid=backbone.grid(clip),
    )
