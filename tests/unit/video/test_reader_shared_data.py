"""Which reader reads which of the real files; skipped where there are none."""

from collections import Counter
from pathlib import Path

from made_datasets import put

from toto.video.datasets.davis import Davis
from toto.video.datasets.files import Files
from toto.video.datasets.folder import Folder
from toto.video.datasets.imagenet import ImageNet
from toto.video.datasets.webdataset import WebDataset
from toto.video.decode import Decoder
from toto.video.entry import Dataset, Entry
from toto.video.ingest import by_file, rows_of_file
from toto.video.members import list_members, read_member


def some_are_ok(dataset: Dataset, entries: list[Entry]) -> None:
    """Ingest a few entries, spread over the list."""
    chosen = entries[:: max(1, len(entries) // 3)]
    with Decoder() as decoder:
        for file in by_file(chosen):
            for row in rows_of_file(decoder, dataset.root, dataset.name, file):
                assert (row.status, row.reason) == ("ok", None), row


def test_clips_are_a_folder_and_a_list(data_root: Path, tmp_path: Path) -> None:
    dataset = Folder(root=data_root / "clips", name="clips")
    entries = list(dataset.entries())
    assert len(entries) == 8
    assert {entry.kind for entry in entries} == {"video"}
    some_are_ok(dataset, entries)
    listing = tmp_path / "clips.txt"
    listing.write_text("\n".join(entry.path for entry in entries))
    listed = Files(root=data_root / "clips", listing=listing)
    assert [entry.path for entry in listed.entries()] == [entry.path for entry in entries]


def test_davis_frames(data_root: Path) -> None:
    dataset = Davis(root=data_root / "davis2016-val", year=2016)
    entries = list(dataset.entries())
    assert len(entries) == 10
    assert {entry.split for entry in entries} == {"val"}
    with Decoder() as decoder:
        row = rows_of_file(decoder, dataset.root, "davis", entries[:1])[0]
    frames = list((data_root / "davis2016-val" / entries[0].path).iterdir())
    assert (row.status, row.frames, row.fps) == ("ok", len(frames), 24.0)


def test_imagenet_sample(data_root: Path) -> None:
    dataset = ImageNet(root=data_root / "imagenet-sample-256", split="sample")
    entries = list(dataset.entries())
    assert len(entries) == len({entry.label for entry in entries}) == 500
    assert entries[0].label == "n01440764"
    some_are_ok(dataset, entries)


def test_tiny_imagenet_within_its_archive(data_root: Path) -> None:
    dataset = WebDataset(root=data_root, pattern="tiny-imagenet-40.tar.gz", label_is_folder=True)
    entries = list(dataset.entries())
    assert len(entries) == 22_000
    assert {entry.kind for entry in entries} == {"image"}
    labels = Counter(entry.label for entry in entries)
    assert set(labels.values()) == {550}
    assert len(labels) == 40
    some_are_ok(dataset, entries)


def test_tiny_imagenet_unpacked(data_root: Path, tmp_path: Path) -> None:
    archive = data_root / "tiny-imagenet-40.tar.gz"
    for name in list_members(archive):
        # The first images of each class are enough.
        if "_1." in name or "/val_1" in name:
            put(tmp_path, name, read_member(archive, name))
    dataset = ImageNet(root=tmp_path / "tiny-imagenet", name="tiny-imagenet-40")
    entries = list(dataset.entries())
    splits = Counter(entry.split for entry in entries)
    assert splits["train"] == len({entry.label for entry in entries}) == 40
    assert splits["val"] > 40
    assert entries[0].clip == f"{entries[0].label}_1"
    some_are_ok(dataset, entries)
