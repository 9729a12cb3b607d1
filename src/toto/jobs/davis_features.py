"""What `toto track --davis` compares the cells of frames by: a model's layer, or a baseline."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from toto.probe.backbone import Backbone, open_backbone
from toto.probe.cells import FrameFeatures, rgb_cells, tokenizer_cells
from toto.probe.encoder import Encoder
from toto.probe.transformers_encoder import TransformersEncoder, open_encoder
from toto.runtime.devices import Precision, device
from toto.tokenizers import Tokenizer
from toto.tokenizers.base import digest_of
from toto.tokenizers.patches import patch_side_px

Features = Literal["run", "untrained", "tokenizer", "rgb", "encoder", "untrained-encoder"]
"""`run`: a layer of the pre-training run. `untrained`: of the same model with fresh weights.
`tokenizer`: what its tokenizer's encoder makes before codes are chosen. `rgb`: raw pixels.
`encoder`, `untrained-encoder`: a layer of another project's encoder, and with fresh weights."""

WITH_LAYERS = ("run", "untrained", "encoder", "untrained-encoder")
TRAINED = ("run", "tokenizer", "encoder")


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
        encoder: whose layers they are; None where there are none.
        tokenizer: whose vectors they are, if they are a tokenizer's.
    """

    kind: Features
    cell_px: int
    depth: int | None
    weights: str
    digest: str
    encoder: Encoder | None = None
    tokenizer: Tokenizer | None = None

    def of_frame(self, cell_px: int, layer: int | None) -> FrameFeatures:
        """Give the features of one frame as a function.

        Args:
            cell_px: of the protocol; only raw pixels ask for it.
            layer: of the model; None where there are no layers.
        """
        encoder, tokenizer = self.encoder, self.tokenizer
        if tokenizer is not None:
            return lambda frame: tokenizer_cells(tokenizer, frame)
        if encoder is None:
            return lambda frame: rgb_cells(frame, cell_px)
        assert layer is not None

        def hidden(frame: Tensor) -> Tensor:
            # One frame at a time: whether the paper shows several at once it does not say.
            return encoder.features(frame[None], [layer])[layer][0].float()

        return hidden


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What was opened to make sources of.

    Attributes:
        backbone: of `run`; None if no features need one.
        run: folder of the pre-training run.
        encoder: of another project, in `folder`; None if no features need one.
        folder: where its weights are.
        seed: of fresh weights.
    """

    backbone: Backbone | None
    run: Path | None
    encoder: TransformersEncoder | None
    folder: Path | None
    seed: int

    def source(self, kind: Features) -> Source:
        """Make the source of a kind.

        Raises:
            ValueError: if the kind needs a run or an encoder, and there is none.
        """
        if kind == "rgb":
            return Source(
                kind=kind,
                cell_px=0,
                depth=None,
                weights="none: the pixels of a cell",
                digest=digest_of(kind, {}),
            )
        if kind in ("encoder", "untrained-encoder"):
            encoder = self.encoder
            if encoder is None:
                raise ValueError(f"features {kind!r} are those of another encoder; give --encoder")
            return self._layers(kind, encoder, encoder.patch_px, self.folder)
        backbone = self.backbone
        if backbone is None:
            raise ValueError(f"features {kind!r} are those of a run; give --run-folder")
        tokenizer = backbone.tokenizer
        if kind == "tokenizer":
            return Source(
                kind=kind,
                cell_px=tokenizer.patch_px,
                depth=None,
                weights=f"the tokenizer of {self.run}",
                digest=tokenizer.digest(),
                tokenizer=tokenizer,
            )
        values = backbone.model.config.patch_values
        side_px = patch_side_px(values) if backbone.reads_patches else tokenizer.patch_px
        return self._layers(kind, backbone, side_px, self.run)

    def _layers(
        self, kind: Features, encoder: Encoder, cell_px: int, folder: Path | None
    ) -> Source:
        fresh = kind not in TRAINED
        shown = encoder.untrained(self.seed) if fresh else encoder
        return Source(
            kind=kind,
            cell_px=cell_px,
            depth=shown.depth,
            weights=f"fresh, seed {self.seed}, in the sizes of {folder}" if fresh else f"{folder}",
            digest=shown.digest(),
            encoder=shown,
        )


def open_sources(
    kinds: Sequence[Features],
    *,
    run: Path | None,
    encoder: Path | None,
    normalised: bool,
    precision: Precision,
    seed: int,
) -> list[Source]:
    """Open what features of these kinds are made of.

    Args:
        kinds: of the sources, in order.
        run: folder of a pre-training run.
        encoder: folder of an encoder of pictures that transformers saved.
        normalised: whether that one's features go through its last norm.
        precision: of the forward passes.
        seed: of fresh weights.

    Raises:
        ValueError: if one cannot be opened, is not there, or reads only clips.
    """
    other = None
    if encoder is not None:
        # Its sizes alone are enough where nobody asks for its weights.
        trained = "encoder" in kinds
        other = open_encoder(encoder, trained=trained, normalised=normalised, precision=precision)
        if other.family.video:
            raise ValueError(
                f"{encoder} reads clips, and frames are shown one by one; give an encoder of "
                "pictures"
            )
        other.to(device())
    backbone = None if run is None else open_backbone(run, precision=precision).to(device())
    opened = Opened(backbone=backbone, run=run, encoder=other, folder=encoder, seed=seed)
    return [opened.source(kind) for kind in kinds]
