"""Decoders with heads that learn from labels: one on a whole model, or one behind every layer.

`WholeClassifier` sends the labels' gradient through the decoder. `StoppedProbes` never does: its
heads read detached streams, and the decoder goes on with its own next-token loss. Both answer
alike, so that one job trains either.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from toto.models import Decoder

INSIDE = "decoder."
"""What the names of the decoder's weights begin with in a classifier."""
Pooling: TypeAlias = Literal["average", "attention"]


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
    """`average` over all places, or `attention`: a learned query against learned keys and values,
    one cross-attention (docs/paper.md, P0.3)."""
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
        if self.pooling == "attention" and width % self.heads:
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
        if config.pooling == "attention":
            self.undecayed = ("query",)
            self.query = nn.Parameter(0.02 * torch.randn(config.heads, width // config.heads))
            self.key_value = nn.Linear(width, 2 * width, bias=False)
            nn.init.normal_(self.key_value.weight, std=1 / math.sqrt(width))
        self.classify = nn.Linear(width, classes)
        nn.init.normal_(self.classify.weight, std=2e-5)
        nn.init.zeros_(self.classify.bias)

    def forward(self, stream_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B J"]:
        """Score clips by the stream at all their places."""
        x_BLD = self.norm(stream_BLD)
        if self.config.pooling == "average":
            return self.classify(x_BLD.mean(1))
        k, v_BNLK = (
            part.unflatten(-1, (self.config.heads, -1)).transpose(1, 2)
            for part in self.key_value(x_BLD).chunk(2, dim=-1)
        )
        q_BN1K = self.query.to(k.dtype)[:, None].expand(len(k), -1, -1, -1)
        return self.classify(F.scaled_dot_product_attention(q_BN1K, k, v_BNLK).flatten(1))


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
    """A decoder that learns the next token, and a probe behind every layer that learns the label.

    Attributes:
        decoder: all of it.
        layers: that heads read: the embedding (0) and all blocks.
        apart: parts that learn from losses of their own: the decoder, and each probe.
    """

    def __init__(self, decoder: Decoder, head: HeadConfig, classes: int) -> None:
        """Put a probe behind every layer.

        Raises:
            ValueError: if the decoder reads patches, or its attention is not causal.
        """
        super().__init__()
        if decoder.config.patch_values:
            raise ValueError(
                "protocol 'stop-gradient' predicts the next token of what it reads, and this run "
                "reads patches; --protocol whole"
            )
        self.decoder, self.layers = decoder, tuple(range(decoder.config.depth + 1))
        self.probes = nn.ModuleList(head.build(decoder.config.width, classes) for _ in self.layers)
        self.apart: tuple[nn.Module, ...] = (decoder, *self.probes)

    def forward(
        self, ids: Int64[Tensor, "B L_plus_1"], patches: Float[Tensor, "B L P"] | None = None
    ) -> Answer:
        """Score clips by every layer, and predict their tokens.

        Args:
            ids: whole sequences.
            patches: none.
        """
        decoder = self.decoder
        streams = decoder.hidden(ids[:, :-1], self.layers, patches)
        readout = decoder.embedding if decoder.head is None else decoder.head
        count = ids.shape[0] * (ids.shape[1] - 1)
        loss = decoder.cross_entropy(
            decoder.norm(streams[self.layers[-1]]),
            readout.weight,
            ids[:, 1:],
            torch.full_like(ids[:, 1:], 1 / count, dtype=torch.float32),
        )
        scores = [
            probe(streams[layer][:, 1:].detach())
            for layer, probe in zip(self.layers, self.probes, strict=True)
        ]
        return Answer(torch.stack(scores), loss)


Classifier: TypeAlias = WholeClassifier | StoppedProbes
