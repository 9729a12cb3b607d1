"""The decoder: LLaMA with RMSNorm, SwiGLU, rotary positions and pre-norm residuals.

It reads ids, or patches of pixels between special ids, and predicts the next id or patch.

The paper's printed block equations add the residual to the normalised stream; standard LLaMA,
which its text names, does not, and neither do we (docs/paper.md, C9).
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from toto.models.attention import Angles, causal_attention
from toto.models.cache import KVCache
from toto.models.gate import silu_gate
from toto.models.mup import Kind, MuP, Scales, scales
from toto.models.rope import far_tables, rotary_tables
from toto.models.sequence_model import SequenceModel
from toto.types import SPECIALS


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaConfig:
    """Size and shape of the decoder; the published sizes are in `toto.recipes`."""

    vocab_size: int
    """Ids the model can read and predict, special tokens included; 4 where patches are predicted:
    one that stands for any patch, and the special ones."""
    width: int
    depth: int
    heads: int
    mlp_width: int
    """Hidden width of the SwiGLU, of which there are three matrices a block."""
    context: int = 4098
    """Longest sequence, in tokens: 16 frames of 16 x 16 and the start and end tokens."""
    tied: bool = False
    """Whether the output matrix is the embedding."""
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    init_std: float = 0.02
    """Standard deviation of fresh weights; the two matrices that write into the residual stream
    get it divided by sqrt(2 depth). The paper gives none: LLaMA's sibling code uses 0.02."""
    patch_values: int = 0
    """Values of a patch, 3 x side x side, where patches are read; 0: ids are. Special ids are
    embedded all the same."""
    predicts: Literal["tokens", "patches"] = "tokens"
    """`tokens`: a score of each id. `patches`: the values of the next patch, which only a model
    that reads patches can be asked for."""
    mup: MuP = field(default_factory=MuP)
    """Width-independent parametrisation; not used by default."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "depth", "heads", "mlp_width", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} does not divide into {self.heads} heads of an even width"
            )
        if self.patch_values < 0:
            raise ValueError(f"patch_values {self.patch_values} must be 0 (ids are read) or more")
        if self.patch_values and self.vocab_size <= SPECIALS:
            raise ValueError(f"vocab_size {self.vocab_size} leaves no id beside the special ones")
        if self.patch_values and self.tied:
            raise ValueError("tied: a model that reads patches has no embedding of its outputs")
        if self.mup.base_width and self.tied:
            raise ValueError(
                f"tied: under muP (base_width {self.mup.base_width}) embedding and output matrix "
                "learn at different rates; leave tied off"
            )
        if self.tied and self.mup.zero_readout:
            raise ValueError("zero_readout: a tied model would begin with embeddings of 0")
        if self.predicts == "patches" and not self.patch_values:
            raise ValueError("predicts patches, but reads ids; set patch_values")
        if self.predicts == "patches" and self.vocab_size != SPECIALS + 1:
            raise ValueError(
                f"vocab_size {self.vocab_size} must be {SPECIALS + 1} where patches are predicted: "
                "one id for any patch, and the special ones"
            )

    @property
    def head_width(self) -> int:
        """K, channels of one head."""
        return self.width // self.heads

    @property
    def embedded(self) -> int:
        """How many ids have an embedding: where patches are read, the special ones alone."""
        return SPECIALS if self.patch_values else self.vocab_size

    @property
    def outputs(self) -> int:
        """Numbers that the head gives at each position."""
        return self.patch_values if self.predicts == "patches" else self.vocab_size

    def build(self) -> "Llama":
        """Make the model these sizes describe, with fresh weights."""
        return Llama(self)


class Attention(nn.Module):
    """Self-attention with rotary positions, causal unless `set_direction` changes `attend`."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.layer, self.attend = config.heads, layer, causal_attention
        self.scale = config.mup.attention_scale(config.width, config.heads)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self,
        x_BLD: Float[Tensor, "B L D"],
        cos_LK: Float[Tensor, "L K"],
        sin_LK: Float[Tensor, "L K"],
        cache: KVCache | None,
    ) -> Float[Tensor, "B L D"]:
        """Mix each position with those that it may look at."""
        mixed_BLD = self.attend(
            self.qkv(x_BLD),
            (cos_LK, sin_LK),
            cache,
            self.layer,
            heads=self.heads,
            scale=self.scale,
        )
        return self.out(mixed_BLD)


