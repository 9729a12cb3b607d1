"""GPT-2 over token ids, with sines and cosines for positions.

The paper trains one of 280 M parameters beside its decoder (Table 6: 48.5 against 53.2) and says
that its positions are absolute, sine-cosine. Sizes it does not print: those of the `gpt2` recipe
are ours. Everything but the positions is GPT-2's: LayerNorm before each part, biases, an MLP of
4 x width with the tanh form of GELU, the output matrix that is the embedding. Checked against
transformers' `GPT2LMHeadModel`, with our table for its learned one, in tests/numerics.

Sources: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019); positions:
Vaswani et al., arXiv 1706.03762, section 3.5.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from toto.models.attention import causal_attention
from toto.models.cache import KVCache
from toto.models.sequence_model import SequenceModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpt2Config:
    """Size and shape of a GPT-2; it reads and predicts ids only."""

    patch_values: ClassVar[int] = 0
    predicts: ClassVar[Literal["tokens"]] = "tokens"

    vocab_size: int
    """Ids the model can read and predict, special tokens included."""
    width: int
    depth: int
    heads: int
    context: int = 4098
    """Longest sequence, in tokens: 16 frames of 16 x 16 and the start and end tokens."""
    tied: bool = True
    """Whether the output matrix is the embedding; in GPT-2 it is."""
    norm_eps: float = 1e-5
    init_std: float = 0.02
    """Standard deviation of fresh weights; the two matrices that write into the residual stream
    get it divided by sqrt(2 depth)."""
    position_scale: float = 1.0
    """Root mean square of the positions, as a multiple of init_std: at 1 a place weighs as much as
    a fresh code, as with GPT-2's learned positions. Not in the paper: sines of amplitude 1 are 35
    at an init_std of 0.02, beside which a fresh code is hardly seen."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "depth", "heads", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width {self.width} must be even and divide into {self.heads} heads")

    @property
    def head_width(self) -> int:
        """K, channels of one head."""
        return self.width // self.heads

    @property
    def mlp_width(self) -> int:
        """Hidden width of the MLP: 4 x width."""
        return 4 * self.width

    @property
    def outputs(self) -> int:
        """Numbers that the head gives at each position."""
        return self.vocab_size

    def positions(
        self, places: range, device: torch.device | None = None
    ) -> Float32[Tensor, "L D"]:
        """What is added to the embeddings at these places of a sequence."""
        # A sine's mean square is 1/2.
        scale = self.position_scale * self.init_std * math.sqrt(2)
        return scale * sine_table(places, self.width, device)

    def build(self) -> "Gpt2":
        """Make the model these sizes describe, with fresh weights."""
        return Gpt2(self)


def sine_table(
    positions: range, width: int, device: torch.device | None = None
) -> Float32[Tensor, "L D"]:
    """Sines and cosines of positions, in turn: channels 2 i and 2 i + 1 turn at one rate.

    Args:
        positions: which; wavelengths run from 2 pi to 2 pi x 10,000 of them.
        width: D, even.
        device: where to make it.
    """
    rate = 10_000 ** (-torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
    place = torch.arange(positions.start, positions.stop, dtype=torch.float32, device=device)
    angle = place[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class Attention(nn.Module):
    """Self-attention, causal unless `set_direction` changes `attend`.

    It knows of positions only what the stream holds.
    """

    def __init__(self, config: Gpt2Config, layer: int) -> None:
        super().__init__()
        self.heads, self.layer, self.attend = config.heads, layer, causal_attention
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self, x_BLD: Float[Tensor, "B L D"], cache: KVCache | None
    ) -> Float[Tensor, "B L D"]:
        """Mix each position with those that it may look at."""
        return self.out(self.attend(self.qkv(x_BLD), None, cache, self.layer, heads=self.heads))


class MLP(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.mlp_width)
        self.down = nn.Linear(config.mlp_width, config.width)

    def forward(self, x_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Transform each position alone."""
        return self.down(F.gelu(self.up(x_BLD), approximate="tanh"))


class Block(nn.Module):
    """Attention and MLP, each added to the stream it read normalised."""

    def __init__(self, config: Gpt2Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x_BLD: Float[Tensor, "B L D"], cache: KVCache | None
    ) -> Float[Tensor, "B L D"]:
        """Pass the stream through both halves."""
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), cache)
        return x_BLD + self.mlp(self.mlp_norm(x_BLD))


class Gpt2(SequenceModel[Gpt2Config]):
    """The whole decoder, from ids to logits."""

    def __init__(self, config: Gpt2Config) -> None:
        super().__init__(
            config,
            embedded=config.vocab_size,
            blocks=(Block(config, layer) for layer in range(config.depth)),
            norm=nn.LayerNorm(config.width, eps=config.norm_eps),
        )
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Fill all weights afresh, as GPT-2 does.

        Matrices and embedding N(0, init_std^2), `attention.out` and `mlp.down`
        N(0, init_std^2 / (2 depth)), biases 0, norm gains 1.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 1:
                nn.init.ones_(parameter)
            else:
                into_stream = name.endswith(("attention.out.weight", "mlp.down.weight"))
                share = math.sqrt(2 * self.config.depth) if into_stream else 1.0
                nn.init.normal_(parameter, std=self.config.init_std / share)

    def positions(self, places: range) -> Float32[Tensor, "L D"]:
        """What is added to the embeddings at these places of a sequence."""
        return self.config.positions(places, self.embedding.weight.device)

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

    def _placed(self, x_BLD: Float[Tensor, "B L D"], places: range) -> tuple[Tensor, ...]:
        """Give the stream with the positions in it."""
        return (x_BLD + self.positions(places),)
