"""What every test stands on: one thread, a seed, and where shared data lies if there is any."""

import os
from pathlib import Path

import pytest
import torch

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
