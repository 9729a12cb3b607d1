"""Changes to labelled clips that leave their label true: crop, flip, RandAugment, erasing.

All frames of a clip are changed alike, since what moves between frames is part of what a label may
mean. Everything is drawn from the generator that a sample brings, so that a sample is a pure
function of (seed, its number). Pillow does the work on pixels. kornia 0.9 was tried in its place
(22 MB installed, no torchvision): its RandAugment draws the operations once for a whole batch and
from torch's global generator, and has neither MAE's ranges nor its spread of magnitudes.

Sources: RandAugment, Cubuk et al., arXiv 1909.13719; random erasing, Zhong et al., arXiv
1708.04896; the operations' ranges, and the rules of crop and erasing, are those by which MAE's
`rand-m9-mstd0.5-inc1` and its crops were drawn (huggingface/pytorch-image-models,
timm/data/{auto_augment,random_erasing,transforms}.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

MEAN, DEVIATION = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
"""Of ImageNet's red, green and blue in [0, 1]."""
FILL = (124, 116, 104)
"""What comes in at the edges: that mean in bytes."""
ERASED_AREA = (0.02, 1 / 3)
ERASED_ASPECT = (0.3, 1 / 0.3)
TRIES = 10
"""Rectangles drawn until one fits; if none does, the crop is the largest in the middle, and nothing
is erased."""
HIGHEST = 10.0
"""Magnitude at which an operation changes most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationConfig:
    """How training clips are changed; nothing is changed by default."""

    crop_area: tuple[float, float] | None = None
    """Least and largest share of the frame that a random crop keeps, before it is resized to the
    frame's size; none takes no crops."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Narrowest and widest crop, width over height."""
    flip: float = 0.0
    """How often left and right are exchanged, in [0, 1]. Not for labels that know a direction."""
    operations: int = 0
    """RandAugment: how many operations are drawn for a clip; each is then done every other time."""
    magnitude: float = 9.0
    """Of RandAugment, in 0..10."""
    magnitude_deviation: float = 0.5
    """Standard deviation of the magnitude, drawn for each operation."""
    erase: float = 0.0
    """How often a rectangle is replaced by noise, in [0, 1]."""

    def __post_init__(self) -> None:
        for name in ("flip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} must lie in 0..1")
        if self.crop_area and not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area {self.crop_area} must be two rising shares in 0..1")
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise ValueError(f"crop_aspect {self.crop_aspect} must be two rising numbers above 0")
        if self.operations < 0:
            raise ValueError(f"operations {self.operations} must be 0 (no RandAugment) or more")
        if not 0 <= self.magnitude <= HIGHEST:
            raise ValueError(f"magnitude {self.magnitude} must lie in 0..{HIGHEST:.0f}")
        if not self.magnitude_deviation >= 0:
            raise ValueError(f"magnitude_deviation {self.magnitude_deviation} must be 0 or more")

    @property
    def changes(self) -> bool:
        """Whether any pixel may be changed."""
        return bool(self.crop_area or self.flip or self.operations or self.erase)


def augment(
    frames: UInt8[Tensor, "T H W 3"], config: AugmentationConfig, draw: np.random.Generator
) -> UInt8[Tensor, "T H W 3"]:
    """Change one clip.

    Args:
        frames: sRGB bytes.
        config: what may be done.
        draw: of this sample.
    """
    pixels = frames.numpy()
    height, width = pixels.shape[1:3]
    images = [Image.fromarray(frame) for frame in pixels]
    if config.crop_area:
        box = _crop(height, width, config.crop_area, config.crop_aspect, draw)
        cubic = Image.Resampling.BICUBIC
        images = [image.resize((width, height), cubic, box=box) for image in images]
    if draw.random() < config.flip:
        images = [ImageOps.mirror(image) for image in images]
    for _ in range(config.operations):
        operation = list(OPERATIONS.values())[draw.integers(len(OPERATIONS))]
        done, sign = draw.random() < 0.5, 1 - 2 * int(draw.integers(2))
        magnitude = draw.normal(config.magnitude, config.magnitude_deviation)
        if done:
            level = min(max(magnitude, 0.0), HIGHEST) / HIGHEST
            images = [operation(image, level, sign) for image in images]
    changed = np.stack([np.asarray(image) for image in images])
    if draw.random() < config.erase:
        _erase(changed, draw)
    return torch.from_numpy(changed)


