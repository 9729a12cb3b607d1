"""Decoders with heads that learn from labels: one on a whole model, or one behind every layer.

`WholeClassifier` sends the labels' gradient through the decoder. `StoppedProbes` never does: its
heads read detached streams, and the decoder goes on with its own next-token loss, or stays as it
is. Both answer alike, so that one job trains either.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from toto.models import Decoder
from toto.probe.attentive import AttentivePool

INSIDE = "decoder."
"""What the names of the decoder's weights begin with in a classifier."""
Pooling: TypeAlias = Literal["average", "attention", "attention-mlp", "v-jepa-2"]


class Answer(NamedTuple):
    """What a classifier says of a batch.

    Attributes:
        scores: of each head, clip and class.
        next_token_loss: mean over the batch, in nats; None where labels alone are learnt from.
    """

    scores: Float[Tensor, "Z B J"]
    next_token_loss: Float32[Tensor, ""] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """What turns a layer's stream into scores of classes."""

    pooling: Pooling = "average"
    """`average` over all places; `attention`: a learned query against learned keys and values, one
    cross-attention (docs/paper.md, P0.3); `attention-mlp`: a hidden layer behind it, as wide as the
    features, with GELU (T16, which gives no sizes); `v-jepa-2`: its four blocks, too large to be
    trained behind every layer."""
    heads: int = 4
    """Of attention pooling; the paper gives none."""

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ValueError(f"heads {self.heads} must be at least 1")

    def build(self, width: int, classes: int) -> "Head":
        """Make the head for a stream of this width.

        Raises:
            ValueError: if the heads do not divide the width.
        """
        if self.pooling != "average" and width % self.heads:
            raise ValueError(f"width {width} is not a multiple of {self.heads} heads")
        return Head(self, width, classes)


