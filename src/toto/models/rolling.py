"""A cache for films without an end: the start token and the newest frames, in a ring.

What a window that slides comes to with rotary positions:

- A key is turned by its place in the film when it is written, and never again. What two tokens are
  to each other depends on the difference of their places alone, so nothing has to be done to the
  frames that stay, and rounding does not pile up.
- The start token alone would be left behind. It goes with the window: before each frame its key,
  kept as it was at place 0, is turned to the place just before the window's oldest frame. So every
  token sees it at the distance that it has in a plain sequence of as many frames.
- The frame that leaves gives its room to the one that comes; attention does not mind the order in
  which keys lie.

Attention runs over the whole ring from the first frame on, so that no shape ever changes and every
frame costs the same; what is not there yet is masked.

Source: that the first token must stay, and keep its distance, is Xiao et al., "Efficient Streaming
Language Models with Attention Sinks", arXiv 2309.17453, sections 3.1 and 3.2. Theirs keeps keys
unturned and turns all of them at every step.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from toto.models.attention import Angles
from toto.models.cache import KVCache
from toto.models.rope import rotate


@dataclass(kw_only=True, slots=True, eq=False)
class RollingCache(KVCache):
    """Keys and values of the start token and of the newest W frames, of one sequence.

    Read the start token alone first; then, for each frame, call `open_frame`, `place_start` where
    positions are rotary, and let the model read the frame's tokens.

    Attributes:
        frame_tokens: S.
        mask: whether each token of the open frame sees each of the places of the ring.
        first: where in the ring the next tokens go.
        start_keys: the start token's keys as they are at place 0.
    """

    frame_tokens: int
    mask: Bool[Tensor, "S M"]
    first: int = 0
    start_keys: Float[Tensor, "Z 1 N 1 K"]

    @classmethod
    def of_window(
        cls,
        *,
        frames: int,
        frame_tokens: int,
        layers: int,
        heads: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
        endless: bool,
    ) -> Self:
        """Make an empty cache with room for the start token and so many frames, W."""
        places = 1 + frames * frame_tokens
        shape = (layers, 1, heads, places, head_width)
        return cls(
            keys=torch.zeros(shape, dtype=dtype, device=device),
            values=torch.zeros(shape, dtype=dtype, device=device),
            endless=endless,
            frame_tokens=frame_tokens,
            mask=torch.zeros(frame_tokens, places, dtype=torch.bool, device=device),
            start_keys=torch.zeros((*shape[:3], 1, head_width), dtype=dtype, device=device),
        )

    @property
    def window_frames(self) -> int:
        """W, frames that a token sees, its own included."""
        return (self.mask.shape[1] - 1) // self.frame_tokens

    @property
    def frames(self) -> int:
        """How many whole frames were read so far."""
        return (self.length - 1) // self.frame_tokens

    @property
    def start_place(self) -> int:
        """Place in the film where the start token now stands, just before the oldest frame."""
        return max(0, self.frames + 1 - self.window_frames) * self.frame_tokens

    def open_frame(self) -> None:
        """Take the oldest frame's room, if none is free, for the tokens that come next."""
        if self.frames:
            self.mask[:, self.first : self.first + self.frame_tokens] = True
        else:
            self.mask[:, 0] = True
            self.start_keys.copy_(self.keys[..., :1, :])
        self.first = 1 + self.frames % self.window_frames * self.frame_tokens
        newest = self.mask[:, self.first : self.first + self.frame_tokens]
        newest.copy_(torch.ones_like(newest).tril())

    def place_start(self, angles: Angles) -> None:
        """Turn the start token's keys by the angles of `start_place`."""
        turned = rotate(self.start_keys.flatten(0, 1), *angles)
        self.keys[..., :1, :] = turned.view_as(self.start_keys)

    def write(
        self, layer: int, k_BNLK: Float[Tensor, "B N L K"], v_BNLK: Float[Tensor, "B N L K"]
    ) -> tuple[Float[Tensor, "B N P K"], Float[Tensor, "B N P K"]]:
        """Put the open frame's positions into its room of one layer; return the whole ring."""
        end = self.first + k_BNLK.shape[2]
        self.keys[layer, :, :, self.first : end] = k_BNLK
        self.values[layer, :, :, self.first : end] = v_BNLK
        return self.keys[layer], self.values[layer]

    def seen(self, new: int) -> Bool[Tensor, "L P"] | None:
        """Which places of the ring each token of the open frame sees."""
        assert new == self.frame_tokens, "a frame is read as a whole"
        return self.mask
