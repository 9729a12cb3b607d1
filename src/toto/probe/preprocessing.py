"""From frames to what another project's encoder was trained to read.

The numbers are those of the `preprocessor_config.json` beside its weights. Resizing is Pillow's,
which looks at all pixels that a smaller one covers: without that a ResNet-18 loses .8 points of
ImageNet (shift-happens-benchmark/icml-2022#62). transformers' processors that need no torchvision
resize by it too.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

FILES = ("preprocessor_config.json", "video_preprocessor_config.json")
_DONE = frozenset({"do_resize", "do_center_crop", "do_rescale", "do_normalize"})
_NEEDLESS = frozenset({"do_convert_rgb", "do_sample_frames", "do_pad"})
"""Frames are RGB, and are chosen, before they come here; none is padded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """Resize, cut out the middle, scale and normalise."""

    shortest_px: int | None
    """Of the shorter side after resizing; None: both sides are given, or nothing is resized."""
    size_px: tuple[int, int] | None
    """Height and width after resizing, whatever the shape was before."""
    crop_px: tuple[int, int] | None
    """Height and width of the middle that is kept."""
    resample: int
    """Pillow's number of the filter: 2 bilinear, 3 bicubic."""
    scale: float
    """What bytes are multiplied with; 1 / 255 nearly always."""
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what lies beside an encoder's weights.

        Raises:
            ValueError: if there is no such file, it lacks a value, or it asks for more than this.
        """
        there = [folder / name for name in FILES if (folder / name).is_file()]
        if not there:
            raise ValueError(
                f"{folder} has no {FILES[0]}, which says how its encoder reads pictures; copy it "
                "from where the weights came from"
            )
        said = json.loads(there[0].read_text())
        asked = {name for name, value in said.items() if name.startswith("do_") and value is True}
        strange = sorted(asked - _DONE - _NEEDLESS)
        if strange:
            raise ValueError(
                f"{there[0]} asks for {strange[0]}, which is not done here; set it to false if the "
                "encoder does not need it"
            )

        def value(name: str) -> Any:
            if said.get(name) is None:
                raise ValueError(f"{there[0]} has no {name}; add the one the encoder had")
            return said[name]

        size, crop = {}, None
        if "do_resize" in asked:
            size = _size(value("size"), square="do_center_crop" not in asked)
        if "do_center_crop" in asked:
            crop = _pair(_size(value("crop_size"), square=True))
        normalises = "do_normalize" in asked
        return cls(
            shortest_px=size.get("shortest_edge"),
            size_px=_pair(size),
            crop_px=crop,
            resample=value("resample") if "do_resize" in asked else 0,
            # Files older than the field meant this.
            scale=said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0,
            mean=_three(value("image_mean")) if normalises else (0.0, 0.0, 0.0),
            deviation=_three(value("image_std")) if normalises else (1.0, 1.0, 1.0),
        )

    def __call__(self, frames: UInt8[Tensor, "N H W 3"]) -> Float32[Tensor, "N 3 H1 W1"]:
        """Make of frames what the encoder reads.

        Raises:
            ValueError: if they are smaller than the crop.
        """
        return self.normalised(torch.stack([self._cut(self._resized(one)) for one in frames]))

    def normalised(self, frames: UInt8[Tensor, "N H W 3"]) -> Float32[Tensor, "N 3 H W"]:
        """Scale and normalise, without another size."""
        mean, deviation = torch.tensor(self.mean), torch.tensor(self.deviation)
        scaled = frames.float() * self.scale
        return ((scaled - mean.to(scaled)) / deviation.to(scaled)).movedim(-1, 1).contiguous()

    def _resized(self, frame: UInt8[Tensor, "H W 3"]) -> UInt8[Tensor, "H1 W1 3"]:
        height, width = frame.shape[:2]
        if self.size_px is not None:
            size = self.size_px
        elif self.shortest_px is not None:
            shorter, longer = min(height, width), int(self.shortest_px * max(height, width))
            longer //= shorter
            size = (longer, self.shortest_px) if height > width else (self.shortest_px, longer)
        else:
            return frame
        if size == (height, width):
            return frame
        picture = Image.fromarray(frame.cpu().numpy())
        small = picture.resize((size[1], size[0]), Image.Resampling(self.resample))
        return torch.from_numpy(np.array(small))

    def _cut(self, frame: UInt8[Tensor, "H W 3"]) -> UInt8[Tensor, "H1 W1 3"]:
        if self.crop_px is None:
            return frame
        (height, width), (rows, columns) = frame.shape[:2], self.crop_px
        if rows > height or columns > width:
            raise ValueError(
                f"frames of {width}x{height} px are smaller than the crop of {columns}x{rows} px "
                "that the encoder reads; give larger ones"
            )
        top, left = (height - rows) // 2, (width - columns) // 2
        return frame[top : top + rows, left : left + columns]


def _size(said: Any, *, square: bool) -> dict[str, int]:
    """Read a size in its forms; a lone number is a square, or the shorter side before a crop."""
    if isinstance(said, int):
        return {"height": said, "width": said} if square else {"shortest_edge": said}
    known = {name: said[name] for name in ("height", "width", "shortest_edge") if said.get(name)}
    if set(known) not in ({"height", "width"}, {"shortest_edge"}) or said.get("longest_edge"):
        raise ValueError(f"size {said} is neither height and width nor shortest_edge; give one")
    return known


def _pair(size: dict[str, int]) -> tuple[int, int] | None:
    return (size["height"], size["width"]) if "height" in size else None


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
