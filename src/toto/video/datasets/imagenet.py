"""ImageNet in the layouts it is published and kept in: 1k with its splits, 21k, flat samples."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from toto.video.datasets.listing import (
    archive_members,
    read_csv,
    read_lines,
    require_name,
    visible,
)
from toto.video.entry import Entry

LAYOUT = (
    "expected ROOT/train/n01440764/*.JPEG and ROOT/val, or ROOT/n01440764/*.JPEG, "
    "or ROOT/n01440764.tar, or ROOT/n01440764_*.JPEG (docs/datasets.md)"
)
SPLITS = ("train", "val", "test")

_CLASS = re.compile(r"n\d{8}")
_ID = re.compile(r"(n\d{8}_\d+|ILSVRC2012_(?:val|test)_\d{8})(?:_n\d{8})?")
"""Some copies put the WordNet id after the image's own."""
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_SOLUTION = "LOC_val_solution.csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageNet:
    """Images by class, each labelled with its WordNet id such as n01440764.

    Reads train, val and test of ILSVRC; one folder or one tar archive a class, as ImageNet-21k
    has; and flat folders whose file names begin with the WordNet id. The validation images of
    ILSVRC come flat: their labels are read from the development kit or from Kaggle's solution file
    if either lies in `root`, and are missing otherwise.
    """

    root: Path
    name: str = "imagenet"
    """What manifests and shards call these images: say imagenet-1k or imagenet-21k."""
    splits: tuple[str, ...] = SPLITS
    """Which of train, val and test are read, where there are splits."""
    split: str = "train"
    """Of the images, where there are no splits."""

    def __post_init__(self) -> None:
        require_name(self.name, "name")
        require_name(self.split, "split")
        for split in self.splits:
            if split not in SPLITS:
                raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")

    def entries(self) -> Iterator[Entry]:
        """Yield the images of a class, of all classes, of each split.

        Raises:
            ValueError: if the layout is none of ImageNet's.
        """
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is not a folder; {LAYOUT}")
        base = self._base()
        held = [split for split in SPLITS if (self.root / base / split).is_dir()]
        count = 0
        if held:
            for split in held:
                if split in self.splits:
                    for entry in self._split(f"{base}{split}/", split):
                        count += 1
                        yield entry
        else:
            for entry in self._classes("", self.split):
                count += 1
                yield entry
        if not count:
            raise ValueError(f"{self.root} has no image of {' or '.join(self.splits)}; {LAYOUT}")

    def _base(self) -> str:
        """The folder of the splits: Kaggle's archive has them deeper."""
        kaggle = "ILSVRC/Data/CLS-LOC/"
        return kaggle if (self.root / kaggle / "train").is_dir() else ""

    def _split(self, folder: str, split: str) -> Iterator[Entry]:
        labels: Mapping[str, str] | None = None
        for child in visible(self.root / folder):
            if split == "train" or child.is_dir() or child.name.endswith(".tar"):
                yield from self._class(folder, child.name, child.is_dir(), split)
                continue
            labels = self._val_labels() if labels is None else labels
            named = _CLASS.search(child.name)
            label = named[0] if named else labels.get(Path(child.name).stem)
            yield _image(folder + child.name, label, split)

    def _classes(self, folder: str, split: str) -> Iterator[Entry]:
        for child in visible(self.root / folder):
            yield from self._class(folder, child.name, child.is_dir(), split)

    def _class(self, folder: str, name: str, is_folder: bool, split: str) -> Iterator[Entry]:
        """Yield the images of a class folder, of a class archive, or the one that this is.

        Raises:
            ValueError: if it is a folder and none of a class.
        """
        found = _CLASS.match(name)
        label = found[0] if found else None
        if is_folder:
            if label != name:
                raise ValueError(
                    f"{self.root / folder / name} is no class folder such as n01440764; {LAYOUT}"
                )
            # Whatever lies in a class folder is an image, or refused by name when it is read.
            for image in visible(self.root / folder / name):
                yield _image(f"{folder}{name}/{image.name}", label, split)
        elif name == f"{label}.tar":
            members = archive_members(self.root, folder + name)
            if isinstance(members, Entry):
                yield members
                return
            for member in members:
                yield _image(f"{folder}{name}#{member.name}", label, split)
        elif label is not None:
            yield _image(folder + name, label, split)

    def _val_labels(self) -> dict[str, str]:
        """WordNet ids of the flat validation images by the stem of their file, if known."""
        solution = self.root / _SOLUTION
        if solution.is_file():
            return {
                row["ImageId"]: row["PredictionString"].split(" ", 1)[0]
                for _, row in read_csv(solution, required=("ImageId", "PredictionString"))
            }
        for kit in (self.root, self.root / "ILSVRC2012_devkit_t12"):
            if (kit / _GROUND_TRUTH).is_file():
                return _kit_labels(kit)
        return {}


def _kit_labels(kit: Path) -> dict[str, str]:
    """Read the ILSVRC2012 development kit: line i is the class number of validation image i.

    The numbers are the kit's own, ILSVRC2012_ID, and not the places of sorted WordNet ids.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    meta, truth = kit / "data" / "meta.mat", kit / _GROUND_TRUTH
    try:
        synsets = loadmat(str(meta), squeeze_me=True, variable_names=["synsets"])["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except (MatReadError, OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{meta} does not name the classes: {error}") from error
    labels = {}
    for number, text in read_lines(truth):
        if not text.isdecimal() or int(text) not in wnids:
            raise ValueError(f"{truth} line {number}: {text!r} is no class of {meta}")
        labels[f"ILSVRC2012_val_{number:08d}"] = wnids[int(text)]
    return labels


def _image(path: str, label: str | None, split: str) -> Entry:
    stem = path.rpartition("/")[2].rpartition("#")[2].rpartition(".")[0]
    # ImageNet's own ids are the same in every copy; other names are told apart by their folders.
    own = _ID.fullmatch(stem)
    return Entry(path=path, clip=own[1] if own else path, kind="image", label=label, split=split)
