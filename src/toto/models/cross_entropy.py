"""Cross-entropy of the next token from the normalised stream, without the scores of all places.

Scores of V ids at every place are the largest tensor of a step: 134 MB in fp32 for 4,096 places of
8,195 ids, and several passes over them. Here a few places are scored at a time, and what the
gradient needs of them is taken at once, so that the backward pass only scales it. The same numbers
come out, up to the order in which sums are rounded.

Source: the idea is that of Liger Kernel's fused linear cross-entropy (arXiv 2410.10989).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

CPU_SCORES, CUDA_SCORES = 5 * 2**20, 2**26
"""Scores held at a time, at most: in 10 MB of bf16 they stay near a core, and its allocator keeps
the memory; a GPU needs matrices large enough to fill it."""
ROWS = 128
"""Places are scored in multiples of it: products of an odd number of rows are a tenth slower."""


class CrossEntropy(nn.Module):
    """Weighted sum of the cross-entropies of next tokens; it has no parameters.

    Attributes:
        score_slopes: `score_slopes` of this module, or what compiling made of it; it may write
            over the scores.
        add: `add` of this module, or what does the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.score_slopes, self.add = score_slopes, add

    def forward(
        self,
        x_BLD: Float[Tensor, "B L D"],
        readout_VD: Float[Tensor, "V D"],
        targets_BL: Int64[Tensor, "B L"],
        weight_BL: Float32[Tensor, "B L"],
    ) -> Float32[Tensor, ""]:
        """Weigh and add up what every target costs, in nats.

        Products are computed in autocast's type where it is on, and all else in fp32. The
        gradient of `weight_BL` is not given.

        Args:
            x_BLD: the stream that the output matrix reads.
            readout_VD: the output matrix.
            targets_BL: the id to predict at each place.
            weight_BL: what each place counts.
        """
        kind = x_BLD.device.type
        autocast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else x_BLD.dtype
        return _Summed.apply(
            x_BLD.flatten(0, 1),
            readout_VD,
            targets_BL.flatten(),
            weight_BL.flatten(),
            dtype,
            self.score_slopes,
            self.add,
        )


def score_slopes(
    scores_RV: Float[Tensor, "R V"], targets_R: Int64[Tensor, " R"], weight_R: Float32[Tensor, " R"]
) -> tuple[Float32[Tensor, ""], Float[Tensor, "R V"]]:
    """Weighted loss of a few places, and its gradient by their scores in the scores' type."""
    fp32_RV, at_R1, weight_R1 = scores_RV.float(), targets_R[:, None], weight_R[:, None]
    highest_R1 = fp32_RV.amax(-1, keepdim=True)
    # One exponential of each score, for the sum and for the slopes.
    shares_RV = (fp32_RV - highest_R1).exp()
    total_R1 = shares_RV.sum(-1, keepdim=True)
    below_R1 = fp32_RV.gather(-1, at_R1) - highest_R1
    loss = ((total_R1.log() - below_R1) * weight_R1).sum()
    slopes_RV = (shares_RV * (weight_R1 / total_R1)).to(scores_RV.dtype)
    by_right_R1 = (below_R1.exp() / total_R1 - 1) * weight_R1
    return loss, slopes_RV.scatter(-1, at_R1, by_right_R1.to(scores_RV.dtype))


def add(total: Float32[Tensor, "V D"], part: Float[Tensor, "V D"]) -> None:
    """Add to a sum in its own type."""
    total += part


class _Summed(torch.autograd.Function):
    """Loss and gradients in one pass; the loss is a scalar, so that backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        readout_VD: Tensor,
        targets_T: Tensor,
        weight_T: Tensor,
        dtype: torch.dtype,
        slopes_of: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
        add: Callable[[Tensor, Tensor], None],
    ) -> Tensor:
        scores = CUDA_SCORES if x_TD.is_cuda else CPU_SCORES
        rows = scores // len(readout_VD)
        rows = rows // ROWS * ROWS or max(1, rows)
        x, readout = x_TD.to(dtype), readout_VD.to(dtype)
        loss = torch.zeros((), device=x_TD.device)
        by_x_TD, by_readout_VD = torch.empty_like(x), torch.zeros_like(readout_VD)
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            part_loss, slopes_RV = slopes_of(x[part] @ readout.T, targets_T[part], weight_T[part])
            loss += part_loss
            if any(ctx.needs_input_grad):
                torch.mm(slopes_RV, readout, out=by_x_TD[part])
                # The parts are summed in the weights' own type.
                add(by_readout_VD, slopes_RV.T @ x[part])
        ctx.save_for_backward(by_x_TD, by_readout_VD)
        ctx.dtype = x_TD.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        by_x_TD, by_readout_VD = ctx.saved_tensors
        (slope,) = slopes
        # In place: the larger one is as large as the output matrix, and nobody reads it again.
        by_x_TD, by_readout_VD = by_x_TD.to(ctx.dtype).mul_(slope), by_readout_VD.mul_(slope)
        return by_x_TD, by_readout_VD, None, None, None, None, None
