"""The windows of clips by number, without a list of them."""

from typing import overload

import numpy as np
from jaxtyping import Int64


class Windows:
    """All windows of `frames` successive frames within clips, numbered clip after clip.

    Keeps one number a clip; a table of the windows would be as long as the frames.

    Args:
        lengths: frames of each clip.
        frames: of a window.
        hop: frames from the start of one window to the next one's, from frame 0 of each clip.

    Raises:
        ValueError: if frames or hop are less than 1.
    """

    def __init__(self, lengths: Int64[np.ndarray, " N"], frames: int, *, hop: int = 1) -> None:
        if frames < 1 or hop < 1:
            raise ValueError(f"windows of {frames} frames, {hop} apart; both must be at least 1")
        self.hop = hop
        self._ends = np.maximum((lengths - frames) // hop + 1, 0).cumsum()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def locate(self, number: int) -> tuple[int, int]: ...
    @overload
    def locate(
        self, number: Int64[np.ndarray, " M"]
    ) -> tuple[Int64[np.ndarray, " M"], Int64[np.ndarray, " M"]]: ...
    def locate(self, number):
        """Find the clip of a window and its first frame there; an array gives two arrays.

        Raises:
            ValueError: if there is no window of that number.
        """
        numbers = np.asarray(number)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise ValueError(f"there are {len(self)} windows, not all of {number} are among them")
        clip = np.searchsorted(self._ends, numbers, side="right")
        before = np.where(clip > 0, self._ends[clip - 1], 0)
        start = (numbers - before) * self.hop
        if isinstance(number, np.ndarray):
            return clip, start
        return int(clip), int(start)
