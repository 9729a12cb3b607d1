"""Moving digits: made clips with full ground truth, over real video.

A real handwritten digit (scikit-learn's `load_digits`, 8 x 8 pixels, enlarged) on a dark card
moves over a real clip that plays behind it; in some clips an occluder hides it for a while. Digit,
motion, mask and hidden frames are known exactly, so recognition, tracking and permanence can be
measured without downloading a labelled data set. Clip `index` of a split is a function of (seed,
split, index) alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image

from toto.types import Clip

Split = Literal["pretrain", "train", "selection", "test"]
MOTIONS = ("still", "left-right", "up-down", "falling diagonal", "rising diagonal", "circling")
"""Motion classes; all but the first and last bounce off the frame's edges along their line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MovingDigitsConfig:
    """How the clips look; the defaults are the demo's."""

    frames: int = 16
    side_px: int = 64
    digit_px: int = 32
    """Side of the enlarged digit and of its card."""
    grid_px: int = 8
    """The card stands at multiples of this, so that a digit has few appearances to a tokenizer."""
    speeds_px: tuple[int, ...] = (8,)
    """Speeds that occur, in pixels a frame along each axis that moves."""
    background_contrast: float = 0.6
    """1 leaves the real clip as it is, 0 makes it grey."""
    background_stride: int = 1
    """Real frames advanced for each frame shown."""
    occluder_share: float = 0.25
    """Share of the clips with an occluding bar."""
    fps: float = 12.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 8 <= self.digit_px < self.side_px:
            raise ValueError(
                f"digit_px {self.digit_px} must lie in 8..{self.side_px - 1}, below side_px"
            )
        if not 0 <= self.occluder_share <= 1:
            raise ValueError(f"occluder_share {self.occluder_share} must lie in 0..1")
        if not self.speeds_px or self.grid_px < 1:
            raise ValueError(
                f"speeds_px {self.speeds_px} is empty or grid_px {self.grid_px} below 1"
            )
        room = self.side_px - self.digit_px
        if room % self.grid_px:
            raise ValueError(
                f"side_px {self.side_px} - digit_px {self.digit_px} = {room} is not a multiple of "
                f"grid_px {self.grid_px}"
            )
        if self.frames < 2:
            raise ValueError(f"frames {self.frames}: motion needs at least 2")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DigitClip:
    """One made clip and everything that is true about it.

    Attributes:
        clip: the frames.
        digit: 0 to 9.
        motion: index into `MOTIONS`.
        masks: u8 [T H W], 1 where the card is seen.
        centres_px: f32 [T 2], x and y of the card's centre, hidden or not.
        hidden: bool [T], true where less than a tenth of the card is seen.
    """

    clip: Clip
    digit: int
    motion: int
    masks: np.ndarray
    centres_px: np.ndarray
    hidden: np.ndarray


