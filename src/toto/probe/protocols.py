"""Named tracking protocols: the size of the frames, and what a cell may look at.

The same features score 20 points apart under two of them (`docs/paper.md`, DAVIS rows), so a score
without its protocol says nothing. A protocol is frozen: what changes it gets another name.
"""

import math
from dataclasses import dataclass
from typing import Literal

from toto.probe.propagate import Propagation


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How frames become a grid of cells, and masks move over it."""

    propagation: Propagation
    frames: Literal["as they are", "short side", "square"]
    """`short side`: that one is `side_px`, the long one in proportion, rounded to a multiple.
    `square`: squashed. Else only rounded."""
    side_px: int = 0
    """Of the short side, or the square; 0 where frames stay as they are."""
    cell_px: int
    """Side of the square of pixels that a feature stands for."""
    multiple_px: int
    """What a side that is rounded becomes a multiple of."""
    rounded: Literal["down", "up"] = "up"
    """To which multiple it goes."""
    ids_at: Literal["video", "frames"] = "video"
    """Where the largest map wins a pixel: at the size of the video, or at that of the resized
    frames, from which ids go to the video's by nearest neighbour."""
    unsaid: str = ""
    """What its source does not say, and so is our choice."""

    def __post_init__(self) -> None:
        if (self.side_px > 0) == (self.frames == "as they are"):
            raise ValueError(f"side_px {self.side_px} does not go with frames {self.frames!r}")
        for name in ("multiple_px", "side_px"):
            if self.cell_px < 1 or getattr(self, name) % self.cell_px:
                raise ValueError(
                    f"{name} {getattr(self, name)} is no multiple of cell_px {self.cell_px}"
                )

    def frame_px(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that a video's frames are resized to.

        Raises:
            ValueError: if nothing would be left of a side.
        """
        if self.frames == "square":
            return self.side_px, self.side_px
        short = min(height, width)
        scale = self.side_px / short if self.frames == "short side" else 1.0
        rows, columns = (
            self.side_px if self.side_px and side == short else self._multiple(side * scale)
            for side in (height, width)
        )
        if min(rows, columns) == 0:
            raise ValueError(
                f"frames of {width}x{height} px have no side of {self.multiple_px} px; "
                "choose another protocol"
            )
        return rows, columns

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of cells of a video's frames."""
        rows, columns = self.frame_px(height, width)
        return rows // self.cell_px, columns // self.cell_px

    def _multiple(self, side: float) -> int:
        # A product such as 480 / 480 * 854 may miss a whole number by its last digit.
        parts = round(side / self.multiple_px, 9)
        whole = math.floor(parts) if self.rounded == "down" else math.ceil(parts)
        return whole * self.multiple_px


_VIDEOWALK = Propagation(
    context_frames=20,
    repeat_first=True,
    radius=12,
    radius_shape="disk",
    radius_applies_to_first=False,
    topk=10,
    temperature=0.05,
)
_TOTO_UNSAID = (
    "number of context frames, top-k, radius and temperature (here videowalk's, whose protocol the "
    "paper names); whether frames are squashed (inferred); one frame or several at once (here one)"
)

PROTOCOLS: dict[str, Protocol] = {
    "videowalk-2020": Protocol(
        propagation=_VIDEOWALK, frames="as they are", cell_px=8, multiple_px=8
    ),
    "dino-480": Protocol(
        propagation=Propagation(
            context_frames=7,
            radius=12,
            topk=5,
            temperature=0.1,
            mask_resize="nearest",
            normalise_masks=True,
        ),
        frames="short side",
        side_px=480,
        cell_px=8,
        multiple_px=64,
        rounded="down",
        ids_at="frames",
    ),
    "dinov3-960": Protocol(
        propagation=Propagation(
            context_frames=7,
            radius=12,
            radius_shape="disk with rim",
            topk=5,
            temperature=0.2,
            mask_resize="nearest",
            mask_enlarge="nearest",
            normalise_masks=True,
        ),
        frames="short side",
        side_px=960,
        cell_px=16,
        multiple_px=16,
    ),
    "toto-256": Protocol(
        propagation=_VIDEOWALK,
        frames="square",
        side_px=256,
        cell_px=8,
        multiple_px=8,
        unsaid=_TOTO_UNSAID,
    ),
    "toto-512": Protocol(
        propagation=_VIDEOWALK,
        frames="square",
        side_px=512,
        cell_px=8,
        multiple_px=8,
        unsaid=_TOTO_UNSAID,
    ),
    "demo": Protocol(
        propagation=Propagation(
            context_frames=7, radius=2, topk=5, temperature=0.1, mask_resize="area"
        ),
        frames="as they are",
        cell_px=8,
        multiple_px=8,
    ),
}
"""The protocols by name:

- `videowalk-2020`: ajabri/videowalk (`code/test.py`, its README's flags), frames at native size.
  There a padded convolution makes 60 x 107 cells of 854x480 px; here the frame is stretched to
  856x480 px. Jabri et al., "Space-time correspondence as a contrastive random walk".
- `dino-480`: facebookresearch/dino (`eval_video_segmentation.py`). Its own script runs patches of
  16 px on the same frames, `--cell-px 16` here.
- `dinov3-960`: facebookresearch/dinov3 (`notebooks/segmentation_tracking.ipynb`).
- `toto-256`, `toto-512`: the paper's Table 10, "256/8" and "512/8".
- `demo`: ours, for 64 px frames with 8 x 8 cells; no published number belongs to it.

All resize with one antialiased bicubic filter (`toto.video.transforms`); the first two sources use
OpenCV's bilinear one without antialiasing. Of cells that tie for the last place in the top-k, one
is kept; the sources of `dino-480` and `dinov3-960` keep all.
"""
