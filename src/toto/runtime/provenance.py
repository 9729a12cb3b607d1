"""What a run ran on: enough to repeat it, and to explain a number that will not repeat."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "numpy", "av", "pyarrow", "tyro", "safetensors")
_THIS_FILE = Path(__file__)


def environment() -> dict[str, Any]:
    """Describe code, packages, machine and command, as plain values for `json.dumps`.

    What cannot be found out is None; this never fails a run.
    """
    return {
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "toto": _version("toto-video"),
        "git_commit": git_commit(),
        "git_diff_sha256": git_diff_sha256(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "ffmpeg": _ffmpeg(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


@functools.cache
def git_commit(file: Path = _THIS_FILE) -> str | None:
    """Commit of the checkout that tracks `file`; None if none does, or git is not there.

    Asked once a process: a commit made later is not the code that was imported.
    An installed copy may lie inside somebody else's repository; asking whether the file itself is
    tracked keeps that repository's commit from being taken for ours.
    """
    tracked = _git(file.parent, "ls-files", "--error-unmatch", file.name)
    commit = _git(file.parent, "rev-parse", "HEAD") if tracked else None
    return commit.decode().strip() if commit else None


def git_diff_sha256(file: Path = _THIS_FILE) -> str | None:
    """SHA-256 of what differs from the commit; None if nothing does, or there is no checkout.

    Files that git does not track are not part of it.
    """
    if git_commit(file) is None:
        return None
    diff = _git(file.parent, "diff", "--no-ext-diff", "--binary", "HEAD")
    return hashlib.sha256(diff).hexdigest() if diff else None


def conflicts() -> list[str]:
    """Name the installed packages that are known to break others, one line each with a remedy.

    Nothing is imported, so this also works where the import itself would fail.
    """
    found = []
    if _installed("torchvision"):
        found.append(
            f"torchvision {_version('torchvision')}: its build for CUDA cannot be imported beside "
            "a CPU torch, and transformers then fails too; pip uninstall torchvision"
        )
    if _installed("mup"):
        found.append(
            f"mup {_version('mup')}: brings torchvision in, and toto has its own muP; "
            "pip uninstall mup torchvision"
        )
    if _installed("torchmetrics") and _installed("torch_fidelity"):
        found.append(
            f"torch-fidelity {_version('torch-fidelity')}: torchmetrics cannot be imported beside "
            "it; pip uninstall torch-fidelity"
        )
    if _installed("robosuite") and _installed("mujoco") and _major_minor("mujoco") >= (3, 10):
        found.append(
            f"mujoco {_version('mujoco')}: robosuite needs one below 3.10; in a fresh virtual "
            "environment, pip install 'mujoco>=3.3,<3.10'"
        )
    return found


def _git(folder: Path, *arguments: str) -> bytes | None:
    # Inside a git hook, GIT_DIR would send the question to another repository.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=False, env=environ)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _major_minor(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in (_version(package) or "0.0").split(".")[:2])


def _ffmpeg() -> dict[str, str] | None:
    """Versions of the FFmpeg libraries inside PyAV: the same av number may carry others."""
    try:
        import av
    except ImportError:
        return None
    return {name: ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()}


def _cpu() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
