"""What every test stands on: one thread, a seed, and where shared data lies if there is any."""

import os
import secrets
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

# Or Ray would keep one in the home folder; a process reads it once, for all its clusters.
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
torch.set_num_threads(1)  # so that sums add in one order and tests beside each other do not crowd


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of clips and annotations that a machine may have; its tests are skipped elsewhere."""
    root = Path(os.environ.get("TOTO_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no shared data at {root}; name its folder in TOTO_DATA")
    return root


@pytest.fixture(scope="session")
def two_colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 60 images of 16 px, each of two colours that meet at right angles."""
    folder, draw = tmp_path_factory.mktemp("two-colours"), np.random.default_rng(0)
    for number in range(60):
        one, other = draw.integers(0, 256, (2, 3))
        x, y = draw.integers(2, 14, 2)
        first = np.zeros((16, 16, 1), bool)
        first[:y] = True
        first[:, :x] ^= True
        Image.fromarray(np.where(first, one, other).astype(np.uint8)).save(
            folder / f"{number:02}.png"
        )
    return folder
