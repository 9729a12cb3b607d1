"""A model at other widths, with muP or without; everything else stays as it is."""

from dataclasses import replace
from typing import Literal

from toto.models.llama import LlamaConfig

Growth = Literal["head width", "heads"]
"""What grows with the width: the width of the heads, as in the paper, or their number."""


def widened(model: LlamaConfig, width: int, growth: Growth = "head width") -> LlamaConfig:
    """Give the same model at another width, the MLP in proportion.

    Raises:
        ValueError: if the MLP's width or the number of heads would not be whole.
    """
    heads = model.heads if growth == "head width" else _share(model.heads, model, width, "heads")
    base_heads = model.mup.base_heads
    if growth == "heads" and model.mup.base_width and not base_heads:
        base_heads = _share(model.heads, model, model.mup.base_width, "base_heads")
    return replace(
        model,
        width=width,
        heads=heads,
        mlp_width=_share(model.mlp_width, model, width, "an MLP"),
        mup=replace(model.mup, base_heads=base_heads),
    )


def standard(model: LlamaConfig) -> LlamaConfig:
    """Give the model without muP; queries and readout that begin at 0 still do."""
    return replace(model, mup=replace(model.mup, base_width=0, base_heads=0))


def _share(count: int, model: LlamaConfig, width: int, what: str) -> int:
    if count * width % model.width:
        raise ValueError(
            f"width {width} would make {what} of {count * width / model.width:g}; choose a "
            f"multiple of the model's width {model.width}"
        )
    return count * width // model.width
