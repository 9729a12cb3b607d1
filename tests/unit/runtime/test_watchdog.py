"""A process that hangs says where and ends; one that is only slow is left alone."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from toto.runtime.devices import Ranks
from toto.runtime.watchdog import HUNG_CODE, Watchdog

PROGRAM = """
import sys, threading, time
from pathlib import Path
from toto.runtime.devices import Ranks
from toto.runtime.watchdog import Watchdog

def wait_for_the_other_rank():
    {hang}

with Watchdog(Path(sys.argv[1]), Ranks(rank=1, world=2), 0.5) as watchdog:
    watchdog.beat(12, "validating")
    wait_for_the_other_rank()
"""


def hang(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(hang=how), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_sleeping_rank_writes_its_stacks_says_one_line_and_ends(tmp_path: Path) -> None:
    ended = hang(tmp_path / "stacks", "time.sleep(60)")
    assert ended.returncode == HUNG_CODE
    file = tmp_path / "stacks" / "rank-1.txt"
    (line,) = ended.stderr.splitlines()
    assert line.startswith("toto: rank 1 of 2 hangs: no sign of life for ")
    assert "after step 12, validating" in line
    assert f"its stacks are in {file}" in line
    # Nobody plays rank 0 here.
    assert line.endswith("no stacks from rank 0: stopped, or gone")
    written = file.read_text()
    assert "rank 1 of 2 hangs" in written
    assert "in wait_for_the_other_rank" in written
    assert "in _watch" in written


def test_a_rank_that_never_lets_go_of_the_interpreter_ends_too(tmp_path: Path) -> None:
    # A lock taken in C by a call that keeps Python's own: no thread of Python runs any more.
    keeps = "import ctypes; ctypes.PyDLL(None).sleep(60)"
    began = time.monotonic()
    ended = hang(tmp_path, keeps)
    assert ended.returncode == 1
    assert time.monotonic() - began < 30
    assert "in wait_for_the_other_rank" in ended.stderr


def test_signs_of_life_keep_it_quiet(tmp_path: Path) -> None:
    with Watchdog(tmp_path, Ranks(), 0.3) as watchdog:
        for step in range(12):
            watchdog.beat(step)
            time.sleep(0.05)
    assert not list(tmp_path.iterdir())


def test_nothing_watches_where_the_limit_is_none(tmp_path: Path) -> None:
    with Watchdog(tmp_path, Ranks(), 0.0) as watchdog:
        watchdog.beat(1)
        time.sleep(0.05)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("after_s", [-1.0, float("nan")])
def test_a_limit_that_makes_no_sense_is_refused(after_s: float) -> None:
    from toto.runtime.parallel import Parallel

    with pytest.raises(ValueError, match=r"hung_after_s .* must be 0 \(never\) or more"):
        Parallel(hung_after_s=after_s)
