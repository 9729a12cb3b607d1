"""What a decoder's matrices are rounded to where they are only read."""

from typing import Literal

from jaxtyping import Float, Float32
from torch import Tensor

Weights = Literal["fp32", "bf16", "int8"]
"""What matrices are kept in. int8: whole numbers of -127 to 127 with one scale a row. With bf16 and
int8 products are in bf16."""
WEIGHTS: tuple[Weights, ...] = ("fp32", "bf16", "int8")


def int8_rows(
    weight: Float32[Tensor, "O I"],
) -> tuple[Float32[Tensor, "O I"], Float32[Tensor, " O"]]:
    """Split a matrix into whole numbers of -127 to 127, and what each row is multiplied by."""
    scale = weight.abs().amax(1) / 127
    scale = scale.where(scale > 0, 1.0)  # a row of zeros
    return (weight / scale[:, None]).round(), scale


def rounded(weight: Float[Tensor, "O I"], weights: Weights) -> Float[Tensor, "O I"]:
    """Give a matrix as it is computed with, in the type of the products."""
    if weights == "fp32":
        return weight
    if weights == "int8":
        whole, scale = int8_rows(weight)
        weight = whole * scale[:, None]
    return weight.bfloat16()
