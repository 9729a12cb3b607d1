"""What the decoders share: embedding, blocks in a row, a last norm, the output matrix.

An architecture gives its blocks, its norms, its fresh weights, what it keeps of the positions
already read, and how it tells positions apart.
"""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from toto.models.cache import KVCache, RecurrentState
from toto.models.cross_entropy import CrossEntropy
from toto.types import SPECIALS

if TYPE_CHECKING:
    from toto.models import DecoderConfig

ConfigT = TypeVar("ConfigT", bound="DecoderConfig")


class SequenceModel(nn.Module, Generic[ConfigT]):
    """From ids to logits; or, as configured, from or to patches.

    Args:
        config: of the architecture.
        embedded: how many ids have an embedding.
        blocks: in order; each takes the stream, what `_placed` gives beside it, and the cache.
        norm: of what the output matrix reads.
    """

    def __init__(
        self,
        config: ConfigT,
        *,
        embedded: int,
        blocks: Iterable[nn.Module],
        norm: nn.LayerNorm | nn.RMSNorm,
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(embedded, config.width)
        self.projection = (
            nn.Linear(config.patch_values, config.width, bias=False)
            if config.patch_values
            else None
        )
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = None if config.tied else nn.Linear(config.width, config.outputs, bias=False)
        self.cross_entropy = CrossEntropy()

    def forward(
        self,
        ids: Int64[Tensor, "B L"],
        cache: KVCache | RecurrentState | None = None,
        patches: Float[Tensor, "B L P"] | None = None,
        *,
        targets: Int64[Tensor, "B L"] | None = None,
        weight: Float32[Tensor, "B L"] | None = None,
        only_last: bool = False,
    ) -> Float[Tensor, "B L V"] | Float32[Tensor, ""]:
        """Score the token after each position, or give the values of the patch after it.

        With targets, give their weighted sum of cross-entropies instead, in nats. It is the same
        number without the scores of all places (`toto.models.cross_entropy`).

        Args:
            ids: tokens; with a cache, only those that it has not read yet.
            cache: what `new_cache` gave, behind the positions before `ids`; it takes up the new
                ones.
            patches: for a model that reads patches, normalised values at every place of `ids`;
                where the id is a special one they are not looked at.
            targets: the ids to predict.
            weight: what each of them counts.
            only_last: score the token after the last position alone, L = 1 in the answer.

        Raises:
            ValueError: if the sequence, with what the cache has read, exceeds the context, or
                patches are given to a model that does not read them, or not to one that does.
        """
        hidden = self._run(ids, cache, {self.config.depth}, patches)[self.config.depth]
        x_BLD = self.norm(hidden[:, -1:] if only_last else hidden)
        readout = self.embedding if self.head is None else self.head
        if targets is not None and weight is not None:
            return self.cross_entropy(x_BLD, readout.weight, targets, weight)
        return F.linear(x_BLD, readout.weight)

    def hidden(
        self,
        ids: Int64[Tensor, "B L"],
        layers: Collection[int],
        patches: Float[Tensor, "B L P"] | None = None,
        cache: KVCache | RecurrentState | None = None,
    ) -> dict[int, Float[Tensor, "B L D"]]:
        """The residual stream behind the layers asked for, in one pass that stops at the last.

        Layer 0 is what the first block reads and layer l the output of block l, so that `depth`
        is the last. A cache takes up the layers that are passed, so it must be asked for the same
        layers every time.

        Raises:
            ValueError: if a layer is not in 0..depth, the sequence exceeds the context, or
                patches are missing or not read.
        """
        for layer in layers:
            if not 0 <= layer <= self.config.depth:
                raise ValueError(f"layer {layer} is not in 0..{self.config.depth}")
        return self._run(ids, cache, set(layers), patches)

    def _run(
        self,
        ids: Int64[Tensor, "B L"],
        cache: KVCache | RecurrentState | None,
        layers: set[int],
        patches: Float[Tensor, "B L P"] | None,
    ) -> dict[int, Float[Tensor, "B L D"]]:
        past = cache.length if cache else 0
        total = past + ids.shape[1]
        if total > self.config.context and not (cache and cache.endless):
            raise ValueError(f"{total} tokens do not fit a context of {self.config.context}")
        x_BLD, *beside = self._placed(self._embedded(ids, patches), range(past, total))
        kept = {0: x_BLD} if 0 in layers else {}
        for number, block in enumerate(self.blocks[: max(layers, default=0)], start=1):
            x_BLD = block(x_BLD, *beside, cache)
            if number in layers:
                kept[number] = x_BLD
        if cache:
            cache.length = total
        return kept

    def _placed(self, x_BLD: Float[Tensor, "B L D"], places: range) -> tuple[Tensor, ...]:
        """Give the stream at these places of a sequence, and what all blocks read beside it."""
        return (x_BLD,)

    def _embedded(
        self, ids: Int64[Tensor, "B L"], patches: Float[Tensor, "B L P"] | None
    ) -> Float[Tensor, "B L D"]:
        if self.projection is None:
            if patches is not None:
                raise ValueError("the model reads ids, not patches; build it with patch_values")
            return self.embedding(ids)
        if patches is None:
            raise ValueError(
                f"the model reads patches of {self.config.patch_values} values; give them with ids"
            )
        special = ids - (self.config.vocab_size - SPECIALS)
        return torch.where(
            (special >= 0)[..., None],
            self.embedding(special.clamp_min(0)),
            self.projection(patches),
        )
