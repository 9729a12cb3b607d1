"""Which frames of a video a clip is made of: exact indices or moments, nothing random.

Protocols speak either of frames ("every 4th") or of time ("16 frames, 7.5 a second"); each has its
function, so that neither is rounded into the other.
"""

import numpy as np
from jaxtyping import Float64, Int64


def strided_indices(
    count: int, frames: int, stride: int = 1, start: int = 0
) -> Int64[np.ndarray, " T"]:
    """List the frames `start`, `start + stride`, ... of a video of `count` frames.

    Args:
        count: frames in the video.
        frames: how many to take, T.
        stride: from one to the next; 4 takes every 4th.
        start: index of the first.

    Raises:
        ValueError: if the video is too short or an argument makes no sense; it says the numbers.
    """
    if frames < 1 or stride < 1 or start < 0:
        raise ValueError(
            "frames and stride must be at least 1 and start at least 0, "
            f"got frames {frames}, stride {stride}, start {start}"
        )
    needed = start + (frames - 1) * stride + 1
    if needed > count:
        raise ValueError(
            f"{frames} frames at stride {stride} from frame {start} need a video of "
            f"{needed} frames, this one has {count}"
        )
    return start + stride * np.arange(frames, dtype=np.int64)


def clip_times(
    duration_s: float, frames: int, fps: float, *, start: float = 0.5
) -> Float64[np.ndarray, " T"]:
    """Lay `frames` moments, `1 / fps` seconds apart, into a video.

    Being times, they are the same for every frame rate of the file.

    Args:
        duration_s: when the video's last frame is shown, in seconds from its first.
        frames: how many moments, T.
        fps: moments a second, of the clip and not of the file.
        start: where the clip stands in the time it leaves free: 0 first, 0.5 middle, 1 last.

    Returns:
        Increasing seconds from the video's first frame, none past `duration_s`.

    Raises:
        ValueError: if the video is shorter than the clip, or an argument makes no sense.
    """
    if frames < 1 or not fps > 0 or not 0 <= start <= 1:
        raise ValueError(
            "a clip has at least 1 frame, fps above 0 and start in [0, 1], "
            f"got frames {frames}, fps {fps}, start {start}"
        )
    length_s = (frames - 1) / fps
    if length_s > duration_s:
        raise ValueError(f"a clip of {length_s:.3f} s does not fit a video of {duration_s:.3f} s")
    times_s = start * (duration_s - length_s) + np.arange(frames) / fps
    return np.minimum(times_s, duration_s)
