"""Any folder of videos and images: what most people have."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toto.video.datasets.listing import files_below, kind_of, require_name
from toto.video.entry import Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """All files below a folder, in the order of their names; hidden ones are left out.

    No name is trusted to tell a video: every file gets an entry, and those that are neither a
    video nor an image are refused by ingest with the reason.
    """

    root: Path
    name: str = "folder"
    """What manifests and shards call these clips."""
    split: str = "train"
    holds: Literal["videos and images", "videos"] = "videos and images"
    """`videos`: a still image among them is refused like any other file that is no video."""
    label_is_folder: bool = False
    """Label each file with the name of the folder it lies in; those right in `root` get none."""

    def __post_init__(self) -> None:
        require_name(self.name, "name")
        require_name(self.split, "split")

    def files(self) -> list[Path]:
        """List the files, sorted by their path below `root`.

        Raises:
            ValueError: if `root` is no folder or has no file.
        """
        return [self.root / path for path in self._paths()]

    def entries(self) -> Iterator[Entry]:
        """Yield one entry a file; an image is known by its first bytes.

        Raises:
            ValueError: if `root` is no folder or has no file.
        """
        for path in self._paths():
            folders = path.split("/")[:-1]
            yield Entry(
                path=path,
                clip=path,
                kind="video" if self.holds == "videos" else kind_of(self.root, path),
                label=folders[-1] if self.label_is_folder and folders else None,
                split=self.split,
            )

    def _paths(self) -> Iterator[str]:
        if not self.root.is_dir():
            raise ValueError(
                f"{self.root} is not a folder; point to a folder with videos or images"
            )
        paths = files_below(self.root)
        first = next(paths, None)
        if first is None:
            raise ValueError(f"{self.root} has no file; point to a folder with videos or images")
        yield first
        yield from paths
