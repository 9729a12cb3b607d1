"""Any folder of videos: what most people have."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toto.video.decode import Decoder
from toto.video.ingest import rows_of_files
from toto.video.manifest import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """All files below a folder, in the order of their names; hidden ones are left out.

    No name is trusted to tell a video: every file gets a row, and those that are not videos are
    refused there with the reason.
    """

    root: Path
    name: str = "folder"
    """What manifests call these videos."""
    split: str = "train"
    label_is_folder: bool = False
    """Label each video with the name of the folder it lies in; those right in `root` get none."""

    def files(self) -> list[Path]:
        """List the files, sorted by their path below `root`.

        Raises:
            ValueError: if `root` is no folder or has no file.
        """
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is not a folder; point to a folder with videos")
        found = []
        for folder, folders, names in os.walk(self.root, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [Path(folder, name) for name in names if not name.startswith(".")]
        if not found:
            raise ValueError(f"{self.root} has no file; point to a folder with videos")
        return sorted(found, key=lambda file: file.relative_to(self.root).as_posix())

    def __len__(self) -> int:
        """How many files there are, and rows there will be."""
        return len(self.files())

    def rows(self, decoder: Decoder) -> Iterator[Row]:
        """Decode every file once and yield its row.

        Raises:
            ValueError: if there is no file, or, after the last row, if none was a video.
        """
        return rows_of_files(
            decoder,
            self.root,
            self.files(),
            source=self.name,
            split=self.split,
            label_is_folder=self.label_is_folder,
        )

    def path(self, row: Row) -> Path:
        """Say where the file of a row is."""
        return self.root / row.path


def _raise(error: OSError) -> None:
    # os.walk passes over folders it cannot list; their videos would be missing in silence.
    raise error
