"""Follow objects through a clip by carrying their labels along similar features.

A cell of the feature grid takes the labels of the cells most like it in the frames before. The
affinities of whole frames would fill gigabytes at 480p, so the cells are asked in small tiles,
each against the window it can reach: same labels, a few megabytes.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Propagation:
    """What a cell may look at, how it weighs what it sees, and how masks become cells and back.

    Features are always compared by cosine. Published settings are in `toto.probe.protocols`.
    """

    context_frames: int
    """How many of the frames just before are looked at."""
    first_frame_always: bool = True
    """Whether the annotated frame is looked at too, however long ago it was."""
    repeat_first: bool = False
    """Whether copies of the first frame stand for the past that a clip's start lacks."""
    radius: int
    """How far a cell may look, in feature cells."""
    radius_shape: Literal["square", "disk", "disk with rim"] = "square"
    """`square`: rows and columns at most `radius` apart; `disk`: distance below `radius`;
    `disk with rim`: distance at most `radius`."""
    radius_applies_to_first: bool = True
    """Whether the radius binds in the frame that `first_frame_always` adds."""
    topk: int
    """How many cells are kept of all that may be seen in all frames together."""
    temperature: float
    """The kept cells' weights are the softmax of cosine / temperature."""
    mask_resize: Literal["nearest", "bilinear", "area"] = "bilinear"
    """How the first mask becomes a grid of cells; `area` is the share of the cell covered."""
    mask_enlarge: Literal["bilinear", "nearest"] = "bilinear"
    """How a grid of cells becomes a map of pixels."""
    normalise_masks: bool = False
    """Whether each object's map is stretched to [0, 1] before the largest wins a pixel."""

    def __post_init__(self) -> None:
        for name in ("context_frames", "radius", "topk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")

    def context(self, frame: int) -> list[int]:
        """The frames that `frame` looks at; the one that is always there comes first."""
        first = [0] if self.first_frame_always else []
        recent = range(frame - self.context_frames, frame)
        if self.repeat_first:
            return first + [max(0, index) for index in recent]
        return first + [index for index in recent if index >= len(first)]


class _Seen(NamedTuple):
    """A frame that others look at."""

    unit: Tensor
    labels: Tensor


def propagate(
    features: Float32[Tensor, "T Y X D"],
    first_mask: Float32[Tensor, "Y X J"],
    config: Propagation,
    *,
    tile: int = 8,
) -> Float32[Tensor, "T Y X J"]:
    """Carry the first frame's labels through the clip, frame after frame.

    Args:
        features: one layer's features of every frame.
        first_mask: how much of each cell is each object's; the channels are independent.
        config: what a cell may look at.
        tile: side of the tiles of cells that are asked together. Speed and memory depend on it;
            the result does not, unless two cells tie to within rounding for the last place.

    Returns:
        The labels of every frame; those of the first are `first_mask`.

    Raises:
        ValueError: if the grids differ or a feature is not finite.

    Source:
        The recipes named in `toto.probe.protocols`; docs/paper.md.
    """
    return torch.stack([*follow(features, first_mask, config, tile=tile)])


def follow(
    features: Iterable[Float32[Tensor, "Y X D"]],
    first_mask: Float32[Tensor, "Y X J"],
    config: Propagation,
    *,
    tile: int = 8,
) -> Iterator[Float32[Tensor, "Y X J"]]:
    """Do as `propagate`, but take and give frames one by one.

    Only the frames that may still be looked at are in memory: at 480p and 8 px a cell, those of a
    whole sequence would be gigabytes.
    """
    # What lies further back than any later frame looks drops out at the left.
    recent: deque[_Seen] = deque(maxlen=config.context_frames)
    first: _Seen | None = None
    for frame, features_YXD in enumerate(features):
        if features_YXD.ndim != 3 or features_YXD.shape[:2] != first_mask.shape[:2]:
            raise ValueError(
                f"a mask {tuple(first_mask.shape)} does not lie on features "
                f"{tuple(features_YXD.shape)} of frame {frame}"
            )
        length_YX1 = features_YXD.norm(dim=-1, keepdim=True)
        if not bool(length_YX1.isfinite().all()):
            raise ValueError("a feature is not finite; look at the layer they come from")
        unit_YXD = features_YXD / length_YX1.clamp_min(1e-12)
        if first is None:
            first = _Seen(unit_YXD, first_mask)
            recent.append(first)
        else:
            oldest = frame - len(recent)
            seen = [recent[i - oldest] if i else first for i in config.context(frame)]
            recent.append(_Seen(unit_YXD, _labelled(unit_YXD, seen, config, tile)))
        yield recent[-1].labels


