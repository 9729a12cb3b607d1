"""Several looks at one video in evaluation, as a pure function of its length.

The paper follows SlowFast (docs/paper.md, P2.2): 10 clips evenly in time x 3 crops along the longer
side, probabilities averaged. One view, from the middle, is reported beside it.
"""

import numpy as np
from jaxtyping import Float, Float32, Int64
from torch import Tensor


def view_indices(
    count: int, frames: int, stride: int, *, clip: int, clips: int
) -> Int64[np.ndarray, " T"]:
    """List the frames of one of several clips that are spread evenly over a video.

    A clip takes the time of `frames * stride` frames. Of several, number i begins i / `clips` of
    the way into what is left of the video, so that the last ends before the video does; a lone one
    stands in the middle. SlowFast then spaces frames by a little more than the stride, to end on
    the clip's last frame; here they are `stride` apart, as the paper says. Where a video is too
    short its last frame is repeated, as SlowFast does.

    Args:
        count: frames of the video.
        frames: of a clip, T.
        stride: frames from one to the next.
        clip: which of them.
        clips: how many there are.

    Raises:
        ValueError: if the video has no frame, or there is no such clip.

    Source:
        facebookresearch/SlowFast, `slowfast/datasets/decoder.py`.
    """
    if min(count, frames, stride) < 1 or not 0 <= clip < clips:
        raise ValueError(
            f"clip {clip} of {clips}, {frames} frames at stride {stride} of a video of {count}: "
            "all must be at least 1, and clips are counted from 0"
        )
    room = max(count - frames * stride, 0)
    start = room // 2 if clips == 1 else room * clip // clips
    return np.minimum(start + stride * np.arange(frames, dtype=np.int64), count - 1)


def crop_shares(crops: int) -> tuple[float, ...]:
    """Where the square crops of a frame stand along its longer side, in [0, 1].

    Raises:
        ValueError: if they are neither 1, in the middle, nor 3.
    """
    if crops not in (1, 3):
        raise ValueError(f"{crops} crops; there are 1, the middle, and 3: both ends and the middle")
    return (0.5,) if crops == 1 else (0.0, 0.5, 1.0)


def average_views(scores_VBJ: Float[Tensor, "V B J"]) -> Float32[Tensor, "B J"]:
    """Average the probabilities of all views; the mean of scores would be another answer."""
    return scores_VBJ.float().softmax(-1).mean(0)
