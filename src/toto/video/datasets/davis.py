"""DAVIS: sequences of JPEG frames, the splits of a year."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toto.video.datasets.listing import read_lines, require_name, visible
from toto.video.entry import Entry

LAYOUT = (
    "expected ROOT/JPEGImages/480p/<sequence>/00000.jpg and ROOT/ImageSets/2017/val.txt "
    "(docs/datasets.md)"
)
SPLITS = ("train", "val", "test-dev", "test-challenge")


@dataclass(frozen=True, kw_only=True, slots=True)
class Davis:
    """Each sequence is one clip: a folder of frames, at 24 a second.

    The lists of the year say which sequences there are and of which split; without any list all
    sequences of the folder are read.
    """

    root: Path
    name: str = "davis"
    """What manifests and shards call these clips."""
    year: int = 2017
    """Whose lists are read, 2016 or 2017 among others: a sequence can change its split."""
    resolution: str = "480p"
    """Folder of the frames, such as 480p or Full-Resolution."""
    split: str = "val"
    """Of the sequences where there are no lists."""

    def __post_init__(self) -> None:
        require_name(self.name, "name")
        require_name(self.resolution, "resolution")
        require_name(self.split, "split")

    def entries(self) -> Iterator[Entry]:
        """Yield the sequences, split by split, listed or found.

        Raises:
            ValueError: if the layout is not DAVIS's, or the year has no list.
        """
        frames = f"JPEGImages/{self.resolution}"
        if not (self.root / frames).is_dir():
            raise ValueError(f"{self.root} has no folder {frames}; {LAYOUT}")
        count = 0
        for split, sequence in self._sequences(frames):
            count += 1
            yield Entry(
                path=f"{frames}/{sequence}",
                clip=sequence,
                kind="frames",
                split=split,
                fps=24.0,
            )
        if not count:
            raise ValueError(f"{self.root / frames} has no sequence; {LAYOUT}")

    def _sequences(self, frames: str) -> Iterator[tuple[str, str]]:
        """Give each sequence with its split, once."""
        sets = self.root / "ImageSets"
        if not sets.is_dir():
            for child in visible(self.root / frames):
                if child.is_dir():
                    yield self.split, child.name
            return
        # The package of 2016 has its lists by resolution, those from 2017 on by year.
        folders = [sets / str(self.year)] + [sets / self.resolution] * (self.year == 2016)
        lists = [
            (split, folder / f"{split}.txt")
            for folder in folders
            for split in SPLITS
            if (folder / f"{split}.txt").is_file()
        ]
        if not lists:
            years = ", ".join(child.name for child in visible(sets)) or "nothing"
            raise ValueError(
                f"{sets} has no list of {self.year}, it has {years}; choose --dataset.year"
            )
        splits: dict[str, str] = {}
        for split, path in lists:
            for number, line in read_lines(path):
                # Lists of 2016 name frames and masks: /JPEGImages/480p/bear/00000.jpg /Annot...
                parts = line.split()[0].split("/")
                sequence = parts[-2] if len(parts) > 1 else parts[0]
                if sequence in ("", ".", ".."):
                    raise ValueError(f"{path} line {number} names no sequence")
                if splits.setdefault(sequence, split) != split:
                    raise ValueError(
                        f"{path} line {number}: {sequence} is in {splits[sequence]} too"
                    )
        for sequence, split in splits.items():
            yield split, sequence
