"""V-JEPA 2's attentive probe: blocks of self-attention over all places, then one query's.

It is by far the largest of the heads that are called attentive: near 50 D^2 parameters, where the
paper's has 2 D^2. So a score by it compares with none by another.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

BLOCKS = 4
"""The last is that of the query."""
MLP_RATIO = 4


class AttentiveBlock(nn.Module):
    """A pre-norm block, of self-attention or of a query's attention to all places.

    Keys have no bias: it would add the same to all scores of a head, which the softmax does not
    see.
    """

    def __init__(self, width: int, heads: int, *, crossed: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        # The query's block has none in the source.
        self.out = nn.Identity() if crossed else nn.Linear(width, width)
        self.widen = nn.Linear(width, MLP_RATIO * width)
        self.narrow = nn.Linear(MLP_RATIO * width, width)
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear)):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(
        self, x_BLD: Float[Tensor, "B L D"], query_BMD: Float[Tensor, "B M D"] | None = None
    ) -> Float[Tensor, "B M D"]:
        """Mix the places with each other, or into the queries.

        Args:
            x_BLD: stream at all places.
            query_BMD: what attends to them; they themselves if left out.
        """
        normal_BLD = self.norm(x_BLD)
        stream_BMD, asked_BMD = (x_BLD, normal_BLD) if query_BMD is None else (query_BMD, query_BMD)
        q, k, v = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.query(asked_BMD), self.key(normal_BLD), self.value(normal_BLD))
        )
        mixed_BMD = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        stream_BMD = stream_BMD + self.out(mixed_BMD)
        return stream_BMD + self.narrow(F.gelu(self.widen(self.mlp_norm(stream_BMD))))


class AttentivePool(nn.Module):
    """Three blocks of self-attention, and one in which a learned query reads the places.

    Source:
        Assran et al., "V-JEPA 2: self-supervised video models enable understanding, prediction and
        planning"; transformers' `VJEPA2AttentivePooler`, to which it is compared.
    """

    undecayed = ("query",)

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.blocks = nn.ModuleList(
            AttentiveBlock(width, heads, crossed=False) for _ in range(BLOCKS - 1)
        )
        self.crossed = AttentiveBlock(width, heads, crossed=True)

    def forward(self, x_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B D"]:
        """Pool the stream of clips at all places."""
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return self.crossed(x_BLD, self.query.to(x_BLD.dtype).expand(len(x_BLD), -1, -1))[:, 0]
