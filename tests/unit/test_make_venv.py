"""The Makefile's environment: a CUDA build of torch in range is kept, everything else is not."""

import importlib.util
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "make_venv.py"


@pytest.fixture
def make_venv() -> Any:
    spec = importlib.util.spec_from_file_location("make_venv", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def machine_with(folder: Path, version: str, cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a torch of this version before the real one, as its files tell of it."""
    (folder / "torch").mkdir()
    (folder / "torch/__init__.py").write_text("raise RuntimeError('torch was imported')\n")
    (folder / "torch/version.py").write_text(f"cuda: Optional[str] = {cuda}\n")
    info = folder / f"torch-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    importlib.invalidate_caches()


@pytest.mark.parametrize(
    ("version", "cuda", "kept"),
    [
        ("2.11.0+cu130", "'13.0'", True),
        ("2.13.1", "'13.0'", True),
        ("2.14.0+cu130", "'13.0'", False),
        ("2.10.2+cu128", "'12.8'", False),
        ("2.13.0+cpu", "None", False),
    ],
)
def test_only_a_cuda_build_in_range_is_kept(
    version: str,
    cuda: str,
    kept: bool,
    make_venv: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine_with(tmp_path, version, cuda, monkeypatch)
    made: dict[str, Any] = {}
    monkeypatch.setattr(venv, "create", lambda folder, **options: made.update(options))
    make_venv.main("somewhere")
    assert made["system_site_packages"] is kept


def test_an_old_python_is_told_what_to_do(make_venv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer, this is 3\.10"):
        make_venv.main("somewhere")
