"""muP, the width-independent parametrisation: what is tuned on a narrow model holds for a wide one.

m is width / base width. Against the standard parametrisation of the base width,

| parameter | init std | Adam's rate | weight decay | Adam's eps | source |
|---|---|---|---|---|---|
| embedding, patch projection | 1 | 1 | 1 | 1/m | [1] Table 3, [3]; eps: ours, after [4] |
| norm gains | 1 | 1 | none | 1/m | [1] Table 3, [2]; eps: ours, after [4] |
| matrices of the blocks | 1/sqrt(m) | 1/m | m | 1/m | [1] Table 3, [2], [3]; decay: [2] |
| readout | 1/m | 1/m | m | 1 | [1] Table 3, [3]; decay: as [2] does for matrices |

and the attention's logits are q.k sqrt(base head width) / head width: [1] definition 4.1, whose
constant [2] chooses so that it meets 1 / sqrt(head width) at the base. At m = 1 every entry is 1,
so that the model, its fresh weights and every step of AdamW are those of the standard one.

Two forms of it are published. [2] keeps a multiplier 1/m in front of the readout, whose weights get
the factor sqrt(m) over the standard ones and Adam's full rate; [3] puts the same into the readout's
std and rate. Under Adam they are the same training, and ours is that of [3]: no number but the
attention's scale is added to the forward pass, so that a fused loss, a cache or an export need not
know of it. A tied head is refused, since one matrix cannot have two rates. What we do not take from
[3]: its embeddings of N(0, 1), without which our base would not be the standard model, and norms
without gains.

Weight decay: AdamW takes rate x decay off a weight, so that m times the decay keeps the share
taken a step the same at every width ([2], MuAdamW). Adam's eps: gradients shrink as 1/m but for the
readout's, and an eps that did not would end the independence once they come near it.

What the paper gives: it is muP, head counts stay (16, head width grows), widths 64 to 1536, rates
2^-20 to 2^0, the best of all widths 2^-7. What it does not: base width, which form, depth, steps,
weight decay, initialisation; and its three main models are trained at 3e-4 without it. Those are
ours to choose. Transfer is promised for one depth.

Sources:
    [1] Yang et al., Tensor Programs V, arXiv 2203.03466.
    [2] github.com/microsoft/mup: `optim.py`, `layer.py` and its notes on attention.
    [3] github.com/lucaslingle/mu_transformer, arXiv 2404.05728.
    [4] Everett et al., Scaling Exponents Across Parameterizations and Optimizers, arXiv 2407.05872.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, kw_only=True, slots=True)
class MuP:
    """Whether a model's weights, rates and attention are scaled with its width, and from where."""

    base_width: int = 0
    """Width at which muP is the standard parametrisation; 0: not used. The paper gives none."""
    base_heads: int = 0
    """Heads at the base width; 0: as many as the model has, so that heads grow with the width, as
    in the paper. With the width of heads held constant, give base_width / head width."""
    zero_query: bool = False
    """Begin with queries of 0: every place attends equally until it has learnt. [2] advises it,
    since random queries and keys give logits that fall as 1 / sqrt(head width)."""
    zero_readout: bool = False
    """Begin with logits of 0. [2] advises it, for the like reason."""

    def __post_init__(self) -> None:
        for name in ("base_width", "base_heads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} must be 0 or more")
        if self.base_heads and not self.base_width:
            raise ValueError(f"base_heads {self.base_heads} needs a base_width")

    def ratio(self, width: int) -> float:
        """Give m: how much wider a model is than its base; 1 where muP is not used."""
        return width / self.base_width if self.base_width else 1.0

    def attention_scale(self, width: int, heads: int) -> float | None:
        """What q.k is multiplied by; None where muP is not used: 1 / sqrt(head width)."""
        if not self.base_width:
            return None
        base_head_width = self.base_width / (self.base_heads or heads)
        return math.sqrt(base_head_width * heads / width) / math.sqrt(width / heads)


Kind: TypeAlias = Literal["vector", "matrix", "readout"]
"""How many sides of a parameter grow with the width: one, as that of a norm's gain or of what reads
something of fixed size (`vector`); both (`matrix`); or only the side it reads (`readout`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scales:
    """By what one parameter's settings are multiplied; all 1 at the base width.

    Attributes:
        init_std: of its fresh values.
        lr: Adam's rate.
        weight_decay: where it is decayed.
        eps: Adam's.
    """

    init_std: float = 1.0
    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


def scales(kind: Kind, ratio: float) -> Scales:
    """Give a row of the table above.

    Args:
        kind: of the parameter.
        ratio: m.
    """
    if kind == "vector":
        return Scales(eps=1 / ratio)
    if kind == "matrix":
        return Scales(init_std=ratio**-0.5, lr=1 / ratio, weight_decay=ratio, eps=1 / ratio)
    return Scales(init_std=1 / ratio, lr=1 / ratio, weight_decay=ratio)