def _enhance(
    kind: Callable[[Image.Image], ImageEnhance._Enhance],
) -> Callable[[Image.Image, float, int], Image.Image]:
    """An operation that moves a factor away from 1, at most by 0.9."""
    return lambda image, level, sign: kind(image).enhance(max(0.1, 1 + sign * 0.9 * level))


def _affine(
    image: Image.Image, x: tuple[float, float, float], y: tuple[float, float, float]
) -> Image.Image:
    """Give each place (column, row) what lies at x and y, two linear functions of it."""
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        (*x, *y),
        resample=Image.Resampling.BICUBIC,
        fillcolor=FILL,
    )


def _rotate(image: Image.Image, level: float, sign: int) -> Image.Image:
    return image.rotate(30 * sign * level, resample=Image.Resampling.BICUBIC, fillcolor=FILL)


def _posterize(image: Image.Image, level: float, _sign: int) -> Image.Image:
    # Not Pillow's own: it refuses 0 bits, the highest level, from version 13 on.
    kept = 256 - 2 ** (4 + int(4 * level))
    return image.point([byte & kept for byte in range(256)] * 3)


def _solarize_add(image: Image.Image, level: float, _sign: int) -> Image.Image:
    added = int(110 * level)
    return image.point([min(255, byte + added) if byte < 128 else byte for byte in range(256)] * 3)


OPERATIONS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "auto-contrast": lambda image, _level, _sign: ImageOps.autocontrast(image),
    "equalize": lambda image, _level, _sign: ImageOps.equalize(image),
    "invert": lambda image, _level, _sign: ImageOps.invert(image),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": lambda image, level, _sign: ImageOps.solarize(image, 256 - int(256 * level)),
    "solarize-add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear-x": lambda image, level, sign: _affine(image, (1, 0.3 * sign * level, 0), (0, 1, 0)),
    "shear-y": lambda image, level, sign: _affine(image, (1, 0, 0), (0.3 * sign * level, 1, 0)),
    "translate-x": lambda image, level, sign: _affine(
        image, (1, 0, 0.45 * sign * level * image.width), (0, 1, 0)
    ),
    "translate-y": lambda image, level, sign: _affine(
        image, (1, 0, 0), (0, 1, 0.45 * sign * level * image.height)
    ),
}
"""RandAugment's operations by name: an image, a level in [0, 1] and a sign to an image. Those whose
ranges run the other way round in the first AutoAugment rise with the level here (`inc1`): up to 30
degrees, 0 bits a channel, a threshold of 0, 110 added below 128, a factor of 0.1 or 1.9, a slope of
0.3, and 0.45 of the side."""


def _crop(
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    draw: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop."""
    for _ in range(TRIES):
        rows, columns = _sides(height * width, area, aspect, draw)
        if 0 < rows <= height and 0 < columns <= width:
            top = int(draw.integers(height - rows + 1))
            left = int(draw.integers(width - columns + 1))
            return left, top, left + columns, top + rows
    columns = min(width, round(height * aspect[1]))
    rows = min(height, round(columns / aspect[0]))
    left, top = (width - columns) // 2, (height - rows) // 2
    return left, top, left + columns, top + rows


def _erase(frames: UInt8[np.ndarray, "T H W 3"], draw: np.random.Generator) -> None:
    """Replace a rectangle by noise that is normal where channels are scaled by ImageNet's."""
    height, width = frames.shape[1:3]
    for _ in range(TRIES):
        rows, columns = _sides(height * width, ERASED_AREA, ERASED_ASPECT, draw)
        if 0 < rows < height and 0 < columns < width:
            top, left = draw.integers(height - rows + 1), draw.integers(width - columns + 1)
            noise = MEAN + DEVIATION * draw.standard_normal((rows, columns, 3))
            part = frames[:, top : top + rows, left : left + columns]
            part[:] = (255 * noise).round().clip(0, 255).astype(np.uint8)
            return


def _sides(
    whole: int, area: tuple[float, float], aspect: tuple[float, float], draw: np.random.Generator
) -> tuple[int, int]:
    """Rows and columns of a rectangle: its area is uniform, its aspect's logarithm too."""
    pixels = whole * draw.uniform(*area)
    ratio = math.exp(draw.uniform(math.log(aspect[0]), math.log(aspect[1])))
    return round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
