"""The run that the page shows: its model, what clips it reads, and its curves."""

from dataclasses import dataclass
from pathlib import Path

from toto.probe.backbone import Backbone, open_backbone
from toto.probe.forecast import window_frames
from toto.report.collect import Curve, read_pretraining
from toto.report.results import Pretrain
from toto.runtime.devices import Precision, device, resolve_precision
from toto.runtime.folder import RunFolder
from toto.tokenizers.patches import patch_side_px


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShownRun:
    """A pre-training run, opened.

    Attributes:
        name: of the folder, without the path that leads to it.
        backbone: the model, on the device it runs on.
        grid: rows and columns of patches of a frame.
        patch_px: side of a patch.
        layer: whose features are shown at first: those by which the demo tracked best, or else
            those of the middle.
        result: what the run came to, if it has ended.
        curves: what it logged, by name.
    """

    name: str
    backbone: Backbone
    grid: tuple[int, int]
    patch_px: int
    layer: int
    result: Pretrain | None
    curves: dict[str, Curve]

    @property
    def side_px(self) -> int:
        """Side of the squares that frames are cut to."""
        return self.grid[0] * self.patch_px

    @property
    def frames(self) -> int:
        """Frames of a clip: those of the sequences it was trained on, if all have room."""
        return min(self.backbone.layout.config.frames, window_frames(self.backbone))

    @property
    def forecasts(self) -> bool:
        """Whether the model can go on with a clip: it has seen several frames, and reads ids."""
        backbone = self.backbone
        return self.frames > 1 and not backbone.reads_patches and backbone.attention == "causal"

    @property
    def attends(self) -> bool:
        """Whether its layers have attention to look at."""
        return hasattr(self.backbone.model.blocks[0], "attention")


def open_run(folder: Path) -> ShownRun:
    """Open a pre-training run, or the one inside the folder of a demo.

    Raises:
        ValueError: if there is no such run, it has no checkpoint yet, or its frames are no squares.
    """
    if not (folder / "results").is_dir() and (folder / "pretrain" / "config.json").is_file():
        folder = folder / "pretrain"
    place = device()
    precision: Precision = resolve_precision("auto", place) if place.type == "cuda" else "fp32"
    backbone = open_backbone(folder, precision=precision).to(place)
    rows, columns = RunFolder.open(folder).result("model")["grid"]
    if rows != columns:
        raise ValueError(
            f"{folder} reads frames of {rows} x {columns} patches; the page shows square ones alone"
        )
    result, curves = read_pretraining(folder)
    patch_px = backbone.tokenizer.patch_px
    if backbone.reads_patches:
        patch_px = patch_side_px(backbone.model.config.patch_values)
    return ShownRun(
        name=_name(folder.resolve()),
        backbone=backbone,
        grid=(rows, columns),
        patch_px=patch_px,
        layer=_tracked_layer(folder) or (backbone.depth + 1) // 2,
        result=result,
        curves=curves,
    )


def _tracked_layer(folder: Path) -> int | None:
    """The layer that the demo's tracking chose, where this run is a demo's."""
    track = folder.resolve().parent / "track"
    if folder.resolve().name != "pretrain" or not (track / "config.json").is_file():
        return None
    opened = RunFolder.open(track)
    return opened.result("track")["layer"] if opened.has_result("track") else None


def _name(folder: Path) -> str:
    """Say which run it is; `pretrain` alone is what all demos call theirs."""
    return f"{folder.parent.name}/{folder.name}" if folder.name == "pretrain" else folder.name
