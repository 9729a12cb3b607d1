"""What several tests of jobs start from."""

import shutil
from pathlib import Path

import pytest
import torch
from made_exports import MODEL

from made_run_folders import save_run, strange
from toto.jobs.export import Export


@pytest.fixture(scope="session")
def made_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and what `toto export` makes of it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("made-export")
    save_run(folder / "run", strange(MODEL))
    Export(run_folder=folder / "run").run(folder / "out")
    return folder


@pytest.fixture
def run(made_export: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(made_export / "run", tmp_path / "run"))


@pytest.fixture
def exported(made_export: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder, to be read or spoilt."""
    return Path(shutil.copytree(made_export / "out", tmp_path / "exported"))
