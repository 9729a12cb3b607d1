"""The same tasks on Ray as on worker processes, with actors that die. Ray is started once."""

import importlib.util
import pickle
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from made_stages import Broken, Checksum, Environ, Noise, Slow, Unready, WithChild
from toto.jobs.ray_connection import connected, leave_token
from toto.jobs.ray_workers import _DecodeActor, over_ray
from toto.jobs.stages import AHEAD, Died, compose

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed; pip install 'toto-video[scale]'",
)
TASKS = [(seed, 3 + seed % 4) for seed in range(20)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, whose actors find the test's stages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        patch.setenv("OMP_NUM_THREADS", "7")
        with connected("local") as ray:
            yield
        assert not ray.is_initialized()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, int]:
    folder = tmp_path_factory.mktemp("expected")
    with compose(Noise(folder), Checksum(folder)).open() as do:
        return {number: do(task) for number, task in enumerate(TASKS)}


def test_ray_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r'install it: pip install "toto-video\[scale\]"'):
        list(over_ray(Noise(tmp_path), Checksum(tmp_path), TASKS, address="local"))


@needs_ray
@pytest.mark.parametrize("address", ["auto", "127.0.0.1:1", "nonsense"])
def test_a_cluster_that_is_not_there_is_named(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no Ray cluster answers at {address}: start one"):
        list(over_ray(Noise(tmp_path), Checksum(tmp_path), TASKS, address=address))


def test_clusters_that_start_at_once_have_one_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each found none and wrote its own, and one of the two could not reach itself.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: leave_token(), range(64)))
    (token,) = (tmp_path / ".ray").iterdir()
    assert len(token.read_text()) == 64
    assert token.stat().st_mode & 0o077 == 0
    before = token.read_text()
    leave_token()
    assert token.read_text() == before


def test_a_token_from_the_environment_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    leave_token()
    assert not [*tmp_path.iterdir()]


def test_a_late_request_takes_no_piece_of_another_task(tmp_path: Path) -> None:
    actor = _DecodeActor(pickle.dumps(Noise(tmp_path)))
    assert actor.ready() is None
    actor.begin(1, (5, 2))
    actor.piece(1)
    actor.begin(2, (6, 2))
    assert actor.piece(1) == b""
    pieces = [pickle.loads(actor.piece(2)) for _ in range(3)]
    assert pieces[2] is None
    with Noise(tmp_path).open() as pieces_of:
        for piece, (own,) in zip(pieces_of((6, 2)), pieces[:2], strict=True):
            assert (piece == own).all()
            assert own.flags.writeable


