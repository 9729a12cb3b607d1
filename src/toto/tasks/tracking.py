"""Semi-supervised object tracking with frozen features (DAVIS-2017; docs/paper.md).

Nothing is trained: the first frame's mask is carried through the clip by feature similarity, so
the score says what the features know about correspondence.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from torch import Tensor

from toto.metrics.segmentation import VOID, score_sequence
from toto.probe.propagate import Propagation, follow, grid_to_mask, mask_to_grid, propagate
from toto.probe.protocols import Protocol
from toto.types import Clip


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaskedClip:
    """A clip with the annotated mask of every frame.

    Attributes:
        clip: the frames.
        masks: an object's id at each pixel, 0 for background, 255 for void.

    Raises:
        ValueError: if the masks do not match the frames, or the first mask has no object.
    """

    clip: Clip
    masks: UInt8[np.ndarray, "T H W"]

    def __post_init__(self) -> None:
        frames = tuple(self.clip.frames.shape[:3])
        if self.masks.shape != frames:
            raise ValueError(
                f"{self.clip.source}: masks {self.masks.shape} do not match frames {frames}"
            )
        if not self.objects:
            raise ValueError(f"{self.clip.source}: the first mask has no object to follow")

    @property
    def objects(self) -> tuple[int, ...]:
        """The ids in the first mask: those that are followed."""
        return tuple(int(i) for i in np.unique(self.masks[0]) if i not in (0, VOID))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracking:
    """Follow every object of every clip, under one protocol."""

    clips: Sequence[MaskedClip]
    propagation: Propagation
    """That of one of `toto.probe.protocols.PROTOCOLS`, or a variant."""

    def __post_init__(self) -> None:
        if len(self.clips) == 0:
            raise ValueError("tracking needs at least one clip")

    def evaluate(self, features: Callable[[Clip], Tensor]) -> Iterator[tuple[str, float]]:
        """Track and score; each value is a mean over the objects of all clips, in [0, 1].

        Args:
            features: gives the features f32 [T Y X D] of one layer for a whole clip.
        """
        j, f = [], []
        for masked in self.clips:
            size = masked.masks.shape[1], masked.masks.shape[2]
            followed = track_clip(
                features(masked.clip), masked.masks[0], masked.objects, self.propagation, size
            )
            score = score_sequence(followed, masked.masks, masked.objects)
            j.append(score.j)
            f.append(score.f)
        mean_j, mean_f = float(np.concatenate(j).mean()), float(np.concatenate(f).mean())
        yield "j", mean_j
        yield "f", mean_f
        yield "j_and_f", (mean_j + mean_f) / 2


def track_clip(
    features: Float32[Tensor, "T Y X D"],
    first_mask_ids: UInt8[np.ndarray, "H1 W1"],
    objects: Sequence[int],
    config: Propagation,
    size: tuple[int, int],
) -> UInt8[np.ndarray, "T H W"]:
    """Follow objects from the first frame's mask to the end of the clip.

    Args:
        features: one layer's features of every frame.
        first_mask_ids: an id at each pixel, of any size.
        objects: the ids to follow; every other id is background.
        config: the protocol.
        size: height and width of the masks to return, in pixels.

    Returns:
        An id at each pixel. The first frame's has been through the grid and back like the
        others', and so is coarser than what was given.
    """
    grid = features.shape[1], features.shape[2]
    first = mask_to_grid(first_mask_ids, objects, grid, config.mask_resize)
    soft = propagate(features, first.to(features.device), config)
    return grid_to_mask(
        soft, objects, size, enlarge=config.mask_enlarge, normalise=config.normalise_masks
    )


def track_frames(
    features: Iterable[Float32[Tensor, "Y X D"]],
    first_mask_ids: UInt8[np.ndarray, "H W"],
    objects: Sequence[int],
    protocol: Protocol,
) -> Iterator[UInt8[np.ndarray, "H W"]]:
    """Follow objects frame by frame; a video of any length takes the memory of a few frames.

    Args:
        features: one layer's features of each frame, over the protocol's grid.
        first_mask_ids: an id at each pixel of the first frame, at the video's size.
        objects: the ids to follow; every other id is background.
        protocol: the whole of it.

    Yields:
        An id at each pixel. The first frame's are those given, as in the official layout.
    """
    config, size = protocol.propagation, first_mask_ids.shape
    grid = protocol.grid(*size)
    first = mask_to_grid(first_mask_ids, objects, grid, config.mask_resize)
    fine = size if protocol.ids_at == "video" else protocol.frame_px(*size)
    # PIL's nearest neighbour: the cell in which a pixel's middle lies.
    rows, columns = (
        ((np.arange(there) + 0.5) * here / there).astype(int)
        for here, there in zip(fine, size, strict=True)
    )
    for frame, soft_YXJ in enumerate(follow(features, first, config)):
        if frame == 0:
            yield np.where(np.isin(first_mask_ids, objects), first_mask_ids, 0).astype(np.uint8)
            continue
        ids = grid_to_mask(
            soft_YXJ[None],
            objects,
            fine,
            enlarge=config.mask_enlarge,
            normalise=config.normalise_masks,
        )[0]
        yield ids[rows[:, None], columns]


def copy_first_mask(
    first_mask_ids: UInt8[np.ndarray, "H W"], frames: int
) -> UInt8[np.ndarray, "T H W"]:
    """The baseline that sees no motion: the first mask in every frame."""
    return np.repeat(first_mask_ids[None], frames, axis=0)
