"""A data folder knows where its videos are, wherever the next stage is run from."""

from pathlib import Path

import numpy as np
import pytest

from toto.recipes.data import own_videos
from toto.recipes.demo import demo_ingest
from toto.video.collection import Collection
from toto.video.write import write_mp4


def test_a_relative_folder_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mp4(tmp_path / "videos/a.mp4", np.zeros((20, 64, 64, 3), np.uint8), fps=12)
    monkeypatch.chdir(tmp_path)
    job = own_videos(demo_ingest(), Path("videos"))
    job.run(tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    collection = Collection(tmp_path / "data")
    assert collection.path(collection.clips[0]).is_file()
