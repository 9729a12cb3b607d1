"""Features of a frame that no trained decoder makes: the baselines that tracking is held against.

Each gives the features of one frame, one for each cell of a grid.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from toto.tokenizers import Tokenizer
from toto.tokenizers.quantised import Quantised, signed

FrameFeatures = Callable[[UInt8[Tensor, "H W 3"]], Float32[Tensor, "Y X D"]]
"""From one frame, whose sides are multiples of the cell's, to its features."""

_MEAN = torch.tensor([0.485, 0.456, 0.406])
_STD = torch.tensor([0.229, 0.224, 0.225])


def rgb_cells(frame: UInt8[Tensor, "H W 3"], cell_px: int) -> Float32[Tensor, "Y X D"]:
    """Take the pixels of each cell as its feature, D = 3 cell_px^2.

    They are scaled by the mean and deviation of ImageNet, as the inputs of published encoders are:
    the cosine of raw bytes, which are never negative, would hardly tell two cells apart.

    Raises:
        ValueError: if cells do not cover the frame.
    """
    height, width, _ = frame.shape
    if height % cell_px or width % cell_px:
        raise ValueError(f"cells of {cell_px} px do not cover a frame of {width}x{height} px")
    scaled = (frame.float() / 255 - _MEAN) / _STD
    return scaled.unfold(0, cell_px, cell_px).unfold(1, cell_px, cell_px).flatten(2)


@torch.no_grad()
def tokenizer_cells(tokenizer: Tokenizer, frame: UInt8[Tensor, "H W 3"]) -> Tensor:
    """Take what a tokenizer's encoder makes of each place, before it becomes a code: f32 [Y X D].

    Raises:
        ValueError: if the tokenizer has no vectors that codes are compared with.
    """
    if not isinstance(tokenizer, Quantised):
        raise ValueError(
            f"tokenizer {tokenizer.name!r} has no vectors before its codes; "
            "take a VQ-VAE or a VQGAN"
        )
    vectors_1CYX = tokenizer.hidden(signed(frame[None].to(tokenizer.codes.device)))
    return vectors_1CYX[0].permute(1, 2, 0).float()
