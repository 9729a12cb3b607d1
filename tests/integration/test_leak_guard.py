"""Copies of an evaluation set do not become training tokens."""

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from toto.cli import main
from toto.data.token_set import TokenSet
from toto.video.manifest import read_manifest
from toto.video.write import write_mp4


def pan(number: int) -> np.ndarray:
    """A window that moves over a photograph, u8 [T 96 128 3]."""
    photograph = load_sample_images().images[number]
    return np.stack([photograph[n : n + 288 : 3, 4 * n : 4 * n + 384 : 3] for n in range(30)])


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training set whose one video is, mirrored and coded anew, an evaluation video."""
    folder = tmp_path_factory.mktemp("sets")
    write_mp4(folder / "evaluation/first.mp4", pan(0), fps=10)
    write_mp4(folder / "training/copy.mp4", np.ascontiguousarray(pan(0)[:, :, ::-1]), fps=10)
    write_mp4(folder / "training/other.mp4", pan(1), fps=10)
    return folder


def test_a_mirrored_copy_is_blocked(
    sets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def toto(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["toto", *map(str, words)])
        main()
        return capsys.readouterr().out

    cut = ["--collection.stride=1", "--collection.side-px=64"]
    for name, split in (("evaluation", "val"), ("training", "train")):
        options = [f"--dataset.name={name}", f"--dataset.split={split}", *cut]
        toto("ingest", "folder", sets / name, *options, "--out", sets / f"data-{name}")
    said = toto("data", "block", sets / "data-evaluation", "--out", sets / "block.parquet")
    assert "1 clips" in said
    data = ["--data", sets / "data-training", sets / "data-evaluation"]
    options = ["--tokenizer=grey", "--block", sets / "block.parquet", "--out", sets / "shards"]
    toto("tokenize", *data, *options)
    rows = {row.path: row for row in read_manifest(sets / "shards/manifest.parquet")}
    assert (rows["copy.mp4"].status, rows["copy.mp4"].stage) == ("blocked", "guard")
    assert "looks like evaluation/" in (rows["copy.mp4"].reason or "")
    assert "flipped" in (rows["copy.mp4"].reason or "")
    # What is to be scored may be tokenised all the same.
    assert (rows["other.mp4"].status, rows["first.mp4"].status) == ("ok", "ok")
    assert [clip.path for clip in TokenSet(sets / "shards/training/train").clips] == ["other.mp4"]
    assert "2 clips encoded again: 0.0000 % of" in toto("verify", sets / "shards", "--sample=2")