class Head(nn.Module):
    """Normalise every place, pool, and score.

    The norm is a LayerNorm without gain: streams of different layers differ in scale by orders of
    magnitude, and one rate has to suit all heads. It is ours; the paper gives none. The scores
    begin near 0, as MAE's do.
    """

    def __init__(self, config: HeadConfig, width: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        if config.pooling == "v-jepa-2":
            self.pool: nn.Module | None = AttentivePool(width, config.heads)
        elif config.pooling == "average":
            self.pool = None
        else:
            self.pool = QueryPool(width, config.heads, hidden=config.pooling == "attention-mlp")
        self.classify = nn.Linear(width, classes)
        nn.init.normal_(self.classify.weight, std=2e-5)
        nn.init.zeros_(self.classify.bias)

    def forward(self, stream_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B J"]:
        """Score clips by the stream at all their places."""
        x_BLD = self.norm(stream_BLD)
        return self.classify(x_BLD.mean(1) if self.pool is None else self.pool(x_BLD))


class QueryPool(nn.Module):
    """One learned query against learned keys and values, and a hidden layer if asked for."""

    undecayed = ("query",)

    def __init__(self, width: int, heads: int, *, hidden: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(0.02 * torch.randn(heads, width // heads))
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        nn.init.normal_(self.key_value.weight, std=1 / math.sqrt(width))
        self.hidden = nn.Linear(width, width) if hidden else None

    def forward(self, x_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B D"]:
        """Pool the stream of clips at all places."""
        k, v_BNLK = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.key_value(x_BLD).chunk(2, dim=-1)
        )
        q_BN1K = self.query.to(k.dtype)[:, None].expand(len(k), -1, -1, -1)
        pooled_BD = F.scaled_dot_product_attention(q_BN1K, k, v_BNLK).flatten(1)
        return pooled_BD if self.hidden is None else F.gelu(self.hidden(pooled_BD))


class WholeClassifier(nn.Module):
    """A decoder and one head on one of its layers, trained together.

    What lies behind that layer is not read and gets no gradient.

    Attributes:
        decoder: all of it.
        layers: that heads read: one.
        apart: parts that learn from losses of their own; None where there is but one.
    """

    apart: None = None

    def __init__(self, decoder: Decoder, head: HeadConfig, classes: int, *, layer: int) -> None:
        """Put a head on a layer.

        Raises:
            ValueError: if there is no such layer.
        """
        super().__init__()
        if not 1 <= layer <= decoder.config.depth:
            raise ValueError(f"layer {layer} is not in 1..{decoder.config.depth}")
        self.decoder, self.layers = decoder, (layer,)
        for unread in (*decoder.blocks[layer:], decoder.norm, decoder.head):
            if unread is not None:
                unread.requires_grad_(False)
        self.head = head.build(decoder.config.width, classes)

    def forward(
        self, ids: Int64[Tensor, "B L_plus_1"], patches: Float[Tensor, "B L P"] | None = None
    ) -> Answer:
        """Score clips.

        Args:
            ids: whole sequences; the end is not read.
            patches: where the decoder reads them, at the places of the ids.
        """
        (layer,) = self.layers
        stream = self.decoder.hidden(ids[:, :-1], self.layers, patches)[layer]
        return Answer(self.head(stream[:, 1:])[None], None)


class StoppedProbes(nn.Module):
    """A decoder that learns the next token or nothing, with a probe behind every layer.

    Attributes:
        decoder: all of it.
        frozen: whether it learns nothing.
        layers: that heads read: the embedding (0) and all blocks, or one.
        apart: parts that learn from losses of their own: the decoder, if it does, and each probe.
    """

    def __init__(
        self,
        decoder: Decoder,
        head: HeadConfig,
        classes: int,
        *,
        frozen: bool = False,
        layer: int = 0,
    ) -> None:
        """Put a probe behind every layer, or one.

        Args:
            decoder: whose streams they read.
            head: of each.
            classes: that they score.
            frozen: whether the decoder learns nothing.
            layer: the only one that is read, where the decoder learns nothing; 0: all of them.

        Raises:
            ValueError: if there is no such layer, or the decoder reads patches and is to learn
                their tokens.
        """
        super().__init__()
        if decoder.config.patch_values and not frozen:
            raise ValueError(
                "protocol 'stop-gradient' predicts the next token of what it reads, and this run "
                "reads patches; --protocol whole, or frozen"
            )
        self.frozen = frozen
        decoder.requires_grad_(not frozen)
        if not 0 <= layer <= decoder.config.depth:
            raise ValueError(f"layer {layer} is not in 1..{decoder.config.depth}")
        self.decoder = decoder
        self.layers = (layer,) if layer else tuple(range(decoder.config.depth + 1))
        self.probes = nn.ModuleList(head.build(decoder.config.width, classes) for _ in self.layers)
        self.apart: tuple[nn.Module, ...] = (*([] if frozen else [decoder]), *self.probes)

    def forward(
        self, ids: Int64[Tensor, "B L_plus_1"], patches: Float[Tensor, "B L P"] | None = None
    ) -> Answer:
        """Score clips by every layer, and predict their tokens where that is learnt.

        Args:
            ids: whole sequences.
            patches: where a frozen decoder reads them, at the places of the ids.
        """
        # Without a graph where nothing is learnt: the streams of all layers would be kept for it.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            streams = self.decoder.hidden(ids[:, :-1], self.layers, patches)
        loss = None if self.frozen else self._next_token_loss(streams[self.layers[-1]], ids)
        scores = [
            probe(streams[layer][:, 1:].detach())
            for layer, probe in zip(self.layers, self.probes, strict=True)
        ]
        return Answer(torch.stack(scores), loss)

    def _next_token_loss(
        self, stream_BLD: Float[Tensor, "B L D"], ids: Int64[Tensor, "B L_plus_1"]
    ) -> Float32[Tensor, ""]:
        decoder = self.decoder
        readout = decoder.embedding if decoder.head is None else decoder.head
        count = ids.shape[0] * (ids.shape[1] - 1)
        return decoder.cross_entropy(
            decoder.norm(stream_BLD),
            readout.weight,
            ids[:, 1:],
            torch.full_like(ids[:, 1:], 1 / count, dtype=torch.float32),
        )


Classifier: TypeAlias = WholeClassifier | StoppedProbes
