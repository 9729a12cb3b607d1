import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import toto
from toto.runtime import provenance


def git(folder: Path, *arguments: str) -> bytes:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("one\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "--no-verify", "-m", "first")
    return tmp_path


def test_the_environment_is_json_and_says_what_matters() -> None:
    found = json.loads(json.dumps(provenance.environment()))
    assert found["toto"] == toto.__version__
    assert torch.__version__.startswith(found["packages"]["torch"])
    assert found["packages"]["pyarrow"]
    assert found["ffmpeg"]["libavcodec"].count(".") == 2
    assert found["torch_threads"] == torch.get_num_threads()
    assert found["memory_bytes"] > 2**28
    assert found["command"] == sys.argv
    assert found["time_utc"].endswith("+00:00")


def test_commit_and_changes_of_a_checkout(checkout: Path) -> None:
    file = checkout / "code.py"
    assert provenance.git_commit(file) == git(checkout, "rev-parse", "HEAD").decode().strip()
    assert provenance.git_diff_sha256(file) is None
    file.write_text("two\n")
    diff = git(checkout, "diff", "--binary", "HEAD")
    assert provenance.git_diff_sha256(file) == hashlib.sha256(diff).hexdigest()


def test_a_hook_of_another_repository_does_not_mislead(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = git(checkout, "rev-parse", "HEAD").decode().strip()
    monkeypatch.setenv("GIT_DIR", str(checkout / "elsewhere"))
    assert provenance.git_commit(checkout / "code.py") == wanted


def test_a_file_that_is_not_tracked_has_no_commit(checkout: Path) -> None:
    (checkout / "installed.py").write_text("")
    assert provenance.git_commit(checkout / "installed.py") is None
    assert provenance.git_diff_sha256(checkout / "installed.py") is None


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit(checkout / "code.py") is None


def pretend(folder: Path, package: str, version: str) -> None:
    """Install a package whose import would fail the test."""
    module = folder / package.replace("-", "_")
    module.mkdir()
    (module / "__init__.py").write_text("raise RuntimeError('imported')")
    about = folder / f"{module.name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


def test_known_conflicts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = provenance.conflicts()
    for package, version in (
        ("torchvision", "0.28.0"),
        ("mup", "1.0.0"),
        ("torchmetrics", "1.9.0"),
        ("torch-fidelity", "0.3.0"),
        ("robosuite", "1.5.2"),
        ("mujoco", "3.10.1"),
    ):
        pretend(tmp_path, package, version)
    monkeypatch.syspath_prepend(tmp_path)
    lines = [line for line in provenance.conflicts() if line not in before]
    starts = ["torchvision 0.28.0", "mup 1.0.0", "torch-fidelity 0.3.0", "mujoco 3.10.1"]
    assert [line.partition(":")[0] for line in lines] == starts
    assert all("pip " in line for line in lines)


def test_packages_that_get_along_are_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = provenance.conflicts()
    for package, version in (("robosuite", "1.5.2"), ("mujoco", "3.9.0"), ("torchmetrics", "1.9")):
        pretend(tmp_path, package, version)
    monkeypatch.syspath_prepend(tmp_path)
    assert provenance.conflicts() == before


def test_torchvision_did_not_come_in() -> None:
    assert not any(line.startswith(("torchvision", "mup")) for line in provenance.conflicts())
