"""The types that pass between rooms, and the shape alphabet of the package.

B batch, T frames, C channels, H W pixels, Y X token rows and columns, S = Y*X tokens a frame,
L sequence, D width, N heads, K head width, F MLP hidden, V vocabulary, J classes, A action size.
In a body where shapes change, a tensor's name ends in them: `q_BNLK`.
"""

from dataclasses import dataclass

from jaxtyping import Float32, Float64, Int32, Int64, UInt8
from torch import Tensor

SPECIALS = 3
"""Ids above the codes, in this order: video start, end, image start."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Clip:
    """Frames of one video, in the order they are shown.

    Attributes:
        frames: sRGB bytes, CPU.
        times_s: when each frame is shown, in seconds from the file's first frame.
        source: where it came from, `path` or `path#segment`; for messages only.

    Raises:
        ValueError: if the two counts differ, the clip is empty, or time does not increase.
    """

    frames: UInt8[Tensor, "T H W 3"]
    times_s: Float64[Tensor, " T"]
    source: str

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.times_s) or len(self.frames) == 0:
            raise ValueError(f"{self.source}: {len(self.frames)} frames, {len(self.times_s)} times")
        if not bool((self.times_s.diff() > 0).all()):
            raise ValueError(f"{self.source}: frame times do not increase")

    def __repr__(self) -> str:
        return f"Clip({self.source!r}, frames={tuple(self.frames.shape)})"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenGrid:
    """The discrete tokens of a clip: one id for each patch of each frame.

    Attributes:
        ids: codes in [0, vocab_size).
        vocab_size: how many codes the tokenizer has; special ids are not among them.

    Raises:
        ValueError: if the grid is not [T Y X] or an id lies outside the vocabulary.
    """

    ids: Int32[Tensor, "T Y X"]
    vocab_size: int

    def __post_init__(self) -> None:
        if self.ids.ndim != 3 or self.ids.numel() == 0:
            raise ValueError(f"a token grid is [T Y X], got shape {tuple(self.ids.shape)}")
        low, high = int(self.ids.min()), int(self.ids.max())
        if low < 0 or high >= self.vocab_size:
            raise ValueError(
                f"token ids {low}..{high} lie outside a vocabulary of {self.vocab_size}"
            )

    def __repr__(self) -> str:
        return f"TokenGrid(ids={tuple(self.ids.shape)}, vocab_size={self.vocab_size})"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Sequences for next-token or next-patch prediction.

    Attributes:
        ids: the input is all but the last, the target all but the first.
        weight: what each target counts in the loss.
        frames: the sRGB bytes that the ids stand for, where the model reads patches.

    Raises:
        ValueError: if weights or frames do not match the ids.
    """

    ids: Int64[Tensor, "B L_plus_1"]
    weight: Float32[Tensor, "B L"]
    frames: UInt8[Tensor, "B T H W 3"] | None = None

    def __post_init__(self) -> None:
        rows, length = self.ids.shape
        if tuple(self.weight.shape) != (rows, length - 1):
            raise ValueError(
                f"{rows} x {length} ids need {rows} x {length - 1} weights, "
                f"got {tuple(self.weight.shape)}"
            )
        if self.frames is not None and len(self.frames) != rows:
            raise ValueError(f"{rows} sequences of ids come with frames of {len(self.frames)}")

    def __repr__(self) -> str:
        return f"Batch(ids={tuple(self.ids.shape)})"
