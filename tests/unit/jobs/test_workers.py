import itertools
import os
import re
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from made_stages import Checksum, Errands, Noise, Unready
from toto.jobs.stages import Raised, Stage, ahead, compose
from toto.jobs.workers import over_processes
from toto.runtime.durable import DiskFullError


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_is_done_once_whatever_the_number_of_workers(
    workers: int, tmp_path: Path
) -> None:
    tasks = [f"count {number}" for number in range(7)]
    results = dict(over_processes(Errands(tmp_path), tasks, workers=workers))
    assert results == {number: f"did {task}" for number, task in enumerate(tasks)}
    starts = [path.name.partition("@") for path in tmp_path.glob("count *@*")]
    assert sorted(task for task, _, _ in starts) == tasks
    pids = {pid for _, _, pid in starts}
    assert 1 <= len(pids) <= workers
    assert str(os.getpid()) not in pids


def test_a_long_task_does_not_hold_up_the_others(tmp_path: Path) -> None:
    tasks = ["sleep 1.5", *(f"count {number}" for number in range(4))]
    order = [number for number, _ in over_processes(Errands(tmp_path), tasks, workers=2)]
    assert order == [1, 2, 3, 4, 0]


def test_stages_are_closed_when_there_is_nothing_left_to_do(tmp_path: Path) -> None:
    list(over_processes(Errands(tmp_path), ["count 1", "count 2"], workers=2))
    assert len(list(tmp_path.glob("closed@*"))) == 2


def test_no_tasks_start_no_worker(tmp_path: Path) -> None:
    assert list(over_processes(Unready("raise"), [], workers=2)) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_workers_compute_with_the_threads_they_are_told(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    tasks = ["torch-threads", "environ OPENBLAS_NUM_THREADS"]
    done = over_processes(Errands(tmp_path), tasks, workers=1, threads_per_worker=threads)
    assert dict(done) == {0: str(threads), 1: str(threads)}


def test_an_exception_of_a_task_stops_the_work_and_says_where(tmp_path: Path) -> None:
    tasks = ["raise this.mp4", "hang other"]
    with pytest.raises(ValueError, match=r"^this\.mp4: it is wrong; mend it\n") as caught:
        list(over_processes(Errands(tmp_path), tasks, workers=2))
    assert str(caught.value) == "this.mp4: it is wrong; mend it"
    (note,) = caught.value.__notes__
    assert note.startswith("raised in a worker process:\n")
    assert re.search(r'made_stages.py", line \d+, in do\n', note)
    assert note in "".join(traceback.format_exception(caught.value))


def test_a_full_disk_stays_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=r"tokens.bin: the disk is full"):
        list(over_processes(Errands(tmp_path), ["full tokens.bin"], workers=1))


def test_an_exception_that_cannot_be_copied_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^Strange: 1 and 2\n"):
        list(over_processes(Errands(tmp_path), ["strange"], workers=1))


def test_a_stage_that_cannot_be_opened_raises() -> None:
    with pytest.raises(ValueError, match=r"no tokenizer there; name another"):
        list(over_processes(Unready("raise"), [1, 2], workers=2))


def test_workers_that_die_before_they_begin_are_not_started_for_ever() -> None:
    with pytest.raises(RuntimeError, match=r"3 workers died before they began: its last words"):
        list(over_processes(Unready("exit"), [1, 2], workers=1))


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (1, 0)])
def test_no_workers_or_threads(workers: int, threads: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {workers} and {threads}"):
        list(
            over_processes(Errands(tmp_path), [], workers=workers, threads_per_worker=threads),
        )


def test_a_composed_stage_decodes_and_encodes(tmp_path: Path) -> None:
    both = compose(Noise(tmp_path), Checksum(tmp_path))
    assert isinstance(both, Stage)
    tasks = [(seed, 4) for seed in range(3)]
    with both.open() as do:
        here = [do(task) for task in tasks]
    assert len(set(here)) == 3
    assert [result for _, result in sorted(over_processes(both, tasks, workers=2))] == here


def test_decoding_stays_in_one_thread_from_task_to_task(tmp_path: Path) -> None:
    with compose(Noise(tmp_path), Checksum(tmp_path)).open() as do:
        for seed in range(3):
            do((seed, 2))
    assert len({path.name.split("-")[4] for path in tmp_path.glob("made-*")}) == 1


def test_an_encoder_that_has_enough_leaves_the_next_task_whole(tmp_path: Path) -> None:
    with compose(Noise(tmp_path), Checksum(tmp_path)).open() as do:
        whole = do((2, 4))
    with compose(Noise(tmp_path), Checksum(tmp_path, most=4)).open() as do:
        do((1, 1000))
        assert do((2, 4)) == whole
    assert len(list(tmp_path.glob("made-1-*"))) <= 7


@pytest.mark.parametrize("count", [1, 2, 5])
def test_ahead_takes_no_more_than_it_may(count: int) -> None:
    taken = []
    source = (taken.append(number) or number for number in range(20))
    with ThreadPoolExecutor(1) as thread, closing(ahead(source, thread, count)) as items:
        for used, item in enumerate(itertools.islice(items, 10)):
            assert item == used
            time.sleep(0.01)
            assert used < len(taken) <= used + 1 + count
    assert len(taken) <= 10 + count


def test_ahead_ends_with_its_source() -> None:
    with ThreadPoolExecutor(1) as thread:
        assert list(ahead(iter(range(5)), thread)) == [0, 1, 2, 3, 4]
        assert list(ahead(iter(()), thread)) == []


def test_ahead_passes_an_exception_on_in_its_place() -> None:
    def source() -> list[int]:
        yield 1
        yield 2
        raise ValueError("the third is broken")

    got = []
    with ThreadPoolExecutor(1) as thread:
        with pytest.raises(ValueError, match="the third is broken"):
            got.extend(iter_into(ahead(source(), thread), got))
        assert thread.submit(int, 7).result(timeout=5) == 7
    assert got == [1, 2]


def iter_into(items: object, got: list[int]) -> list[int]:
    for item in items:
        got.append(item)
    return []


def test_closing_ahead_closes_its_source() -> None:
    closed = []

    def source() -> list[int]:
        try:
            yield from range(100)
        finally:
            closed.append(True)

    with ThreadPoolExecutor(1) as thread:
        with closing(ahead(source(), thread)) as items:
            assert next(items) == 0
        assert closed == [True]


def test_a_caught_exception_keeps_its_type_and_notes() -> None:
    error = ValueError("bad")
    error.add_note("first")
    caught = Raised.caught(error, "a test").error
    assert type(caught) is ValueError
    assert caught.__notes__ == ["first", "raised in a test:\nValueError: bad\nfirst\n"]