@cache
def _digit_images() -> tuple[np.ndarray, np.ndarray]:
    """All digits, f32 [1797 8 8] in [0, 1], and their labels."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels, dtype=np.float32).reshape(-1, 8, 8) / 16
    return images, np.asarray(labels, dtype=np.int64)


def _digit_indices(split: Split) -> np.ndarray:
    """Which handwritten images a split draws from: no image serves two splits.

    Pre-training sees no labels, so it shares the images of `train`, as the paper's pre-training
    set holds the probes' training images.
    """
    slot = np.arange(len(_digit_images()[1])) % 10
    member = {"pretrain": slot < 6, "train": slot < 6, "selection": slot == 6, "test": slot > 6}
    return np.flatnonzero(member[split])


class MovingDigits:
    """The clips of one split.

    Args:
        config: how they look.
        backgrounds: real frames, u8 [T H W 3] each, at least `side_px` on both sides.
        split: which part of the handwritten images and which random stream.

    Raises:
        ValueError: if there is no background, or one is smaller than the frame.
    """

    def __init__(
        self, config: MovingDigitsConfig, backgrounds: Sequence[np.ndarray], split: Split
    ) -> None:
        if not backgrounds:
            raise ValueError("moving digits need at least one real clip as background")
        for number, frames in enumerate(backgrounds):
            if min(frames.shape[1:3]) < config.side_px:
                raise ValueError(
                    f"background {number} is {frames.shape[2]}x{frames.shape[1]} px, "
                    f"smaller than the frame of {config.side_px} px"
                )
        self.config = config
        self.backgrounds = backgrounds
        self.split: Split = split

    def __getitem__(self, index: int) -> DigitClip:
        """Make clip `index`."""
        config = self.config
        stream = get_args(Split).index(self.split)
        random = np.random.default_rng([config.seed, stream, index])
        images, labels = _digit_images()
        choice = int(random.choice(_digit_indices(self.split)))
        motion = int(random.integers(len(MOTIONS)))

        canvas = self._background(random)
        corners = self._path(motion, random)
        glyph = np.asarray(
            Image.fromarray((images[choice] * 255).astype(np.uint8)).resize(
                (config.digit_px, config.digit_px), Image.Resampling.BICUBIC
            ),
            dtype=np.float32,
        )
        glyph /= 255
        ink = 255 - random.uniform(0, 40, size=3).astype(np.float32)
        card = random.uniform(0, 30, size=3).astype(np.float32)
        solid = np.zeros(canvas.shape[:3], dtype=np.uint8)
        for frame, (x, y) in enumerate(corners):
            place = np.s_[frame, y : y + config.digit_px, x : x + config.digit_px]
            canvas[place] = card + (ink - card) * glyph[..., None]
            solid[place] = 1

        seen = solid.copy()
        if random.random() < config.occluder_share:
            bar = self._occluder(random)
            shade = random.uniform(30, 110, size=3).astype(np.float32)
            canvas[:, bar[0], bar[1]] = shade
            seen[:, bar[0], bar[1]] = 0
        shown = seen.sum((1, 2)) / np.maximum(solid.sum((1, 2)), 1)
        times_s = torch.arange(config.frames, dtype=torch.float64) / config.fps
        clip = Clip(
            frames=torch.from_numpy(np.clip(canvas + 0.5, 0, 255).astype(np.uint8)),
            times_s=times_s,
            source=f"moving-digits/{self.split}#{index}",
        )
        return DigitClip(
            clip=clip,
            digit=int(labels[choice]),
            motion=motion,
            masks=seen,
            centres_px=(corners + config.digit_px / 2).astype(np.float32),
            hidden=shown < 0.1,
        )

    def _background(self, random: np.random.Generator) -> np.ndarray:
        """Play a random crop of a random real clip, forwards and back, as f32 [T H W 3]."""
        side, config = self.config.side_px, self.config
        frames = self.backgrounds[int(random.integers(len(self.backgrounds)))]
        top = int(random.integers(frames.shape[1] - side + 1))
        left = int(random.integers(frames.shape[2] - side + 1))
        first = int(random.integers(len(frames)))
        there_and_back = np.arange(config.frames) * config.background_stride + first
        there_and_back %= max(1, 2 * len(frames) - 2)
        there_and_back = np.minimum(there_and_back, 2 * len(frames) - 2 - there_and_back)
        crop = frames[there_and_back, top : top + side, left : left + side].astype(np.float32)
        if random.random() < 0.5:
            crop = crop[:, :, ::-1]
        return (crop - 110) * config.background_contrast + 90

    def _path(self, motion: int, random: np.random.Generator) -> np.ndarray:
        """Where the card's top left corner is in each frame, i64 [T 2] as (x, y)."""
        config = self.config
        room = config.side_px - config.digit_px
        start = config.grid_px * random.integers(room // config.grid_px + 1, size=2).astype(float)
        speed = float(random.choice(config.speeds_px))
        time = np.arange(config.frames, dtype=np.float64)[:, None]
        sign = random.choice([-1.0, 1.0])
        if MOTIONS[motion] == "circling":
            radius = room / 2 * random.uniform(0.6, 1.0)
            angle = random.uniform(0, 2 * np.pi) + sign * speed / radius * time
            corners = room / 2 + radius * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
        else:
            line = {
                "still": (0.0, 0.0),
                "left-right": (1.0, 0.0),
                "up-down": (0.0, 1.0),
                "falling diagonal": (1.0, 1.0),
                "rising diagonal": (1.0, -1.0),
            }[MOTIONS[motion]]
            if "diagonal" in MOTIONS[motion]:
                # Both coordinates must turn at the same moment, or a bounce would change the line.
                start[1] = start[0] if line[1] > 0 else room - start[0]
            corners = start + sign * speed * np.array(line) * time
            corners = room - np.abs(corners % (2 * room) - room)
        return (config.grid_px * np.rint(corners / config.grid_px)).astype(np.int64)

    def _occluder(self, random: np.random.Generator) -> tuple[slice, slice]:
        """A bar across the whole frame, a little wider than the digit: rows, columns."""
        side, width = self.config.side_px, self.config.digit_px + 2
        at = int(random.integers(side - min(width, side) + 1))
        along, across = slice(0, side), slice(at, at + width)
        return (along, across) if random.random() < 0.5 else (across, along)
