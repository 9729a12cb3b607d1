"""What tokenise, and training on its tokens, refuse, in one line that says what to do."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_demo import moving_picture

from toto.jobs.ingest import Ingest
from toto.jobs.tokenize import Tokenize, TokenizeWorkers
from toto.recipes import PRETRAIN
from toto.tokenizers import save_tokenizer
from toto.tokenizers.grey import GreyConfig
from toto.video.collection import CollectionConfig
from toto.video.datasets.folder import Folder
from toto.video.write import write_mp4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ingested folders, of squares of 32 and of 64 px."""
    folder = tmp_path_factory.mktemp("data")
    for name, side_px in (("small", 32), ("large", 64)):
        write_mp4(folder / f"{name}-videos/a.mp4", moving_picture(20, 1), fps=12)
        Ingest(
            dataset=Folder(root=folder / f"{name}-videos", name=name),
            collection=CollectionConfig(frames=4, stride=2, side_px=side_px),
        ).run(folder / name)
    return folder


def refused(job: Tokenize, out: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job.run(out, TokenizeWorkers(workers=1))


def test_squares_of_two_sizes(data: Path, tmp_path: Path) -> None:
    job = Tokenize(data=(data / "small", data / "large"), tokenizer="grey")
    refused(job, tmp_path / "out", "ingested for squares of .* px; choose one with --side-px")
    replace(job, side_px=32).run(tmp_path / "one-size", TokenizeWorkers(workers=1))


def test_the_same_source_twice(data: Path, tmp_path: Path) -> None:
    job = Tokenize(data=(data / "small", data / "small"), tokenizer="grey")
    refused(job, tmp_path / "out", "two data folders hold small/train; tokenise them into two")


def test_squares_that_the_patches_do_not_cover(data: Path, tmp_path: Path) -> None:
    job = Tokenize(data=(data / "small",), tokenizer="grey", side_px=30)
    refused(job, tmp_path / "out", "30 px do not divide into the tokenizer's patches of 8 px")


def test_data_that_changed_between_two_calls(data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data / "small", tmp_path / "copy"))
    out = tmp_path / "out"
    job = Tokenize(data=(copy,), tokenizer="grey")
    job.run(out, TokenizeWorkers(workers=1))
    (out / "results/tokenize.json").unlink()
    write_mp4(tmp_path / "videos/a.mp4", moving_picture(20, 2), fps=12)
    shutil.rmtree(copy)
    Ingest(
        dataset=Folder(root=tmp_path / "videos", name="small"),
        collection=CollectionConfig(frames=4, stride=2, side_px=32),
    ).run(copy)
    refused(job, out, "this shard was made of other clips; the data has changed since, choose")


def test_every_clip_lost(data: Path, tmp_path: Path) -> None:
    job = Tokenize(data=(data / "small",), tokenizer="grey")
    video = data / "small-videos/a.mp4"
    whole = video.read_bytes()
    video.write_bytes(whole + b"x")
    try:
        refused(job, tmp_path / "out", "every clip was lost; manifest.parquet says why")
    finally:
        video.write_bytes(whole)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crops": 0}, "crops 0 must be at least 1"),
        ({"shard_frames": 0}, "shard_frames 0 must be at least 1"),
        ({"stride": 0}, "stride 0 must be at least 1"),
        ({"side_px": -1}, "side_px -1 must be at least 1"),
        ({"data": ()}, "no data: give --data with folders that `toto ingest` wrote"),
    ],
)
def test_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokenize(**{"data": (Path("x"),), **fields})


def test_training_on_shards_beside_another_tokenizer(grey_shards: Path, tmp_path: Path) -> None:
    shards = Path(shutil.copytree(grey_shards, tmp_path / "shards"))
    shutil.rmtree(shards / "tokenizer")
    save_tokenizer(GreyConfig(levels=8).build(), shards / "tokenizer")
    job = replace(PRETRAIN["tiny"](), shards=str(shards), steps=6)
    with pytest.raises(ValueError, match="is not the tokenizer that made the shards; copy it agai"):
        job.run(tmp_path / "out")