def mask_to_grid(
    mask: UInt8[np.ndarray, "H W"],
    objects: Sequence[int],
    grid: tuple[int, int],
    resize: Literal["nearest", "bilinear", "area"] = "bilinear",
) -> Float32[Tensor, "Y X J"]:
    """Turn a mask of ids into the soft labels of a feature grid.

    Args:
        mask: an id at each pixel.
        objects: the ids to follow, one channel each after the first; every other id is
            background, the first channel.
        grid: rows and columns of cells, Y and X.
        resize: see `Propagation.mask_resize`.

    Raises:
        ValueError: if the ids are none, not distinct, or not in 1..255.
    """
    _check_objects(objects)
    layers = [torch.from_numpy(mask == one) for one in objects]
    rest = ~torch.stack(layers).any(dim=0)
    onehot = torch.stack([rest, *layers])[None].float()
    if resize == "bilinear":
        soft = F.interpolate(onehot, size=grid, mode="bilinear", align_corners=False)
    else:
        # "nearest" would take each cell's corner; the recipes' image libraries take its middle.
        mode = "nearest-exact" if resize == "nearest" else "area"
        soft = F.interpolate(onehot, size=grid, mode=mode)
    return soft[0].permute(1, 2, 0).contiguous()


def grid_to_mask(
    soft: Float32[Tensor, "T Y X J"],
    objects: Sequence[int],
    size: tuple[int, int],
    *,
    enlarge: Literal["bilinear", "nearest"] = "bilinear",
    normalise: bool = False,
) -> UInt8[np.ndarray, "T H W"]:
    """Turn soft labels of cells into an id at each pixel: enlarged, the largest wins.

    Args:
        soft: background first, then the objects' labels.
        objects: the ids of the channels after the first.
        size: height and width of the masks in pixels, H and W.
        enlarge: see `Propagation.mask_enlarge`.
        normalise: see `Propagation.normalise_masks`.

    Raises:
        ValueError: if the channels are not one more than the objects, or the ids are none, not
            distinct, or not in 1..255.
    """
    _check_objects(objects)
    if soft.shape[-1] != 1 + len(objects):
        raise ValueError(
            f"{len(objects)} objects and background need {1 + len(objects)} channels, "
            f"got {soft.shape[-1]}"
        )
    ids = np.array([0, *objects], np.uint8)
    masks = np.empty((len(soft), *size), np.uint8)
    for frame, soft_YXJ in enumerate(soft):
        soft_1JYX = soft_YXJ.permute(2, 0, 1)[None]
        if enlarge == "nearest":
            fine_JHW = F.interpolate(soft_1JYX, size=size, mode="nearest-exact")[0]
        else:
            fine_JHW = F.interpolate(soft_1JYX, size=size, mode="bilinear", align_corners=False)[0]
        if normalise:
            low, high = fine_JHW.amin((1, 2), keepdim=True), fine_JHW.amax((1, 2), keepdim=True)
            fine_JHW = (fine_JHW - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
        masks[frame] = ids[fine_JHW.argmax(dim=0).cpu().numpy()]
    return masks


class _Tile(NamedTuple):
    """Cells that are asked together: where they are, what they may see, how alike it is.

    `affinity_PK` has a part for each frame; -inf in `bias_PK` is what is out of reach.
    """

    area: tuple[slice, slice]
    window: tuple[slice, slice]
    query_PD: Tensor
    bias_PK: Tensor
    affinity_PK: Tensor
    parts: tuple[Tensor, ...]


@torch.no_grad()
def _labelled(unit_YXD: Tensor, seen: list[_Seen], config: Propagation, side: int) -> Tensor:
    """Give the cells of a frame their labels: [Y X J]."""
    rows, columns, _ = unit_YXD.shape
    free = [config.first_frame_always and not config.radius_applies_to_first]
    free += [False] * (len(seen) - 1)
    found = torch.empty_like(seen[0].labels)
    for left in range(0, columns, side):
        across = slice(left, min(left + side, columns))
        tiles = [
            _tile(unit_YXD, (slice(top, min(top + side, rows)), across), config, free)
            for top in range(0, rows, side)
        ]
        reached = tiles[0].window[1]
        for place, source in enumerate(seen):
            # One copy for all tiles of the column: the window of each is some of its rows.
            keys_YXD = source.unit if free[place] else source.unit[:, reached].contiguous()
            for tile in tiles:
                down, bias = (slice(None), 0) if free[place] else (tile.window[0], tile.bias_PK)
                cosine_PK = _cosine(tile.query_PD, keys_YXD[down].flatten(0, 1))
                # Right into its place: gathering the parts afterwards took an eighth of the time.
                torch.add(cosine_PK, bias, out=tile.parts[place])
        for tile in tiles:
            labels = [
                (one.labels if everywhere else one.labels[tile.window]).flatten(0, 1)
                for one, everywhere in zip(seen, free, strict=True)
            ]
            found[tile.area] = _label_tile(tile, torch.cat(labels), config)
    return found


def _tile(
    unit_YXD: Tensor, area: tuple[slice, slice], config: Propagation, free: list[bool]
) -> _Tile:
    """Make a tile whose affinities are still to be computed; `free` frames are seen whole."""
    rows, columns, width = unit_YXD.shape
    window = (_widened(area[0], config.radius, rows), _widened(area[1], config.radius, columns))
    query_PD = unit_YXD[area].reshape(-1, width)
    bias_PK = _window_bias(area, window, config, unit_YXD.device)
    keys = [rows * columns if everywhere else bias_PK.shape[1] for everywhere in free]
    affinity_PK = query_PD.new_empty(len(query_PD), sum(keys))
    return _Tile(area, window, query_PD, bias_PK, affinity_PK, affinity_PK.split(keys, dim=1))


def _label_tile(tile: _Tile, label_KJ: Tensor, config: Propagation) -> Tensor:
    """Mix the labels of what is most like each cell of a tile: [y x J]."""
    best_Pk, index_Pk = tile.affinity_PK.topk(min(config.topk, len(label_KJ)), dim=1)
    weight_Pk = (best_Pk / config.temperature).softmax(dim=1)
    label_PJ = torch.einsum("pk,pkj->pj", weight_Pk, label_KJ[index_Pk])
    down, right = tile.area
    return label_PJ.unflatten(0, (down.stop - down.start, right.stop - right.start))


def _cosine(query_PD: Tensor, key_KD: Tensor) -> Tensor:
    if query_PD.device.type == "cpu" and torch.backends.mkldnn.is_available():
        # torch's own fp32 product takes up to twice as long as oneDNN's on AMD, and it is most of
        # the time spent here; oneDNN is fastest with the longer side first.
        return torch.ops.mkldnn._linear_pointwise(key_KD, query_PD, None, "none", [], "").T
    return query_PD @ key_KD.T


def _widened(cells: slice, radius: int, limit: int) -> slice:
    return slice(max(0, cells.start - radius), min(limit, cells.stop + radius))


def _window_bias(
    area: tuple[slice, slice],
    window: tuple[slice, slice],
    config: Propagation,
    device: torch.device,
) -> Tensor:
    """0 where a cell of the tile may see a cell of the window, -inf elsewhere: [P K]."""
    down, right = (
        (_range(cells, device)[:, None] - _range(seen, device)[None]).abs()
        for cells, seen in zip(area, window, strict=True)
    )
    down, right = down[:, None, :, None], right[None, :, None, :]
    if config.radius_shape == "disk":
        reached = down**2 + right**2 < config.radius**2
    elif config.radius_shape == "disk with rim":
        reached = down**2 + right**2 <= config.radius**2
    else:
        reached = (down <= config.radius) & (right <= config.radius)
    bias = torch.zeros(reached.shape, device=device).masked_fill_(~reached, -torch.inf)
    return bias.flatten(2).flatten(0, 1)


def _range(cells: slice, device: torch.device) -> Tensor:
    return torch.arange(cells.start, cells.stop, device=device)


def _check_objects(objects: Sequence[int]) -> None:
    distinct = len(set(objects)) == len(objects) > 0
    if not distinct or min(objects) < 1 or max(objects) > 255:
        raise ValueError(f"objects are distinct ids in 1..255, got {tuple(objects)}")
