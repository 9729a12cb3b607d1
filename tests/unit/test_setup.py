"""The project itself: what it depends on, what it may hold, and that its documents are true."""

import dataclasses
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from toto import cli
from toto.cli import data_verbs, options, verbs

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LARGEST_BYTES, LONGEST_LINES = 500_000, 400


def tracked() -> list[Path]:
    """Files that git holds, or would hold after `git add .`."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, env=environ)
    return [ROOT / name for name in done.stdout.decode().split("\0") if name]


def test_torchvision_is_not_there() -> None:
    # It has no CPU build, and its mere presence breaks transformers: docs/decisions/0002.
    assert importlib.util.find_spec("torchvision") is None


def test_torch_is_declared_in_the_range_that_finds_the_cpu_build() -> None:
    torch = [name for name in PROJECT["project"]["dependencies"] if name.startswith("torch")]
    assert torch == ["torch>=2.11,<2.14"]
    extras = PROJECT["project"]["optional-dependencies"]
    everything = [name for names in extras.values() for name in names]
    assert not [name for name in everything if re.match(r"torch(vision|audio)?\b", name)]


def test_no_file_in_git_is_large() -> None:
    sizes = {
        path.relative_to(ROOT).as_posix(): path.stat().st_size
        for path in tracked()
        if path.is_file()
    }
    # The tokenizer in the package; test_trained_tokenizers bounds it.
    sizes.pop("src/toto/tokenizers/toto-8k/weights.safetensors", None)
    assert {name: size for name, size in sizes.items() if size > LARGEST_BYTES} == {}


def test_no_source_file_is_long() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines())
        for path in tracked()
        if path.suffix in {".py", ".css"} and path.is_file()
    }
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_LINES} == {}


def test_names_of_test_files_are_unique() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_floors_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed; pip install -e '.[dev]'")
    command = [str(linter), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cells_of_the_paper_page() -> None:
    """Every test that docs/paper.md names is there."""
    named = set()
    for line in (ROOT / "docs" / "paper.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6:
            named |= set(re.findall(r"`([^`]+)`", cells[4]))
    assert named
    tests = ROOT / "tests"
    assert sorted(name for name in named if not (tests / name).exists()) == []
    # A folder that holds no test tests nothing.
    folders = [tests / name for name in named if (tests / name).is_dir()]
    assert [folder for folder in folders if not any(folder.rglob("test_*.py"))] == []


def commands(document: str) -> list[list[str]]:
    """Commands of `toto` and `make` in the shell blocks of a document."""
    text = (ROOT / document).read_text()
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    # `.venv/bin/toto` and `torchrun -m toto` are the same command.
    found = []
    for line in words:
        program = next((n for n, word in enumerate(line) if Path(word).name == "toto"), None)
        if program is not None:
            found.append(["toto", *line[program + 1 :]])
        elif line[:1] == ["make"]:
            found.append(line)
    return found


DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
]


class Parsed(BaseException):
    """Raised once the options are read, so that nothing runs."""


@pytest.mark.parametrize(
    ("document", "command"),
    [(document, command) for document in DOCUMENTS for command in commands(document)],
)
def test_commands_in_documents(
    document: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verb or target exists, and its options can be read."""
    program, *words = command
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert {word for word in words if "=" not in word} <= set(targets)
        return
    read = options.read_options

    def read_only(*arguments: Any) -> None:
        read(*arguments)
        raise Parsed

    for module in (options, verbs, data_verbs):
        monkeypatch.setattr(module, "read_options", read_only)
    nothing = dataclasses.make_dataclass("Nothing", [])
    monkeypatch.setitem(verbs.RUN, "list", lambda rest: read_only(nothing, rest, "", ""))
    monkeypatch.setattr(sys, "argv", ["toto", *words])
    with pytest.raises((Parsed, SystemExit)) as ended:
        cli.main()
    assert ended.type is Parsed or ended.value.code in (0, None), command


def test_the_readme_shows_commands() -> None:
    if not (ROOT / "README.md").read_text().strip():
        pytest.skip("README.md is empty")
    assert commands("README.md")
