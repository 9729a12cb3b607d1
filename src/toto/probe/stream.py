"""Features of a film as it comes: a frame in, its features out, each frame at the same cost.

The decoder is causal, so the features of past frames never change, and a new frame needs of them
only keys and values. Every token sees the start token, the frames of its window and what stands
before it in its own frame. With a window of W frames:

- Frames 1 to W have the features that `Backbone.features` gives them in one pass over the clip.
- From then on the window slides by a frame at a time. A token sees the start token and the W - 1
  frames before its own, at the distances that they have in a plain sequence of W frames. What it
  gets from them they computed when they came, from windows of their own: the features are those of
  one pass over the whole film under a mask of so many frames, and not those of a pass over the
  last W frames alone. A layer l can thus know of the last l (W - 1) frames.

A GPT-2's positions are part of its stream and cannot slide; its stream ends with the window. A
Mamba has a state in the place of a window: nothing leaves, and it goes on for ever.
"""

from collections.abc import Collection

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from toto.models import Llama, Mamba
from toto.models.cache import RecurrentState
from toto.models.rolling import RollingCache
from toto.probe.backbone import Backbone
from toto.runtime.devices import compute
from toto.tokenizers.fused import fast_encode
from toto.tokenizers.patches import patch_side_px, patchify


class Stream:
    """One film, pushed frame by frame. Make another for the next film.

    Args:
        backbone: whose features; it is not changed, and any number of streams may share it.
        layers: 0 (embedding) to depth; all if left out. Layers beyond the last are not computed.
        window_frames: W; by default as many frames as the context holds. A smaller one costs less.

    Attributes:
        layers: those whose features `push` gives, in order.
        window_frames: W; None for a model without a window.
        frames: pushed so far.

    Raises:
        ValueError: if the model attends in both directions, a layer does not exist, or the context
            does not hold the window.
    """

    def __init__(
        self,
        backbone: Backbone,
        layers: Collection[int] | None = None,
        *,
        window_frames: int | None = None,
    ) -> None:
        if backbone.attention != "causal":
            raise ValueError(
                f"this model's attention is {backbone.attention}: what it says of a frame would "
                "change with the next one; stream with the pre-training run"
            )
        self.layers = tuple(sorted(set(range(backbone.depth + 1) if layers is None else layers)))
        for layer in self.layers:
            if not 0 <= layer <= backbone.depth:
                raise ValueError(f"layer {layer} is not in 0..{backbone.depth}")
        self.frames = 0
        self._backbone = backbone
        self._encode = None if backbone.reads_patches else fast_encode(backbone.tokenizer)
        self.window_frames = None
        if not isinstance(backbone.model, Mamba):
            self.window_frames = self._fitting(window_frames)
        elif window_frames is not None:
            raise ValueError(f"window_frames {window_frames}: a Mamba has no window; leave it out")
        self._cache = self._new_cache()
        layout = backbone.layout
        start = layout.prompt(torch.empty(0, 1, 1, dtype=torch.int64), backbone.kind)
        values = backbone.model.config.patch_values
        self._hidden(start, torch.zeros(1, values) if backbone.reads_patches else None)

    def push(self, frame: UInt8[Tensor, "H W 3"]) -> dict[int, Float[Tensor, "Y X D"]]:
        """Read the next frame; gives its features at every layer of the stream.

        Raises:
            ValueError: if the frame has not as many tokens as the model was trained on, or the
                window is full and cannot slide.
        """
        return self.push_encoded(self.encode(frame))

    def encode(
        self, frame: UInt8[Tensor, "H W 3"]
    ) -> Int64[Tensor, "Y X"] | UInt8[Tensor, "H W 3"]:
        """Make of a frame what the model reads: codes, or the frame where it reads patches.

        Raises:
            ValueError: if a side is not a multiple of the tokenizer's patch.
        """
        return frame if self._encode is None else self._encode(frame[None])[0].long()

    @torch.no_grad()
    def push_encoded(
        self, given: Int64[Tensor, "Y X"] | UInt8[Tensor, "H W 3"]
    ) -> dict[int, Float[Tensor, "Y X D"]]:
        """Do as `push`, from what `encode` gave.

        Raises:
            ValueError: as `push`.
        """
        backbone, patches = self._backbone, None
        place = backbone.model.embedding.weight.device
        if backbone.reads_patches:
            side_px = patch_side_px(backbone.model.config.patch_values)
            patches_YXP = patchify(given[None].to(place), side_px, backbone.patches)[0]
            grid = patches_YXP.shape[:2]
            patches = patches_YXP.flatten(0, 1)
            # Which code a place has is not looked at, only that it is no special id.
            codes = torch.zeros(len(patches), dtype=torch.int64)
        else:
            grid, codes = given.shape, given.flatten()
        wanted = backbone.layout.frame_tokens
        if len(codes) != wanted:
            raise ValueError(
                f"a frame of {grid[0]} x {grid[1]} tokens has {len(codes)}, this model reads "
                f"{wanted} a frame; resize frames to what it was trained on"
            )
        self._open_frame()
        hidden = self._hidden(codes, patches)
        self.frames += 1
        return {layer: value[0].unflatten(0, grid) for layer, value in hidden.items()}

    def _fitting(self, wanted: int | None) -> int:
        """W: what is wanted, or the most that fits."""
        context = self._backbone.model.config.context
        frame_tokens = self._backbone.layout.frame_tokens
        fits = (context - 1) // frame_tokens
        window = fits if wanted is None else wanted
        if not 1 <= window <= fits:
            raise ValueError(
                f"window_frames {window} is not in 1..{fits}: a context of {context} tokens holds "
                f"a start token and {fits} frames of {frame_tokens}"
            )
        return window

    def _new_cache(self) -> RollingCache | RecurrentState:
        model, layout = self._backbone.model, self._backbone.layout
        dtype = torch.bfloat16 if self._backbone.precision == "bf16" else torch.float32
        if isinstance(model, Mamba):
            state = model.new_cache(1, dtype)
            state.endless = True
            return state
        assert self.window_frames is not None
        return RollingCache.of_window(
            frames=self.window_frames,
            frame_tokens=layout.frame_tokens,
            layers=max(self.layers, default=0),
            heads=model.config.heads,
            head_width=model.config.head_width,
            dtype=dtype,
            device=model.embedding.weight.device,
            endless=isinstance(model, Llama),
        )

    def _open_frame(self) -> None:
        """Make room for the next frame.

        Raises:
            ValueError: if there is none and the window cannot slide.
        """
        cache, model = self._cache, self._backbone.model
        if isinstance(cache, RecurrentState):
            return
        if self.frames == self.window_frames and not cache.endless:
            raise ValueError(
                f"frame {self.frames + 1} lies beyond the window of {self.window_frames}, which "
                "cannot slide, since the model's positions are absolute; begin a new stream with it"
            )
        cache.open_frame()
        if isinstance(model, Llama):
            place = cache.start_place
            cache.place_start(model.angles(range(place, place + 1), cache.keys.device))

    @torch.no_grad()
    def _hidden(
        self, ids: Int64[Tensor, " L"], patches: Float[Tensor, "L P"] | None
    ) -> dict[int, Float[Tensor, "1 L D"]]:
        """Let the model read what follows; the cache takes it up."""
        backbone = self._backbone
        place = backbone.model.embedding.weight.device
        values = None if patches is None else patches[None].to(place)
        with compute(backbone.precision, place):
            return backbone.model.hidden(ids[None].to(place), self.layers, values, self._cache)
