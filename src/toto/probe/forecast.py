"""Continuing clips of tokens beyond the context, several futures at once, and its surprise.

A model sees windows of as many frames as fit its context. When a window is full, its newest frames
are read again as the beginning of the next one, from position 0. So each token is predicted from a
plain sequence such as training showed: the same with and without a cache, here and in any program
that can read a prompt. Reading again costs one pass over the frames that are kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from toto.models.decoding import Weights, open_reader
from toto.models.sampling import Draws, SamplingConfig, continue_sequence
from toto.models.sampling import surprise_nats as surprise_of
from toto.probe.backbone import Backbone


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowConfig:
    """What stays when a window is full."""

    keep_frames: int | None = None
    """The newest frames that the next window begins with; half of a window if left out. Fewer are
    read again less often, more remember longer."""

    def __post_init__(self) -> None:
        if self.keep_frames is not None and self.keep_frames < 1:
            raise ValueError(f"keep_frames {self.keep_frames} must be at least 1")

    def kept_of(self, window_frames: int) -> int:
        """Frames that stay of a window.

        Raises:
            ValueError: if they would fill the next window, so that none could follow.
        """
        if window_frames < 2:
            raise ValueError(
                f"a window of {window_frames} frames holds none before the next; "
                "use a model with a longer context"
            )
        kept = self.keep_frames or window_frames // 2
        if kept >= window_frames:
            raise ValueError(
                f"keep_frames {kept} fill a window of {window_frames}; keep {window_frames - 1} "
                "at most"
            )
        return kept


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ForecastFrame:
    """The next frame of every row, on the CPU.

    Attributes:
        ids: its codes.
        surprise_nats: -ln p of each drawn token under the model, at temperature 1 among the codes.
    """

    ids: Int64[Tensor, "B Y X"]
    surprise_nats: Float32[Tensor, "B Y X"]


def window_frames(backbone: Backbone) -> int:
    """Frames that a window holds: as many as fit the model's context behind the start token."""
    return (backbone.model.config.context - 1) // backbone.layout.frame_tokens


def forecast(
    backbone: Backbone,
    clips: Int64[Tensor, "C T Y X"],
    *,
    frames: int,
    sampling: SamplingConfig,
    futures: int = 1,
    window: WindowConfig = WindowConfig(),
    weights: Weights = "fp32",
    kind: Literal["video", "images"] = "video",
) -> Iterator[ForecastFrame]:
    """Continue clips of tokens frame by frame, with the model's cache.

    With `kind="images"` the frames are images, and what follows is one more: image, result, image
    asks for the second image's result.

    Args:
        backbone: whose model reads ids.
        clips: C clips of T frames; only the newest are read where all do not fit a window.
        frames: how many to add, as many as one likes.
        sampling: how tokens are drawn. A future's draws do not depend on how many there are.
        futures: ways in which each clip goes on. Rows are those of clip 0, then of clip 1.
        window: what stays when a window is full.
        weights: what the model's matrices are rounded to.
        kind: of the clips, which decides the start token.

    Raises:
        ValueError: if the model reads patches, a clip is not of its grid, there is less than one
            future, or the window holds too few frames.
    """
    if backbone.reads_patches:
        raise ValueError(
            "a model that reads patches cannot go on from what it predicts; "
            "continue clips with one that reads ids"
        )
    if futures < 1:
        raise ValueError(f"futures {futures} must be at least 1")
    _require_grid(backbone, clips)
    room, count = window_frames(backbone), len(clips) * futures
    kept, size = window.kept_of(room), backbone.layout.frame_tokens
    reader = open_reader(backbone.model, weights)
    draws = Draws(sampling.seed, clips=len(clips), futures=futures)
    # One row a clip while its futures are the same, and one a future from the second window on.
    seen, ways, left = clips, futures, frames
    while left:
        if seen.shape[1] >= room:
            seen = seen[:, -kept:]
        new = min(left, room - seen.shape[1])
        tokens = continue_sequence(
            reader,
            torch.stack([backbone.layout.prompt(grid, kind) for grid in seen]),
            tokens=new * size,
            codes=backbone.layout.codes,
            config=sampling,
            draws=draws,
            futures=ways,
            look_back=size,
        )
        parts = [seen.repeat_interleave(ways, dim=0)]
        for _ in range(new):
            drawn = [next(tokens) for _ in range(size)]
            shape = (count, *clips.shape[2:])
            ids = torch.stack([token.ids for token in drawn], dim=1).cpu().view(shape)
            surprise = torch.stack([token.surprise_nats for token in drawn], dim=1).cpu()
            parts.append(ids[:, None])
            yield ForecastFrame(ids=ids, surprise_nats=surprise.view(shape))
        seen, ways, left = torch.cat(parts, dim=1), 1, left - new


@torch.no_grad()
def surprise_nats(
    backbone: Backbone, clip: Int64[Tensor, "T Y X"], kind: Literal["video", "images"] = "video"
) -> Float32[Tensor, "T Y X"]:
    """How little the model expected each token of a clip: -ln p among the codes, in one pass.

    Raises:
        ValueError: if the model reads or predicts patches, or the clip is not of its grid or longer
            than a window.
    """
    if backbone.reads_patches:
        raise ValueError(
            "a model that reads patches has no token to be surprised by; use one that reads ids"
        )
    _require_grid(backbone, clip[None])
    if len(clip) > window_frames(backbone):
        raise ValueError(
            f"a clip of {len(clip)} frames is longer than a window of {window_frames(backbone)}; "
            "cut it"
        )
    ids = backbone.layout.prompt(clip, kind)[None, :-1].to(backbone.model.embedding.weight.device)
    logits_LV = backbone.model(ids)[0, :, : backbone.layout.codes]
    return surprise_of(logits_LV, clip.flatten().to(ids.device)).cpu().view(clip.shape)


def _require_grid(backbone: Backbone, clips: Int64[Tensor, "C T Y X"]) -> None:
    tokens = clips.shape[2:].numel()
    if tokens != backbone.layout.frame_tokens:
        raise ValueError(
            f"frames of {' x '.join(map(str, clips.shape[2:]))} tokens are not of the model's "
            f"{backbone.layout.frame_tokens}; resize them as for training"
        )
