"""The gate of a SwiGLU (arXiv 2002.05202)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def silu_gate(gate_up_BLF: Float[Tensor, "B L 2*F"]) -> Float[Tensor, "B L F"]:
    """Let the first half of the channels open and close the second: silu(gate) * up."""
    gate_BLF, up_BLF = gate_up_BLF.chunk(2, dim=-1)
    return F.silu(gate_BLF) * up_BLF
