"""WebDataset: tar archives of images and videos, each with its label beside it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from toto.video.datasets.image_folder import SUFFIXES
from toto.video.datasets.listing import VIDEO_SUFFIXES, archive_members, files_below, require_name
from toto.video.entry import Entry, Kind
from toto.video.members import Member, is_archive, read_member

LABEL_BYTES = 1 << 20
"""A label file above this is not read; no class needs so much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WebDataset:
    """The images and videos in the tar archives below a folder, read where they lie.

    A member is known by its first bytes; one that only its name calls media is listed, and refused
    when it is read. An archive that is damaged or unsafe is one entry, refused with the reason.
    """

    root: Path
    name: str = "webdataset"
    """What manifests and shards call these clips."""
    split: str = "train"
    pattern: str = "*"
    """Which archives: a glob of their names, such as `imagenet1k-train-*.tar`."""
    label_key: str = "label"
    """A sample's label is in its `.cls`, or in its `.json` under this key."""
    label_is_folder: bool = False
    """Label each member with the name of its folder in the archive instead."""

    def __post_init__(self) -> None:
        require_name(self.name, "name")
        require_name(self.split, "split")

    def entries(self) -> Iterator[Entry]:
        """Yield the members archive by archive, in the order they lie in.

        Raises:
            ValueError: if `root` is no folder or has no such archive.
        """
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is not a folder; point to a folder with tar archives")
        archive = None
        for archive in filter(self._is_wanted, files_below(self.root, linked_parts=True)):
            members = archive_members(self.root, archive)
            if isinstance(members, Entry):
                yield members
                continue
            labels = {} if self.label_is_folder else self._labels(archive, members)
            for member in filter(_is_media, members):
                folder = PurePosixPath(member.name).parent.name or None
                yield Entry(
                    path=f"{archive}#{member.name}",
                    clip=f"{archive}#{member.name}",
                    kind=member.kind or _kind_by_name(member.name),
                    label=folder if self.label_is_folder else labels.get(_key(member.name)),
                    split=self.split,
                )
        if archive is None:
            raise ValueError(
                f"{self.root} has no archive {self.pattern} (.tar, .tar.gz or .tgz); point to a "
                "folder with tar archives"
            )

    def _is_wanted(self, path: str) -> bool:
        return is_archive(path) and PurePosixPath(PurePosixPath(path).name).match(self.pattern)

    def _labels(self, archive: str, members: list[Member]) -> dict[str, str]:
        """Read the labels beside the samples, by the samples' keys."""
        labels = {}
        for member in members:
            extension = member.name.rpartition("/")[2].partition(".")[2].lower()
            if extension not in ("cls", "cls.txt", "json") or member.size > LABEL_BYTES:
                continue
            text = read_member(self.root / archive, member.name).decode(errors="replace")
            label = text.strip() if extension != "json" else _json_label(text, self.label_key)
            # A `.cls` says nothing but the label, so it is believed before a `.json`.
            if label and (extension != "json" or _key(member.name) not in labels):
                labels[_key(member.name)] = label
        return labels


def _json_label(text: str, key: str) -> str | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    value = found.get(key) if isinstance(found, dict) else None
    return str(value) if isinstance(value, str | int) and str(value) else None


def _key(name: str) -> str:
    """A sample's key: its name up to the first dot after the folder."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _is_media(member: Member) -> bool:
    file = PurePosixPath(member.name)
    if file.name.startswith("."):
        return False
    return member.kind is not None or file.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES


def _kind_by_name(name: str) -> Kind:
    return "image" if PurePosixPath(name).suffix.lower() in SUFFIXES else "video"
