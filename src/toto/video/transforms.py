"""From a frame of any size to the square that a tokenizer reads.

One implementation for pre-training, probes and the demo: the same pictures through another resize
lose about a point of accuracy. Only numpy and Pillow, because the decode child runs it too.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RESIZE_FILTER = "pillow-bicubic-antialias"
"""What sidecars and results record of the resize; change it with the code below."""


def resize_crop(
    frame: NDArray[np.uint8], side_px: int, crop_x: float = 0.5, crop_y: float = 0.5
) -> NDArray[np.uint8]:
    """Resize a frame's shortest side to `side_px`, keeping its shape, and cut a square out of it.

    Args:
        frame: sRGB bytes [H W 3].
        side_px: the square's side.
        crop_x: where in the free room the square stands: 0 left, 0.5 the middle, 1 right.
        crop_y: the same from top to bottom.

    Returns:
        sRGB bytes [side_px side_px 3], contiguous.

    Raises:
        ValueError: if the frame is not [H W 3] bytes, the side is below 1 or a crop outside [0, 1].
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(f"a frame is uint8 [H W 3], got {frame.dtype} {list(frame.shape)}")
    check_crop(side_px, crop_x, crop_y)
    height, width = frame.shape[:2]
    shortest = min(height, width)
    size = (width * side_px // shortest, height * side_px // shortest)
    image = Image.fromarray(frame)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round(crop_x * (size[0] - side_px)), round(crop_y * (size[1] - side_px))
    return np.array(image.crop((left, top, left + side_px, top + side_px)))


def check_crop(side_px: int, crop_x: float, crop_y: float) -> None:
    """Raise ValueError unless the square has a side and stands within the frame."""
    if side_px < 1:
        raise ValueError(f"side_px must be at least 1, got {side_px}")
    for name, share in (("crop_x", crop_x), ("crop_y", crop_y)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is a share in [0, 1], got {share}")