@needs_ray
@pytest.mark.usefixtures("cluster")
def test_results_are_those_of_one_process(
    expected: dict[int, int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    halves = Noise(tmp_path), Checksum(tmp_path)
    results = list(over_ray(*halves, TASKS, address="local", decoders=2, encoders=1))
    assert len(results) == len(TASKS)
    assert dict(results) == expected
    threads = [file.name.split("-")[3:] for file in tmp_path.glob("made-*")]
    assert len(threads) == sum(count for _, count in TASKS)
    # In the main thread: a decode child ends with the thread that started it.
    assert all(process == thread for process, thread in threads)
    assert len({process for process, _ in threads}) <= 2
    assert capfd.readouterr() == ("", "")


@needs_ray
@pytest.mark.usefixtures("cluster")
def test_actors_of_either_kind_that_die_amid_a_task(
    expected: dict[int, int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    halves = Noise(tmp_path, deadly_piece=5), Checksum(tmp_path, piece_s=0.02, deadly_seed=1)
    tasks = TASKS[:6]
    assert [seed for seed, count in tasks if count > 5] == [3]
    results = list(over_ray(*halves, tasks, address="local", decoders=2, encoders=1))
    assert len(results) == 6
    assert dict(results) == {number: expected[number] for number in range(6)}
    assert results[-1][0] == 3  # tried again after all others
    assert len(list(tmp_path.glob("died-*"))) == 2
    assert capfd.readouterr() == ("", "")


@needs_ray
@pytest.mark.usefixtures("cluster")
def test_a_deadly_task_is_tried_twice_and_costs_the_others_nothing(
    expected: dict[int, int], tmp_path: Path
) -> None:
    halves = Noise(tmp_path), Checksum(tmp_path, deadly_seed=1, deadly_always=True)
    results = dict(over_ray(*halves, TASKS[:4], address="local", decoders=2, encoders=2))
    died = results.pop(1)
    assert type(died) is Died
    assert died.reason.startswith("its encode actor died (")
    assert died.reason.endswith("), twice")
    assert results == {number: expected[number] for number in (0, 2, 3)}


@needs_ray
@pytest.mark.usefixtures("cluster")
def test_a_slow_encoder_holds_its_decoders_back(tmp_path: Path) -> None:
    halves = Noise(tmp_path), Checksum(tmp_path, piece_s=0.1)
    tasks = [(0, 12), (1, 12)]
    list(over_ray(*halves, tasks, address="local", decoders=2, encoders=1))
    more = [int(file.read_text()) for file in tmp_path.glob("used-*")]
    assert len(more) == 24
    assert max(more) == AHEAD
    # One encoder works on the tasks of both its decoders at the same time.
    first = {seed: (tmp_path / f"used-{seed}-0").stat().st_mtime_ns for seed in (0, 1)}
    last = {seed: (tmp_path / f"used-{seed}-11").stat().st_mtime_ns for seed in (0, 1)}
    assert max(first.values()) < min(last.values())


@needs_ray
@pytest.mark.usefixtures("cluster")
def test_exceptions_come_out_and_say_where(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^task 0 is broken; mend it\n") as caught:
        list(over_ray(Broken("piece"), Checksum(tmp_path), [(0, 1)], address="local"))
    assert str(caught.value) == "task 0 is broken; mend it"
    assert caught.value.__notes__[0].startswith("raised in a decode actor:\nTraceback")
    assert caught.value.__notes__[1].startswith("raised in an encode actor:\nTraceback")
    with pytest.raises(ValueError, match="no decoder there; name another"):
        list(over_ray(Broken("open"), Checksum(tmp_path), [(0, 1)], address="local"))


@needs_ray
@pytest.mark.usefixtures("cluster")
def test_actors_that_die_before_they_begin_are_not_started_for_ever(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"3 actors died before they began: its decode actor"):
        list(
            over_ray(
                Unready("SIGKILL"),
                Checksum(tmp_path),
                TASKS,
                address="local",
                decoders=1,
                encoders=1,
            )
        )


@needs_ray
@pytest.mark.usefixtures("cluster")
def test_actors_compute_with_one_thread(tmp_path: Path) -> None:
    halves = Noise(tmp_path), Environ("OMP_NUM_THREADS")
    assert list(over_ray(*halves, [(0, 2)], address="local")) == [(0, "2 1")]


@needs_ray
@pytest.mark.usefixtures("cluster")
def test_decode_children_end_with_their_actors(tmp_path: Path) -> None:
    with closing(
        over_ray(WithChild(tmp_path), Slow(), [0, 1], address="local", decoders=1, encoders=1)
    ) as results:
        assert next(results) == (0, 0)
        deadline = time.monotonic() + 60
        while not (tmp_path / "1.pids").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        pids = [int(pid) for pid in (tmp_path / "1.pids").read_text().split()]
        assert all(psutil.pid_exists(pid) for pid in pids)
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []


@needs_ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("numbers", "match"),
    [
        ({"gpus_per_encoder": 500.0}, r"1 encoders of 500 GPUs each do not fit the cluster's \d+"),
        ({"decoders": 1, "encoders": 2}, "a decoder for each, got 2 encoders of 0 GPUs and 1 dec"),
        ({"encoders": 0}, "at least 1 encoder and a decoder for each, got 0 encoders"),
        ({"gpus_per_encoder": -1.0}, "encoders of -1 GPUs"),
    ],
)
def test_numbers_that_make_no_sense(numbers: dict[str, float], match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=match):
        list(over_ray(Noise(tmp_path), Checksum(tmp_path), TASKS, address="local", **numbers))
