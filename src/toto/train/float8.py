"""Matrix products in FP8 where a GPU has it: an option for the largest sizes.

Below a width of about 2,000 the casts cost more than the products gain (pytorch/ao, float8 README:
0.80x at 1024 x 2048 x 1024), so that of the paper's sizes only `1b` is one for it.
"""

import torch
from torch import nn

from toto.models import Decoder

CAPABILITY = (8, 9)
"""First CUDA architecture whose matrix units take FP8."""


def use_float8(model: Decoder, place: torch.device, *, emulated: bool = False) -> None:
    """Let the blocks' matrices multiply in FP8, with one scale a tensor, in place.

    Weights, their names and the optimiser's state stay fp32; embedding, norms and output matrix are
    left as they are. Call it on the fresh model, before `compile_decoder` and before it is spread
    over ranks. It is no speed-up unless it is compiled.

    Args:
        model: with matrices whose sides are multiples of 16; others are left as they are.
        place: the device that computes.
        emulated: compute the same rounding in bf16 on any device; for tests, slower than bf16.

    Raises:
        ValueError: if torchao is not installed, the device has no FP8, or no matrix is fit for it.
    """
    try:
        # The extra `fp8` is not part of `dev`.
        from torchao.float8 import (  # pyright: ignore[reportMissingImports]
            Float8LinearConfig,
            convert_to_float8_training,
        )
    except ModuleNotFoundError as error:
        raise ValueError(
            f"FP8 needs {error.name}, which the extra `fp8` installs: pip install 'toto-video[fp8]'"
        ) from error
    if not emulated and (
        place.type != "cuda" or torch.cuda.get_device_capability(place) < CAPABILITY
    ):
        raise ValueError(
            f"FP8 needs a GPU of compute capability {CAPABILITY[0]}.{CAPABILITY[1]}, "
            f"{place} is none; use bf16"
        )
    fit = [
        name
        for name, module in model.blocks.named_modules()
        if isinstance(module, nn.Linear) and not any(side % 16 for side in module.weight.shape)
    ]
    if not fit:
        raise ValueError("FP8 needs matrices whose sides are multiples of 16, this model has none")
    chosen = set(fit)
    convert_to_float8_training(
        model.blocks,
        config=Float8LinearConfig(emulate=emulated),
        module_filter_fn=lambda _, name: name in chosen,
    )
