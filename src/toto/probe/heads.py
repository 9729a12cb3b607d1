"""Heads that score a clip by one layer's features, all of one query: so all of them pool at once.

A head with a single query never needs its keys: q . (W_k x) = (W_k^T q) . x. What is left of keys
and query is one vector a head of attention, its gaze, and any number of gazes are one matrix
product with the features. Values follow after pooling, since they are linear too. The parameters
are those of the sources; only the order of multiplication is another. So many heads at many rates
cost little more than one.

Every head reads features that are standardised by channel with the training split's mean and
deviation: layers differ in scale by orders of magnitude, and AIM's probe begins with just that.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

HeadName: TypeAlias = Literal["average", "attention", "attention-mlp", "aim", "v-jepa"]


class AverageHead(nn.Module):
    """The mean over all places, then one linear layer: the paper's linear probe."""

    def __init__(self, width: int, classes: int, heads: int) -> None:
        super().__init__()
        self.classify = _zeros(width, classes)

    def forward(self, average_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B J"]:
        """Score clips by standardised means."""
        return self.classify(average_BD)


class AttentionHead(nn.Module):
    """Learned query, W_k and W_v, then one linear layer: the paper's probe (docs/paper.md, P0.3).

    The paper gives neither norm nor number of heads. Queries begin small and the classifier at 0,
    as in `toto probe`.
    """

    by_place = False

    def __init__(self, width: int, classes: int, heads: int) -> None:
        super().__init__()
        small = 1 / math.sqrt(width)
        self.query = nn.Parameter(0.02 * torch.randn(heads, width // heads))
        self.key = nn.Parameter(small * torch.randn(heads, width // heads, width))
        self.value = nn.Parameter(small * torch.randn(heads, width // heads, width))
        self.classify = _zeros(width, classes)

    def gaze(self) -> Float[Tensor, "N D"]:
        """What the features are compared with."""
        return _gaze(self.query, self.key)

    def pooled(self, pooled_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        """Make the values of what the attention has pooled."""
        return _values(self.value, pooled_BND)

    def forward(self, pooled_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B J"]:
        """Score clips by what each head of attention has pooled."""
        return self.classify(self.pooled(pooled_BND))


class AttentionMlpHead(AttentionHead):
    """Cross-attention, then an MLP: what the paper's Table 16 calls the full classifier.

    It gives no sizes; ours is one hidden layer as wide as the features, GELU.
    """

    def __init__(self, width: int, classes: int, heads: int) -> None:
        super().__init__(width, classes, heads)
        self.hidden = nn.Linear(width, width)

    def forward(self, pooled_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B J"]:
        """Score clips by what each head of attention has pooled."""
        return self.classify(F.gelu(self.hidden(self.pooled(pooled_BND))))


class AimHead(AttentionHead):
    """AIM's attentive probe: standardised features, a class token as query, keys and values.

    Batch norm without gain; its running statistics are here the training split's own. Unlike
    `AttentionHead` all weights begin as torch's linear layers do, the classifier too. AIM reads
    the mean of six layers, the atlas one layer at a time.

    Source:
        El-Nouby et al., "Scalable pre-training of large autoregressive image models"; apple/ml-aim.
    """

    def __init__(self, width: int, classes: int, heads: int) -> None:
        super().__init__(width, classes, heads)
        bound = 1 / math.sqrt(width)
        nn.init.uniform_(self.key, -bound, bound)
        nn.init.uniform_(self.value, -bound, bound)
        self.classify.reset_parameters()


class VJepaHead(nn.Module):
    """V-JEPA's attentive probe: a query's pre-norm cross-attention block with an MLP of 4 x width.

    Its LayerNorm of the features comes after their standardisation, which stands for the encoder's
    own last norm.

    That of V-JEPA 2 has three blocks of self-attention before; it cannot be folded, and training
    it at every layer costs many times the encoder. It is `toto.probe.attentive`, for one layer.

    Source:
        Bardes et al., "Revisiting feature prediction for learning visual representations from
        video"; facebookresearch/jepa, `src/models/attentive_pooler.py`.
    """

    by_place = True

    def __init__(self, width: int, classes: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(width))
        self.gain = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self.to_query = nn.Linear(width, width)
        # A bias of the keys adds the same to all scores of a head, which the softmax does not see.
        self.key = nn.Parameter(torch.empty(heads, width // heads, width))
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.classify = nn.Linear(width, classes)
        for weight in (self.query, self.key):
            nn.init.trunc_normal_(weight, std=0.02)
        for linear in (self.to_query, self.value, self.out, self.widen, self.narrow, self.classify):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            for linear in (self.out, self.narrow):
                linear.weight.div_(math.sqrt(2))

    def gaze(self) -> Float[Tensor, "N D"]:
        """What the features, normalised by place, are compared with."""
        return self.gain * _gaze(self.to_query(self.query).unflatten(0, (self.heads, -1)), self.key)

    def forward(self, pooled_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B J"]:
        """Score clips by what each head of attention has pooled."""
        normal_BND = self.gain * pooled_BND + self.shift
        # The weights of a head sum to 1, so the bias of the values passes through the pooling.
        value = self.value.weight.unflatten(0, (self.heads, -1))
        stream = self.query + self.out(_values(value, normal_BND) + self.value.bias)
        stream = stream + self.narrow(F.gelu(self.widen(self.norm(stream))))
        return self.classify(stream)


PoolingHead: TypeAlias = AttentionHead | VJepaHead
HEADS: dict[HeadName, type[AverageHead] | type[PoolingHead]] = {
    "average": AverageHead,
    "attention": AttentionHead,
    "attention-mlp": AttentionMlpHead,
    "aim": AimHead,
    "v-jepa": VJepaHead,
}
"""Name to class; each is made of width, classes and heads of attention. Registered means tested."""


class HeadBank(nn.Module):
    """Heads on one layer, each kind once for each learning rate; none shares a parameter.

    Args:
        names: kinds of heads.
        copies: how many of each; they differ in their rate alone and begin alike.
        width: D.
        classes: J.
        heads: of attention, in each head that attends.

    Raises:
        ValueError: if the heads of attention do not divide the width.
    """

    def __init__(
        self,
        names: Sequence[HeadName],
        *,
        copies: int,
        width: int,
        classes: int,
        heads: int,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.attention_heads = heads
        first = nn.ModuleList(HEADS[name](width, classes, heads) for name in names)
        self.copies = nn.ModuleList(deepcopy(first) for _ in range(copies))

    def heads(self) -> list[nn.Module]:
        """All heads of the first copy, then all of the second, and so on."""
        return [head for copy in self.copies for head in copy.children()]

    def forward(
        self,
        tokens_BLD: Float[Tensor, "B L D"],
        average_BD: Float[Tensor, "B D"],
        spread_BL: Float[Tensor, "B L"],
    ) -> Float[Tensor, "R K B J"]:
        """Score clips by every copy of every head.

        Args:
            tokens_BLD: the layer's features, standardised by channel.
            average_BD: their mean over the places.
            spread_BL: standard deviation over the channels at each place.
        """
        heads = self.heads()
        attending = [head for head in heads if isinstance(head, AttentionHead | VJepaHead)]
        pooled = iter(self._pool(attending, tokens_BLD, spread_BL))
        scores = [
            head(average_BD if isinstance(head, AverageHead) else next(pooled)) for head in heads
        ]
        return torch.stack([score.float() for score in scores]).unflatten(0, (len(self.copies), -1))

    def _pool(
        self, attending: Sequence[PoolingHead], tokens_BLD: Tensor, spread_BL: Tensor
    ) -> list[Tensor]:
        """Pool the features by each head's attention: [B N D]."""
        if not attending:
            return []
        # A LayerNorm takes off a place's mean, which here goes with the mean of the gaze, and
        # divides by its spread, which here multiplies scores and weights.
        plain = [head.gaze() for head in attending if not head.by_place]
        normal = [_centred(head.gaze()) for head in attending if head.by_place]
        gazes_QD = torch.cat([*plain, *normal]).to(tokens_BLD.dtype)
        scores_BQL = torch.matmul(gazes_QD, tokens_BLD.transpose(1, 2))
        # Split and not sliced: the gradient of a slice is a matrix of zeros around it.
        parts = [len(plain) * self.attention_heads, len(normal) * self.attention_heads]
        plain_BQL, normal_BQL = scores_BQL.split(parts, dim=1)
        weights = [plain_BQL.softmax(-1)]
        if normal:
            scale_B1L = (1 / spread_BL).to(tokens_BLD.dtype)[:, None]
            weights.append((normal_BQL * scale_B1L).softmax(-1) * scale_B1L)
        pooled_BQD = torch.matmul(torch.cat(weights, dim=1), tokens_BLD)
        plain_BQD, normal_BQD = pooled_BQD.split(parts, dim=1)
        channels = iter(plain_BQD.split(self.attention_heads, dim=1))
        places = iter(_centred(normal_BQD).split(self.attention_heads, dim=1))
        return [next(places if head.by_place else channels) for head in attending]


def _zeros(width: int, classes: int) -> nn.Linear:
    linear = nn.Linear(width, classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _gaze(query_NK: Tensor, key_NKD: Tensor) -> Tensor:
    return torch.einsum("nk,nkd->nd", query_NK, key_NKD) / math.sqrt(query_NK.shape[-1])


def _values(value_NKD: Tensor, pooled_BND: Tensor) -> Tensor:
    return torch.einsum("bnd,nkd->bnk", pooled_BND, value_NKD).flatten(1)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)
