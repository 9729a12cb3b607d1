"""The notebooks run from top to bottom, without a warning, and are stored without outputs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
RUN = """
import sys
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

notebook = nbformat.read(sys.argv[1], as_version=4)
# Over files and not over a port, which others on the machine could reach.
config = Config({"KernelManager": {"transport": "ipc"}})
NotebookClient(notebook, timeout=300, kernel_name="python3", config=config).execute()
nbformat.write(notebook, sys.argv[2])
"""
"""In a process of its own, since it leaves sockets behind."""


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["forecasting", "quick_start"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_not_stored(path: Path) -> None:
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("nbclient") is None:
        pytest.skip("nbclient is not installed; pip install -e '.[dev]'")
    out, work = tmp_path / "out.ipynb", tmp_path / "work"
    work.mkdir()
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "default",
        "TMPDIR": str(work),
    }
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(path), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    pictures = 0
    for cell in cells(out, "code"):
        for output in cell["outputs"]:
            text = "".join(output.get("text", ""))
            assert "Warning" not in text, text
            pictures += "image/png" in output.get("data", {})
    assert pictures >= 4
    assert os.listdir(work)  # all it writes is there
