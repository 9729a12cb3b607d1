"""A trained model with its tokenizer, as a function from frames to features."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from toto.config import from_dict, to_dict
from toto.data.layout import Layout, LayoutConfig
from toto.data.token_set import TokenSet
from toto.models import Decoder, decoder_config
from toto.models.attention import Direction, set_direction
from toto.models.sampling import SamplingConfig
from toto.runtime import checkpoint
from toto.runtime.devices import Precision, compute
from toto.runtime.folder import RunFolder
from toto.tokenizers import Tokenizer, load_tokenizer
from toto.tokenizers.base import digest_of
from toto.tokenizers.patches import PatchNormalisation, patch_side_px, patchify
from toto.types import SPECIALS

TOKENIZER = "tokenizer"
"""Folder of a run that holds a copy of its tokenizer."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Backbone:
    """Frames in, features of any layer out; the weights are not changed.

    Attributes:
        model: the decoder, in evaluation mode.
        tokenizer: whose tokens it was trained on.
        layout: how it was shown them.
        precision: of the forward pass.
        patches: how pixels were scaled, if it reads patches.
        attention: which way its layers attend; bidirectional after some fine-tunings.
        kind: of the clips that it is shown, which decides their start token.
    """

    model: Decoder
    tokenizer: Tokenizer
    layout: Layout
    precision: Precision = "fp32"
    patches: PatchNormalisation = field(default_factory=PatchNormalisation)
    attention: Direction = "causal"
    kind: Literal["video", "images"] = "video"

    @property
    def reads_patches(self) -> bool:
        """Whether pixels, and not ids, are what the model reads."""
        return self.model.config.patch_values > 0

    @property
    def depth(self) -> int:
        """Number of blocks; layers are 0 (embedding) to depth."""
        return self.model.config.depth

    @property
    def width(self) -> int:
        """D, channels of a feature."""
        return self.model.config.width

    def digest(self) -> str:
        """sha256 of configurations, kind of clips, tokenizer and weights; not of the precision."""
        said = {
            "model": to_dict(self.model.config),
            "attention": self.attention,
            "kind": self.kind,
            "layout": to_dict(self.layout.config),
            "patches": to_dict(self.patches),
            "tokenizer": self.tokenizer.digest(),
        }
        return digest_of(json.dumps(said, sort_keys=True), self.model.state_dict())

    def to(self, place: torch.device) -> Self:
        """Move the model to a device."""
        self.model.to(place)
        return self

    def features(
        self, frames: UInt8[Tensor, "T H W 3"], layers: Collection[int]
    ) -> dict[int, Float[Tensor, "T Y X D"]]:
        """Encode a clip and read the features of the layers asked for.

        Raises:
            ValueError: if the clip is longer than the context, a side is not a multiple of the
                patch, or a layer does not exist.
        """
        clip = frames if self.reads_patches else self.tokenizer.encode(frames).long()
        flat = self.token_features(clip[None], layers)
        return {layer: value[0].unflatten(0, self.grid(clip)) for layer, value in flat.items()}

    def grid(self, clip: Int64[Tensor, "T Y X"] | UInt8[Tensor, "T H W 3"]) -> tuple[int, int, int]:
        """Frames, rows and columns of patches of a clip that is what the model reads."""
        frames, height, width = clip.shape[:3]
        side_px = patch_side_px(self.model.config.patch_values) if self.reads_patches else 1
        return frames, height // side_px, width // side_px

    def window(
        self, shard: TokenSet, clip: int, start: int, frames: int
    ) -> Int64[Tensor, "T Y X"] | UInt8[Tensor, "T H W 3"]:
        """Cut from a shard what the model reads: codes, or frames.

        Raises:
            ValueError: if the clip has no such frames.
        """
        return (shard.pixels if self.reads_patches else shard.window)(clip, start, frames)

    def token_features(
        self,
        clips: Int64[Tensor, "B T Y X"] | UInt8[Tensor, "B T H W 3"],
        layers: Collection[int],
    ) -> dict[int, Float[Tensor, "B L D"]]:
        """Read the features at every place of clips that are what the model reads.

        The start token is read but has no feature of its own in the answer, and there is no end
        token: L = T Y X.

        Args:
            clips: codes, or frames where the model reads patches.
            layers: 0 (embedding) to depth.
        """
        return {layer: value[:, 1:] for layer, value in self.hidden(clips, layers).items()}

    @torch.no_grad()
    def hidden(
        self,
        clips: Int64[Tensor, "B T Y X"] | UInt8[Tensor, "B T H W 3"],
        layers: Collection[int],
    ) -> dict[int, Float[Tensor, "B L_plus_1 D"]]:
        """Do as `token_features`, with the start token's own stream in front."""
        place = self.model.embedding.weight.device
        patches, grids = None, clips
        if self.reads_patches:
            side_px = patch_side_px(self.model.config.patch_values)
            patches = patchify(clips.to(place), side_px, self.patches).flatten(1, 3)
            # Which code a place has is not looked at, only that it is no special id.
            grids = torch.zeros(patches.shape[:2], dtype=torch.int64)
            patches = F.pad(patches, (0, 0, 1, 0))
        ids = torch.stack([self.layout.prompt(grid, self.kind) for grid in grids]).to(place)
        with compute(self.precision, place):
            return self.model.hidden(ids, layers, patches)

    def forecast(
        self, ids: Int64[Tensor, "T Y X"], *, frames: int, sampling: SamplingConfig
    ) -> Iterator[Int64[Tensor, "Y X"]]:
        """Continue a clip of tokens frame by frame: `toto.probe.forecast` in one future.

        Raises:
            ValueError: if the model reads patches, or the clip is not of its grid.
        """
        from toto.probe.forecast import forecast  # it needs this class

        for frame in forecast(self, ids[None], frames=frames, sampling=sampling):
            yield frame.ids[0]

    def untrained(self, seed: int) -> "Backbone":
        """Make the same backbone with fresh weights: the baseline of every probe."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fresh = self.model.config.build()
        set_direction(fresh, self.attention)
        return Backbone(
            model=fresh.eval().requires_grad_(False).to(self.model.embedding.weight.device),
            tokenizer=self.tokenizer,
            layout=self.layout,
            precision=self.precision,
            patches=self.patches,
            attention=self.attention,
            kind=self.kind,
        )


def open_backbone(run: Path, *, precision: Precision = "fp32") -> Backbone:
    """Open the newest good checkpoint of a run, with its tokenizer; of a fine-tuning without heads.

    Raises:
        ValueError: if the folder is not such a run, or has no checkpoint yet.
    """
    folder = RunFolder.open(run)
    tokenizer = load_tokenizer(run / TOKENIZER)
    if not folder.has_result("model"):
        raise ValueError(f"{run} is not a pre-training run; give the --out of `toto pretrain`")
    described = folder.result("model")
    found = checkpoint.latest(folder.checkpoints)
    if found is None:
        raise ValueError(f"{run} has no checkpoint yet; let `toto pretrain` reach its first save")
    config = decoder_config(described["model"])
    model = config.build()
    weights = checkpoint.load(found.path, config_digest=None)["model"]
    # A pre-training run is causal, and its checkpoints hold the decoder alone.
    attention: Direction = described.get("attention", "causal")
    inside = described.get("inside", "")
    model.load_state_dict(
        {k.removeprefix(inside): weight for k, weight in weights.items() if k.startswith(inside)}
    )
    set_direction(model, attention)
    rows, columns = described["grid"]
    layout = Layout(
        from_dict(LayoutConfig, described["layout"]),
        codes=config.vocab_size - SPECIALS,
        frame_tokens=rows * columns,
    )
    return Backbone(
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        layout=layout,
        precision=precision,
        patches=from_dict(PatchNormalisation, described["patches"]),
        attention=attention,
    )
