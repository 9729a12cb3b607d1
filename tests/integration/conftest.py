"""A run of the whole path over two made videos, small enough for every test to start from it."""

from pathlib import Path

import pytest
from made_demo import demo_over, moving_picture, save_small_tokenizer

from toto.jobs.tokenize import Tokenize
from toto.video.write import write_mp4


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two videos of 40 frames."""
    folder = tmp_path_factory.mktemp("videos")
    for speed in (1, 2):
        write_mp4(folder / f"ramp-{speed}.mp4", moving_picture(40, speed), fps=12)
    return folder


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 32 codes; the shipped one has more than these runs can learn."""
    folder = tmp_path_factory.mktemp("small") / "tokenizer"
    save_small_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def finished(videos: Path, small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished demo; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("finished") / "demo"
    demo_over(videos, small_tokenizer).run(folder)
    return folder


@pytest.fixture(scope="session")
def grey_shards(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished demo's clips in tokens of `grey`, as recipe tiny reads them."""
    folder = tmp_path_factory.mktemp("grey") / "shards"
    Tokenize(data=(finished / "data",), tokenizer="grey").run(folder)
    return folder
