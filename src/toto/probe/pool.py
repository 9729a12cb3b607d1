"""Probes of all layers at once: attention pooling and average pooling, each with a linear head.

Attention pooling is a learned query against learned keys, and learned values: one cross-attention
(docs/paper.md, P0 rows). With a single query the keys never need to be made, since
q . (W_k x) = (W_k^T q) . x, and the values can be made after pooling, since both are linear. The
parameters are the paper's; only the order of multiplication is another, and it costs a hundredth.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

POOLINGS = ("attention", "average")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeShape:
    """Sizes of a bank of probes."""

    layers: int
    width: int
    classes: tuple[int, ...]
    """Classes of each task; every task has probes of its own."""
    heads: int = 4
    """Heads of the attention pooling; the paper gives none."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")


class LayerProbes(nn.Module):
    """For every task, layer and pooling one probe; none shares a parameter with another.

    Args:
        shape: how many of what.
        mean: of the training features, [Z D]; features are standardised by channel, which is a
            batch norm without scale and shift whose statistics are those of the training split.
        deviation: standard deviation of them, [Z D].
    """

    def __init__(
        self, shape: ProbeShape, *, mean: Float[Tensor, "Z D"], deviation: Float[Tensor, "Z D"]
    ) -> None:
        super().__init__()
        self.shape = shape
        tasks, layers, width = len(shape.classes), shape.layers, shape.width
        head_width, most = width // shape.heads, max(shape.classes)
        small = 1 / math.sqrt(width)
        self.query = nn.Parameter(0.02 * torch.randn(layers, tasks, shape.heads, head_width))
        self.key = nn.Parameter(small * torch.randn(layers, tasks, shape.heads, head_width, width))
        self.value = nn.Parameter(
            small * torch.randn(layers, tasks, shape.heads, head_width, width)
        )
        self.attention_head = nn.Parameter(torch.zeros(layers, tasks, most, width))
        self.attention_bias = nn.Parameter(torch.zeros(layers, tasks, most))
        self.average_head = nn.Parameter(torch.zeros(layers, tasks, most, width))
        self.average_bias = nn.Parameter(torch.zeros(layers, tasks, most))
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        # Tasks with fewer classes than the widest have scores that no clip may take.
        absent = torch.arange(most)[None] >= torch.tensor(shape.classes)[:, None]
        self.register_buffer("absent", absent)

    def forward(
        self, features: Float[Tensor, "Z B L D"], averages: Float[Tensor, "Z B D"]
    ) -> Float[Tensor, "2 Z G B J"]:
        """Score clips.

        Args:
            features: of all layers, not standardised, in any precision.
            averages: their mean over the tokens, which a caller that has it need not repeat.

        Returns:
            Scores by pooling (as in `POOLINGS`), layer, task, clip and class.
        """
        mean, deviation = self.get_buffer("mean"), self.get_buffer("deviation")
        gaze = torch.einsum("zgnk,zgnkd->zgnd", self.query, self.key) / math.sqrt(
            self.query.shape[-1]
        )
        # Subtracting the mean adds the same to all scores of a clip: the softmax does not see it.
        gaze = (gaze / deviation[:, None, None]).flatten(1, 2).to(features.dtype)
        scores_ZBLQ = torch.matmul(features, gaze.transpose(1, 2)[:, None])
        attention_ZBLQ = scores_ZBLQ.float().softmax(dim=2).to(features.dtype)
        pooled = torch.matmul(attention_ZBLQ.transpose(2, 3), features).float()
        pooled = (pooled - mean[:, None, None]) / deviation[:, None, None]
        pooled = pooled.unflatten(2, (len(self.shape.classes), self.shape.heads))
        values = torch.einsum("zbgnd,zgnkd->zgbnk", pooled, self.value).flatten(-2)
        attended = torch.einsum("zgbd,zgjd->zgbj", values, self.attention_head)
        standard = (averages.float() - mean[:, None]) / deviation[:, None]
        averaged = torch.einsum("zbd,zgjd->zgbj", standard, self.average_head)
        both = torch.stack(
            [attended + self.attention_bias[:, :, None], averaged + self.average_bias[:, :, None]]
        )
        return both.masked_fill(self.get_buffer("absent")[:, None], -torch.inf)
