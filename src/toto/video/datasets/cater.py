"""CATER: videos, and the lists of one of its tasks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toto.video.datasets.listing import read_lines, require_name, visible
from toto.video.entry import Entry

LAYOUT = (
    "expected ROOT/videos/CATER_new_000000.avi and ROOT/lists/localize/train.txt and val.txt "
    "(docs/datasets.md)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cater:
    """The videos that a task's lists name, labelled with what the list says of them.

    The label is the list's text: a class, or several parted by commas, for the tasks that have
    several a video.
    """

    root: Path
    """One version of the data set, such as `all_actions`: its static and its moving camera are two
    data sets."""
    name: str = "cater"
    """What manifests and shards call these clips."""
    task: str = "localize"
    """Folder of the lists: localize, actions_present, actions_order_uniq ..."""
    lists: tuple[str, ...] = ("train", "val")
    """Which lists are read; each is a split. The data set parts `train` into `train_subsetT` and
    `train_subsetV` for choosing hyper-parameters."""

    def __post_init__(self) -> None:
        require_name(self.name, "name")
        require_name(self.task, "task")
        for split in self.lists:
            require_name(split, "list")
        if not self.lists:
            raise ValueError("lists must name at least one, such as train")

    def entries(self) -> Iterator[Entry]:
        """Yield the videos in the order of the lists, on disk or not.

        Raises:
            ValueError: if the layout is not CATER's, or a video is in two lists.
        """
        for folder in ("videos", "lists"):
            if not (self.root / folder).is_dir():
                raise ValueError(f"{self.root} has no folder {folder}; {LAYOUT}")
        task = self.root / "lists" / self.task
        if not task.is_dir():
            tasks = ", ".join(child.name for child in visible(task.parent)) or "none"
            raise ValueError(f"{task.parent} has no task {self.task!r}; there are: {tasks}")
        splits: dict[str, str] = {}
        for split in self.lists:
            path = task / f"{split}.txt"
            if not path.is_file():
                raise ValueError(f"{path} is missing; {LAYOUT}")
            for number, line in read_lines(path):
                # Written with a space, described with a comma; classes are parted by commas too.
                video, _, label = re.sub(r"[\s,]+", " ", line, count=1).partition(" ")
                # The generator writes the path that a video had on its authors' machine.
                video = video.rpartition("/")[2]
                if video in ("", ".", "..") or not label:
                    raise ValueError(f"{path} line {number}: expected a video and its class")
                if video in splits:
                    raise ValueError(f"{path} line {number}: {video} is in {splits[video]} already")
                splits[video] = split
                yield Entry(
                    path=f"videos/{video}",
                    clip=video.rpartition(".")[0] or video,
                    label=label.strip(),
                    split=split,
                )