class SwiGLU(nn.Module):
    """Gated MLP: down(silu(gate(x)) * up(x)); gate and up are one matrix."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate = silu_gate
        self.gate_up = nn.Linear(config.width, 2 * config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Transform each position alone."""
        return self.down(self.gate(self.gate_up(x_BLD)))


class Block(nn.Module):
    """Attention and MLP, each added to the stream it read normalised."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(
        self,
        x_BLD: Float[Tensor, "B L D"],
        cos_LK: Float[Tensor, "L K"],
        sin_LK: Float[Tensor, "L K"],
        cache: KVCache | None,
    ) -> Float[Tensor, "B L D"]:
        """Pass the stream through both halves."""
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), cos_LK, sin_LK, cache)
        return x_BLD + self.mlp(self.mlp_norm(x_BLD))


class Llama(SequenceModel[LlamaConfig]):
    """The whole decoder: from ids to logits; or, as configured, from or to patches."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(
            config,
            embedded=config.embedded,
            blocks=(Block(config, layer) for layer in range(config.depth)),
            norm=nn.RMSNorm(config.width, eps=config.norm_eps),
        )
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Fill all weights afresh.

        Matrices, projection and embedding N(0, init_std^2), `attention.out` and `mlp.down`
        N(0, init_std^2 / (2 depth)), norm gains 1; as `mup` scales them, or 0 where it says so.
        """
        scales_of = self.width_scales()
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.ones_(parameter)
                continue
            std = self.config.init_std * scales_of[name].init_std
            if name.endswith(("attention.out.weight", "mlp.down.weight")):
                std /= math.sqrt(2 * self.config.depth)
            nn.init.normal_(parameter, std=std)
            if name.endswith("qkv.weight") and self.config.mup.zero_query:
                parameter[: self.config.width].zero_()
            if name == "head.weight" and self.config.mup.zero_readout:
                parameter.zero_()

    def width_scales(self) -> dict[str, Scales]:
        """By what muP multiplies each parameter's initialisation and its settings of AdamW."""
        ratio = self.config.mup.ratio(self.config.width)

        def kind(name: str, parameter: nn.Parameter) -> Kind:
            if parameter.ndim == 1 or name.startswith(("embedding.", "projection.")):
                return "vector"
            return "readout" if name.startswith("head.") else "matrix"

        return {name: scales(kind(name, p), ratio) for name, p in self.named_parameters()}

    def new_cache(self, batch: int, dtype: torch.dtype = torch.float32) -> KVCache:
        """Make an empty cache for `batch` sequences, on the model's device."""
        return KVCache.empty(
            layers=self.config.depth,
            batch=batch,
            heads=self.config.heads,
            context=self.config.context,
            head_width=self.config.head_width,
            dtype=dtype,
            device=self.embedding.weight.device,
        )

    def angles(self, places: range, device: torch.device | None = None) -> Angles:
        """Cosines and sines of these places of a sequence; they may lie beyond the context."""
        head_width, base = self.config.head_width, self.config.rope_base
        if places.stop > self.config.context:
            return far_tables(places, head_width, base, device)
        cos_LK, sin_LK = rotary_tables(places.stop, head_width, base, device)
        return cos_LK[places.start :], sin_LK[places.start :]

    def _placed(self, x_BLD: Float[Tensor, "B L D"], places: range) -> tuple[Tensor, ...]:
        """Give the stream as it is, and the cosines and sines that turn queries and keys."""
        return (x_BLD, *self.angles(places, x_BLD.device))
