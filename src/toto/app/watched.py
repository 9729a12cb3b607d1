"""What is computed of a visitor's clip: tokens, colours, attention, tracks, forecasts."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from toto.app.run import ShownRun
from toto.metrics.image import WINDOW, ssim
from toto.metrics.video import psnr_db
from toto.models.sampling import SamplingConfig
from toto.probe.attention_map import Gaze, QueriesAndKeys, queries_and_keys
from toto.probe.forecast import forecast
from toto.probe.pca import principal_colours
from toto.probe.propagate import Propagation
from toto.probe.protocols import PROTOCOLS
from toto.tasks.tracking import track_clip

MASK_CELLS = 64
"""Rows and columns of a drawn mask."""
SHOWN_PX = 256
"""Side of the masks that come back; outlines need finer pixels than the model's."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Watched:
    """What is kept of a clip between two clicks of a visitor.

    A few megabytes, and two numbers a channel and token for `attending`: 67 MB at 16 frames of 256
    tokens, a width of 2,048 and fp32.

    Attributes:
        name: to be shown.
        frames: as the model reads them.
        ids: their tokens, where the model reads tokens.
        redrawn: the frames that the tokens stand for.
        colours: of each layer's features.
        attending: the layer that was last asked where it looks, with its queries and keys.
    """

    name: str
    frames: UInt8[Tensor, "T H W 3"]
    ids: Int64[Tensor, "T Y X"] | None
    redrawn: UInt8[Tensor, "T H W 3"] | None
    colours: dict[int, UInt8[Tensor, "T Y X 3"]] = field(default_factory=dict)
    attending: tuple[int, QueriesAndKeys] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Closeness:
    """How close frames are to the real ones, as means over the frames."""

    psnr_db: float
    ssim: float | None
    """None where frames are smaller than its window."""

    @classmethod
    def of(cls, frames: UInt8[Tensor, "T H W 3"], real: UInt8[Tensor, "T H W 3"]) -> "Closeness":
        """Compare frames with the real ones."""
        large = min(real.shape[1:3]) >= WINDOW
        return cls(
            psnr_db=float(psnr_db(real, frames).mean()),
            ssim=float(ssim(real, frames).mean()) if large else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Future:
    """One way in which a clip may go on.

    Attributes:
        frames: those that were seen, redrawn from their tokens, then those that were imagined.
        surprise_nats: at each token imagined: -ln of its probability.
    """

    frames: UInt8[Tensor, "T H W 3"]
    surprise_nats: Float32[Tensor, "T2 Y X"]


@torch.no_grad()
def watch(run: ShownRun, name: str, frames: UInt8[Tensor, "T H W 3"]) -> Watched:
    """Turn a clip into what the model reads; no more frames of it than the model was trained on.

    Raises:
        ValueError: if the frames are not of the run's size.
    """
    wanted = (run.side_px, run.side_px)
    if tuple(frames.shape[1:3]) != wanted:
        raise ValueError(f"frames of {tuple(frames.shape[1:3])} px are not {wanted}; resize them")
    frames = frames[: run.frames]
    if run.backbone.reads_patches:
        return Watched(name=name, frames=frames, ids=None, redrawn=None)
    tokenizer = run.backbone.tokenizer
    ids = tokenizer.encode(frames)
    return Watched(name=name, frames=frames, ids=ids.long(), redrawn=tokenizer.decode(ids))


def coloured(run: ShownRun, watched: Watched) -> Watched:
    """Add the colours of every layer's features, all from one pass."""
    found = run.backbone.token_features(_read(watched)[None], range(run.backbone.depth + 1))
    grid = run.backbone.grid(_read(watched))
    colours = {
        layer: principal_colours(features[0].unflatten(0, grid).float())
        for layer, features in found.items()
    }
    return replace(watched, colours=colours)


def attending(run: ShownRun, watched: Watched, layer: int) -> Watched:
    """Make sure that a layer's queries and keys are at hand; those of another are dropped.

    Raises:
        ValueError: if there is no such layer, or it has no attention.
    """
    if watched.attending is not None and watched.attending[0] == layer:
        return watched
    made = queries_and_keys(run.backbone, _read(watched), layer)
    return replace(watched, attending=(layer, made))


def gaze(watched: Watched, frame: int, row: int, column: int) -> Gaze:
    """Where a patch looks in the layer at hand.

    Raises:
        ValueError: if the clip has no such patch.
    """
    assert watched.attending is not None
    return watched.attending[1].gaze(frame, row, column)


def tracking(run: ShownRun) -> Propagation:
    """How masks are carried: as in the demo, with the same reach in shares of a frame.

    Maps are stretched before the largest wins, as in `dino-480`: a mask of a few patches would
    otherwise fade within frames.
    """
    demo = PROTOCOLS["demo"].propagation
    reach = round(demo.radius * run.grid[0] / 8)
    return replace(demo, radius=max(demo.radius, reach), normalise_masks=True)


def follow(
    run: ShownRun, watched: Watched, mask: UInt8[np.ndarray, "H1 W1"], layer: int
) -> UInt8[np.ndarray, "T S S"]:
    """Carry a mask of the first frame through the clip by one layer's features.

    What is marked is the patches that are covered at least half as much as the one covered most.

    Raises:
        ValueError: if the mask is empty, or there is no such layer.
    """
    if not mask.any():
        raise ValueError("nothing is marked; draw over what to follow")
    read = _read(watched)
    features = run.backbone.token_features(read[None], [layer])[layer][0]
    features_TYXD = features.unflatten(0, run.backbone.grid(read)).float().cpu()
    # A thin line covers no patch by half, and would be background everywhere.
    cover = F.interpolate(torch.from_numpy(mask)[None, None].float(), run.grid, mode="area")[0, 0]
    patches = (cover >= cover.max() / 2).byte().numpy()
    return track_clip(features_TYXD, patches, (1,), tracking(run), (SHOWN_PX, SHOWN_PX))


def liveliest_mask(frames: UInt8[Tensor, "T H W 3"]) -> UInt8[np.ndarray, "M M"]:
    """Mark where the clip changes most: something to follow before anything is drawn."""
    if len(frames) == 1:
        return _disk(0.5, 0.5)
    # From one frame to the next and not further: what moves is then still where the first has it.
    change = (frames[1].float() - frames[0].float()).abs().mean(-1)
    coarse = F.interpolate(change[None, None], size=(16, 16), mode="area")
    calm = F.avg_pool2d(coarse, 3, stride=1, padding=1)[0, 0]
    row, column = divmod(int(calm.argmax()), 16)
    return _disk((row + 0.5) / 16, (column + 0.5) / 16)


def imagine(
    run: ShownRun,
    watched: Watched,
    *,
    seen: int,
    frames: int,
    futures: int,
    sampling: SamplingConfig,
) -> Iterator[int | list[Future]]:
    """Go on with the first frames of a clip in several ways.

    Args:
        run: whose model imagines.
        watched: the clip.
        seen: how many of its frames the model is shown.
        frames: how many it adds.
        futures: how many ways.
        sampling: temperature, top-k, seed.

    Yields:
        The number of frames imagined so far, and at the end the futures.

    Raises:
        ValueError: if the clip has not so many frames, or the run cannot forecast.
    """
    if watched.ids is None or not run.forecasts:
        raise ValueError("this run cannot go on with a clip; open one that reads tokens")
    if not 1 <= seen <= len(watched.ids):
        raise ValueError(f"seen {seen} must be from 1 to the clip's {len(watched.ids)} frames")
    prompt = watched.ids[:seen]
    drawn, surprise = [], []
    for frame in forecast(
        run.backbone, prompt[None], frames=frames, sampling=sampling, futures=futures
    ):
        drawn.append(frame.ids)
        surprise.append(frame.surprise_nats)
        yield len(drawn)
    decode = run.backbone.tokenizer.decode
    yield [
        Future(frames=decode(torch.cat([prompt, ids]).int()), surprise_nats=nats)
        for ids, nats in zip(torch.stack(drawn, dim=1), torch.stack(surprise, dim=1), strict=True)
    ]


def _read(watched: Watched) -> Tensor:
    """What the model reads of a clip: its tokens, or its frames."""
    return watched.frames if watched.ids is None else watched.ids


def _disk(down: float, right: float) -> UInt8[np.ndarray, "M M"]:
    centres = (np.arange(MASK_CELLS) + 0.5) / MASK_CELLS
    away = np.hypot(centres[:, None] - down, centres[None] - right)
    return (away < 0.15).astype(np.uint8)
