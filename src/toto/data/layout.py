"""How token grids become a sequence: raster order, frame after frame, between special tokens.

The paper starts a video with [1], images with [3], and ends both with [2]. It does not say whether
those ids are codes too, nor whether they count among the 4,096. Here they lie above the codes and
outside the 4,096: docs/decisions/0004-special-tokens.md.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from toto.types import SPECIALS


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutConfig:
    """What a sequence is made of."""

    frames: int = 16
    specials: Literal["outside", "inside"] = "outside"
    """`outside`: start and end stand around all frames x tokens. `inside`: they count among them,
    and the last two codes of the last frame are left out."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames {self.frames} must be at least 1")


class Layout:
    """The sequence format for one vocabulary and grid.

    Args:
        config: frames and specials.
        codes: vocabulary of the tokenizer; the special ids follow it.
        frame_tokens: tokens a frame, S.
    """

    def __init__(self, config: LayoutConfig, *, codes: int, frame_tokens: int) -> None:
        self.config = config
        self.codes = codes
        self.frame_tokens = frame_tokens
        self.video_start, self.end, self.image_start = codes, codes + 1, codes + 2

    @property
    def vocab_size(self) -> int:
        """Codes and special ids."""
        return self.codes + SPECIALS

    @property
    def length(self) -> int:
        """Tokens of a whole sequence, special ones included."""
        codes = self.config.frames * self.frame_tokens
        return codes + 2 if self.config.specials == "outside" else codes

    def sequence(
        self,
        grid: Int64[Tensor, "T Y X"],
        kind: Literal["video", "images"] = "video",
        *,
        out: Int64[Tensor, " L"] | None = None,
    ) -> Int64[Tensor, " L"]:
        """Lay out the frames of one window, or as many images.

        Args:
            grid: their codes.
            kind: decides the start token.
            out: where to; a new tensor if left out.

        Raises:
            ValueError: if the grid is not of the layout's frames and tokens.
        """
        if grid.shape[0] != self.config.frames or grid[0].numel() != self.frame_tokens:
            raise ValueError(
                f"a grid of {tuple(grid.shape)} is not {self.config.frames} frames of "
                f"{self.frame_tokens} tokens"
            )
        codes = grid.flatten()[: self.length - 2]
        start, end = torch.tensor([self._start(kind)]), torch.tensor([self.end])
        return torch.cat([start, codes, end], out=out)

    def prompt(
        self, grid: Int64[Tensor, "T Y X"], kind: Literal["video", "images"] = "video"
    ) -> Int64[Tensor, " L"]:
        """Start token and all codes, without an end: what a model continues or reads."""
        return torch.cat([torch.tensor([self._start(kind)]), grid.flatten()])

    def frame_of_target(self) -> Int64[Tensor, " L_minus_1"]:
        """Frame that each target belongs to; -1 for the end token."""
        targets = torch.arange(self.length - 1)
        frame = targets // self.frame_tokens
        frame[-1] = -1
        return frame

    def weight(self, batch: int) -> Float32[Tensor, "B L_minus_1"]:
        """Every target counts the same, the end token too."""
        return torch.ones(batch, self.length - 1)

    def _start(self, kind: Literal["video", "images"]) -> int:
        return self.video_start if kind == "video" else self.image_start
