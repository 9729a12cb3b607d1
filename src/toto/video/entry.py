"""What a data set's own lists promise, before any file of it was opened."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

Kind = Literal["video", "image", "frames"]
"""A video file, a still image, or a folder of numbered images that are the frames of one video."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One clip of a data set.

    Raises:
        ValueError: if the path is absolute or leaves the root, or the times make no sense.
    """

    path: str
    """Of its file, below the data set's root, with slashes; `archive.tar#member` for a member of a
    tar archive, the folder for kind `frames`."""
    clip: str
    """Name that no other clip of the data set has; block lists use it."""
    kind: Kind = "video"
    start_s: float = 0.0
    """Where in the file the clip begins, in seconds from the file's first frame."""
    end_s: float | None = None
    """Where it ends, exclusive; None for the end of the file."""
    label: str | None = None
    split: str = "train"
    fps: float | None = None
    """Rate of the images of a folder of frames; a video's own is read from it."""

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if not self.path or self.path.startswith("/") or ".." in parts or "\0" in self.path:
            raise ValueError(f"{self.path!r} is not a path below the data set's root")
        if self.start_s < 0 or (self.end_s is not None and not self.end_s > self.start_s):
            raise ValueError(f"{self.clip}: a clip from {self.start_s} s to {self.end_s} s")


@runtime_checkable
class Dataset(Protocol):
    """A data set on disk; `toto.video.datasets.DATASETS` lists its readers by name.

    Attributes:
        root: the folder that entries name files from.
        name: what manifests and shards call it.
    """

    @property
    def root(self) -> Path:
        """The folder that entries name files from."""
        ...

    @property
    def name(self) -> str:
        """What manifests and shards call it."""
        ...

    def entries(self) -> Iterator[Entry]:
        """List every clip, present or not, without opening media.

        The order depends on the data set alone, and clips of one file follow each other. A file
        that a list promises and that is not there is an entry all the same: ingest counts it.

        Raises:
            ValueError: if the layout is not the one the data set is published in.
        """
        ...
