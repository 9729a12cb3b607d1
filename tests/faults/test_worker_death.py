"""Workers that die at any moment change no result, and none outlives the process it works for."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from made_stages import Checksum, Errands, Noise
from toto.jobs.stages import Died, compose
from toto.jobs.workers import over_processes, thread_limits

pytestmark = pytest.mark.faults
GONE_S = 10.0
"""The kernel ends an orphan at once; this is for a machine under heavy load."""


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = {child.pid for child in psutil.Process().children(recursive=True)} - before
    assert not left


def wait_until(true: object, what: str, limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {limit_s} s")
        time.sleep(0.01)


def pids_of(folder: Path, names: list[str]) -> list[int]:
    """Process ids of the workers that hang and of their decode children."""
    files = [folder / f"{name}.pids" for name in names]
    wait_until(lambda: all(file.exists() for file in files), f"{names} hang")
    return [int(pid) for file in files for pid in file.read_text().split()]


def gone(pids: list[int]) -> bool:
    def is_gone(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return all(is_gone(pid) for pid in pids)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("SIGKILL", "SIGKILL"),
        ("SIGSEGV", "SIGSEGV"),
        ("exit", "its last words"),
        ("silently", "exit status 4"),
    ],
)
def test_a_deadly_task_is_tried_twice_and_costs_the_others_nothing(
    how: str, said: str, tmp_path: Path
) -> None:
    tasks = ["count 0", f"die {how}", "count 2", "count 3"]
    results = list(over_processes(Errands(tmp_path), tasks, workers=2))
    assert results[-1] == (1, Died(f"its worker died ({said}), twice"))
    assert sorted(results[:-1]) == [(n, f"did count {n}") for n in (0, 2, 3)]
    assert len(list(tmp_path.glob(f"die {how}@*"))) == 2
    # Each other task was done once, so the death of one worker stopped no other.
    assert len(list(tmp_path.glob("count *@*"))) == 3


def test_a_task_whose_worker_was_killed_is_done_again_in_a_fresh_one(tmp_path: Path) -> None:
    tasks = ["count 0", "die-first SIGKILL", "count 2"]
    results = dict(over_processes(Errands(tmp_path), tasks, workers=1))
    assert results == {number: f"did {task}" for number, task in enumerate(tasks)}
    pids = [path.name.split("@")[1] for path in tmp_path.glob("die-first*@*")]
    assert len(set(pids)) == 2
    others = {path.name.split("@")[1] for path in tmp_path.glob("count*@*")}
    assert len(set(pids) - others) == 1


def test_random_kills_change_no_result(tmp_path: Path) -> None:
    both = compose(Noise(tmp_path), Checksum(tmp_path, piece_s=0.01))
    tasks = [(seed, 10) for seed in range(16)]  # more than twice those that can be killed
    with both.open() as do:
        expected = [do(task) for task in tasks]
    for file in tmp_path.iterdir():
        file.unlink()
    draw, stop, killed = random.Random(0), threading.Event(), set[int]()

    def kill() -> None:
        while not stop.wait(draw.uniform(0.05, 0.2)) and len(killed) < 5:
            # Only those at work: three that die while they get ready end the run.
            at_work = {int(file.name.split("-")[3]) for file in tmp_path.glob("made-*")}
            alive = sorted((at_work - killed) & {c.pid for c in psutil.Process().children()})
            if alive:
                victim = draw.choice(alive)
                killed.add(victim)
                os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    results = []
    try:
        for result in over_processes(both, tasks, workers=3):
            results.append(result)
            # Who dies at the second trial too is not tried again.
            if len(results) == 10:
                stop.set()
    finally:
        stop.set()
        killer.join()
    assert len(killed) >= 3
    assert [result for _, result in sorted(results)] == expected


HANGING = """
import signal, sys
from pathlib import Path
# A shell's background job, and all below it, would ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from made_stages import Errands
from toto.jobs.workers import over_processes
for _ in over_processes(Errands(Path(sys.argv[1])), ["hang a", "hang b"], workers=2):
    pass
"""
CALM = """
import signal, sys
from pathlib import Path
from made_stages import Errands
from toto.jobs.workers import over_processes
signal.signal(signal.SIGINT, lambda *_: None)
for number, did in over_processes(Errands(Path(sys.argv[1])), ["count 0", "sleep 0.5"], workers=1):
    print(number, did, flush=True)
"""


@pytest.fixture
def parent(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that has workers, and a process group of its own, as in a terminal."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", request.param, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **thread_limits(1), "PYTHONPATH": path},
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("parent", [HANGING], indirect=True, ids=[""])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_and_their_children_end_with_the_parent(
    number: signal.Signals, parent: subprocess.Popen[str], tmp_path: Path
) -> None:
    pids = pids_of(tmp_path, ["a", "b"])
    assert len(set(pids)) == 4
    assert not gone(pids[:1])
    os.killpg(parent.pid, number)  # as a terminal does
    said, _ = parent.communicate(timeout=GONE_S)
    assert parent.returncode == -number
    wait_until(lambda: gone(pids), "workers and decode children end", GONE_S)
    # Of Ctrl-C one traceback, the parent's own.
    assert said.count("Traceback") == (number == signal.SIGINT)


@pytest.mark.parametrize("parent", [CALM], indirect=True, ids=[""])
def test_ctrl_c_that_the_parent_survives_is_not_for_its_workers(
    parent: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert parent.stdout is not None
    assert parent.stdout.readline() == "0 did count 0\n"
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.stdout.readline() == "1 did sleep 0.5\n"
    assert parent.wait(timeout=60) == 0
    assert len(list(tmp_path.glob("sleep*@*"))) == 1


def test_closing_early_ends_the_workers(tmp_path: Path) -> None:
    tasks = ["count 0", "hang a", "hang b"]
    with closing(over_processes(Errands(tmp_path), tasks, workers=2)) as results:
        assert next(results) == (0, "did count 0")
        pids = pids_of(tmp_path, ["a"])
    wait_until(lambda: gone(pids), "the worker and its decode child end", GONE_S)


def test_an_exception_ends_the_other_workers(tmp_path: Path) -> None:
    tasks = ["hang a", "raise-beside a"]
    with pytest.raises(ValueError, match="wrong beside a"):
        list(over_processes(Errands(tmp_path), tasks, workers=2))
    pids = pids_of(tmp_path, ["a"])
    wait_until(lambda: gone(pids), "the worker and its decode child end", GONE_S)


CHILD = """
import os, sys, time
from toto.jobs.workers import die_with_parent
sys.platform = sys.argv[1]
die_with_parent(os.getppid())
print("ready", flush=True)
time.sleep(600)
"""
MIDDLE = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("platform", ["linux", "elsewhere"])
def test_a_process_dies_with_its_parent_on_any_system(platform: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MIDDLE, CHILD, platform], stdout=subprocess.PIPE, text=True
    ) as middle:
        assert middle.stdout is not None
        pid = int(middle.stdout.readline())
        assert middle.stdout.readline() == "ready\n"
        assert not gone([pid])
        middle.kill()
        wait_until(lambda: gone([pid]), "the child ends", GONE_S)


def test_a_worker_whose_parent_is_gone_already_does_not_begin() -> None:
    code = "from toto.jobs.workers import die_with_parent; die_with_parent(1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "the parent process is gone"
