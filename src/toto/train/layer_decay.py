"""Layer-wise decay of the learning rate: what lies nearer to the input changes less."""

import re
from collections.abc import Iterable

_BLOCK = re.compile(r"blocks\.(\d+)\.")


def layer_scales(
    names: Iterable[str], *, inside: str, layer: int, decay: float, head: float = 1.0
) -> dict[str, float]:
    """By what each parameter's learning rate is multiplied.

    Embedding and projection count as layer 0, block l as layer l, what is behind the blocks as
    layer `layer` + 1, which keeps the whole rate; each layer below has `decay` times the rate of
    the next.

    Args:
        names: of all parameters.
        inside: what the names of the decoder's parameters begin with.
        layer: the last layer that is read.
        decay: in (0, 1].
        head: what multiplies the rate of parameters that are not the decoder's.

    Source: BEiT, Bao et al., arXiv 2106.08254, whose counting MAE keeps.
    """
    return {
        name: decay ** (layer + 1 - _layer(name.removeprefix(inside), layer))
        if name.startswith(inside)
        else head
        for name in names
    }


def _layer(name: str, last: int) -> int:
    block = _BLOCK.match(name)
    if block is not None:
        # Blocks behind the last that is read have no gradient.
        return min(int(block[1]) + 1, last)
    return 0 if name.startswith(("embedding.", "projection.")) else last + 1
