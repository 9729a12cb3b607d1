"""What `toto track --davis` compares the cells of frames by: a model's layer, or a baseline."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from toto.probe.backbone import Backbone
from toto.probe.cells import FrameFeatures, rgb_cells, tokenizer_cells
from toto.tokenizers.base import digest_of
from toto.tokenizers.patches import patch_side_px

Features = Literal["run", "untrained", "tokenizer", "rgb"]
"""`run`: a layer of the pre-training run. `untrained`: of the same model with fresh weights.
`tokenizer`: what its tokenizer's encoder makes before codes are chosen. `rgb`: raw pixels."""

WITH_LAYERS = ("run", "untrained")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """Where features come from, and how large a cell is to it.

    Attributes:
        kind: one of `Features`.
        cell_px: side of the square of the pixels it is shown that a feature stands for; 0 where
            that is whatever the protocol has.
        depth: layers are 0 to depth; None where there are none.
        weights: what it is, in words for the record.
        digest: sha256 of what decides the features, but the layer.
        backbone: the model and its tokenizer; None for raw pixels.
    """

    kind: Features
    cell_px: int
    depth: int | None
    weights: str
    digest: str
    backbone: Backbone | None

    def of_frame(self, cell_px: int, layer: int | None) -> FrameFeatures:
        """Give the features of one frame as a function.

        Args:
            cell_px: of the protocol; only raw pixels ask for it.
            layer: of the model; None where there are no layers.
        """
        backbone = self.backbone
        if backbone is None:
            return lambda frame: rgb_cells(frame, cell_px)
        if layer is None:
            return lambda frame: tokenizer_cells(backbone.tokenizer, frame)

        def hidden(frame: Tensor) -> Tensor:
            # One frame at a time: whether the paper shows several at once it does not say.
            return backbone.features(frame[None], [layer])[layer][0].float()

        return hidden


def source_of(kind: Features, backbone: Backbone | None, run: Path | None, seed: int) -> Source:
    """Make the source of a kind; `backbone` is the run's.

    Raises:
        ValueError: if the kind needs a run and there is none.
    """
    if kind == "rgb":
        return Source(
            kind=kind,
            cell_px=0,
            depth=None,
            weights="none: the pixels of a cell",
            digest=digest_of(kind, {}),
            backbone=None,
        )
    if backbone is None:
        raise ValueError(f"features {kind!r} are those of a run; give --run-folder")
    if kind == "tokenizer":
        return Source(
            kind=kind,
            cell_px=backbone.tokenizer.patch_px,
            depth=None,
            weights=f"the tokenizer of {run}",
            digest=backbone.tokenizer.digest(),
            backbone=backbone,
        )
    side_px = (
        patch_side_px(backbone.model.config.patch_values)
        if backbone.reads_patches
        else backbone.tokenizer.patch_px
    )
    shown = backbone.untrained(seed) if kind == "untrained" else backbone
    return Source(
        kind=kind,
        cell_px=side_px,
        depth=shown.depth,
        weights=f"fresh, seed {seed}, in the sizes of {run}" if kind == "untrained" else f"{run}",
        digest=shown.digest(),
        backbone=shown,
    )
