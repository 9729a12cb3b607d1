"""Make the virtual environment of the Makefile: `python make_venv.py FOLDER`.

A machine that has a CUDA build of torch in the range that pyproject.toml names keeps it: the
environment then sees the machine's packages, and pip adds only what is missing. Everywhere else
the environment is empty.
"""

import importlib.metadata
import importlib.util
import re
import sys
import venv
from pathlib import Path

LEAST_PYTHON = (3, 11)


def torch_range() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Read the range of torch from pyproject.toml: from the first, below the second."""
    text = Path(__file__).with_name("pyproject.toml").read_text()
    found = re.search(r'"torch>=([\d.]+),<([\d.]+)"', text)
    assert found, "pyproject.toml names no range of torch"
    low, high = (tuple(int(part) for part in bound.split(".")) for bound in found.groups())
    return low, high


def in_range(version: str) -> bool:
    """Whether a version of torch, such as 2.11.0+cu130, is one that the project takes."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:2])
    low, high = torch_range()
    return low <= numbers < high


def has_cuda_torch() -> bool:
    """Whether this interpreter has a CUDA build of torch in range; torch is not imported."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = Path(spec.origin).with_name("version.py").read_text()
    built_for_cuda = re.search(r"^cuda\b.*=\s*['\"]\d", text, re.MULTILINE)
    return bool(built_for_cuda) and in_range(importlib.metadata.version("torch"))


def main(folder: str) -> None:
    """Make the environment, or say why this Python will not do."""
    if sys.version_info < LEAST_PYTHON:
        ours = ".".join(map(str, sys.version_info[:2]))
        sys.exit(
            f"toto needs Python 3.11 or newer, this is {ours}; try `make demo PYTHON=python3.12`"
        )
    keep = has_cuda_torch()
    if keep:
        print("keeping this machine's CUDA build of torch")  # noqa: T201
    venv.create(folder, with_pip=True, system_site_packages=keep)


if __name__ == "__main__":
    main(sys.argv[1])
