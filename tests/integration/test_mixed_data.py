"""Real clips, frames and images as one mixed data set, the same bytes whoever makes it."""

import hashlib
import importlib.util
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from toto.cli import main
from toto.data.layout import Layout, LayoutConfig
from toto.data.loader import Loader
from toto.data.token_set import TokenSet
from toto.video.manifest import read_manifest


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["toto", *map(str, arguments)])
    main()


def tree(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith(("env", "config.json", "."))
    }


@pytest.fixture(scope="module")
def folders(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four ingested data sets of four kinds; of Tiny-ImageNet a few images of every class."""
    for name in ("clips", "davis2016-val", "imagenet-sample-256", "tiny-imagenet-40.tar.gz"):
        if not (data_root / name).exists():
            pytest.skip(f"no {name} in {data_root}")
    work = tmp_path_factory.mktemp("mixed")
    with tarfile.open(data_root / "tiny-imagenet-40.tar.gz") as archive:
        chosen = [m for m in archive if m.isfile() and m.name.endswith(("_1.JPEG", "_2.JPEG"))]
        assert all(not Path(m.name).is_absolute() and ".." not in m.name for m in chosen)
        archive.extractall(work, members=chosen, filter="data")
    (tiny,) = {path.parents[2] for path in work.rglob("train/*/*.JPEG")} | set()
    patch = pytest.MonkeyPatch()
    sets = {
        "clips": ["folder", data_root / "clips", "--dataset.name=clips"],
        "davis": ["davis", data_root / "davis2016-val", "--collection.stride=1"],
        "photos": ["imagenet", data_root / "imagenet-sample-256", "--dataset.name=photos"],
        "tiny": ["imagenet", tiny, "--dataset.name=tiny-imagenet"],
    }
    for name, words in sets.items():
        run(patch, "ingest", *words, "--collection.side-px=64", "--out", work / "data" / name)
    patch.undo()
    return [work / "data" / name for name in sets]


# Not by importing it: Ray is told to be quiet before its first import.
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed; pip install 'toto-video[scale]'",
)
def test_one_and_two_workers_and_ray_give_the_same_bytes(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data", *folders, "--tokenizer=grey", "--shard-frames=256", "--crops=2"]
    run(monkeypatch, "tokenize", *options, "--workers=1", "--out", tmp_path / "one")
    run(monkeypatch, "tokenize", *options, "--workers=2", "--out", tmp_path / "two")
    run(monkeypatch, "tokenize", *options, "--ray=local", "--out", tmp_path / "ray")
    one = tree(tmp_path / "one")
    assert len(one) > 50
    assert tree(tmp_path / "two") == one
    assert tree(tmp_path / "ray") == one
    ingested = [row for folder in folders for row in read_manifest(folder / "manifest.parquet")]
    assert read_manifest(tmp_path / "one/manifest.parquet") == ingested
    run(monkeypatch, "verify", tmp_path / "ray")


def test_the_mixture_is_read_as_one(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "tokenize", "--data", *folders, "--tokenizer=grey", "--out", tmp_path / "s")
    names = ("clips/train", "davis/val", "photos/train", "tiny-imagenet/train")
    sets = [TokenSet(tmp_path / "s" / name) for name in names]
    assert [tokens.description.kind for tokens in sets] == ["video", "video", "images", "images"]
    layout = Layout(LayoutConfig(frames=16), codes=16, frame_tokens=64)
    loader = Loader(sets, [0.4, 0.2, 0.2, 0.2], layout, seed=0)
    batch = next(loader.batches(batch=20))
    starts = torch.bincount(batch.ids[:, 0], minlength=19)
    assert starts[layout.video_start] == 12
    assert starts[layout.image_start] == 8
