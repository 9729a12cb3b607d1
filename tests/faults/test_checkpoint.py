"""Kill, corrupt and starve the checkpoints: the last good one is always there, and always found."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toto.runtime import checkpoint, durable

pytestmark = pytest.mark.faults

FILES = ["commit.json", "model.safetensors", "optimizer.safetensors"]
KEEP = 2


def tensors(step: int) -> dict[str, dict[str, Tensor]]:
    return {
        "model": {"w": torch.full((64,), float(step)), "b": torch.arange(step, step + 8)},
        "optimizer": {"w/exp_avg": torch.full((64,), step / 2), "w/step": torch.tensor(step)},
    }


def save(folder: Path, step: int) -> Path:
    return checkpoint.save(folder, step, tensors=tensors(step), config_digest="d")


def assert_holds(path: Path, step: int) -> None:
    loaded = checkpoint.load(path, config_digest="d")
    assert loaded.keys() == tensors(step).keys()
    for group, named in tensors(step).items():
        assert loaded[group].keys() == named.keys()
        assert all(torch.equal(loaded[group][name], tensor) for name, tensor in named.items())


# ---- corruption


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[random.Random(file.name).randrange(len(raw))] ^= 0x10
    file.write_bytes(raw)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def zero_the_end(file: Path) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw[:-16] + bytes(16))


def remove(file: Path) -> None:
    file.unlink()


def add_another(file: Path) -> None:
    shutil.copy(file, file.with_name(f"extra-{file.name}"))


def swap_with_the_next(file: Path) -> None:
    other = file.with_name(FILES[(FILES.index(file.name) + 1) % len(FILES)])
    mine, theirs = file.read_bytes(), other.read_bytes()
    file.write_bytes(theirs)
    other.write_bytes(mine)


def take_from_the_step_before(file: Path) -> None:
    shutil.copy(file.parent.with_name("step-0000001") / file.name, file)


DAMAGES = [
    flip,
    truncate,
    empty,
    zero_the_end,
    remove,
    add_another,
    swap_with_the_next,
    take_from_the_step_before,
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_the_checkpoint_before_is_taken(
    tmp_path: Path, damage: Callable[[Path], None], file: str
) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    damage(newest / file)
    kept = {path.name: path.read_bytes() for path in newest.iterdir()}
    with pytest.raises(checkpoint.DamagedCheckpointError, match=r"step-0000002/\S+ .*use another"):
        checkpoint.load(newest, config_digest="d")
    found = checkpoint.latest(tmp_path)
    aside = tmp_path / "step-0000002.damaged"
    assert found == checkpoint.Found(path=tmp_path / "step-0000001", step=1, damaged=(aside,))
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == kept
    assert_holds(found.path, 1)


def test_the_message_names_the_file(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for file, fault in [
        ("model.safetensors", r"model.safetensors is not what was written \(its SHA-256 differs\)"),
        ("commit.json", r"commit.json is not what was written"),
    ]:
        good = (path / file).read_bytes()
        flip(path / file)
        with pytest.raises(checkpoint.DamagedCheckpointError, match=fault):
            checkpoint.load(path, config_digest=None)
        (path / file).write_bytes(good)
    truncate(path / "model.safetensors")
    with pytest.raises(checkpoint.DamagedCheckpointError, match=r"has \d+ bytes and not the \d+"):
        checkpoint.load(path, config_digest=None)
    remove(path / "model.safetensors")
    with pytest.raises(checkpoint.DamagedCheckpointError, match=r"model.safetensors is missing"):
        checkpoint.load(path, config_digest=None)


@pytest.mark.parametrize("file", FILES)
def test_no_single_byte_can_change(tmp_path: Path, file: str) -> None:
    path = save(tmp_path, 1)
    good = (path / file).read_bytes()
    for position in range(len(good)):
        raw = bytearray(good)
        raw[position] ^= 1 << (position % 8)
        (path / file).write_bytes(raw)
        with pytest.raises(checkpoint.DamagedCheckpointError):
            checkpoint.verify(path)
    (path / file).write_bytes(good)
    assert_holds(path, 1)


def test_a_checkpoint_under_the_name_of_another_step_is_found(tmp_path: Path) -> None:
    shutil.copytree(save(tmp_path, 1), tmp_path / "step-0000002")
    with pytest.raises(checkpoint.DamagedCheckpointError, match=r"commit.json is of step 1;"):
        checkpoint.load(tmp_path / "step-0000002", config_digest="d")


def test_damage_twice_at_one_step_keeps_both(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in ("step-0000002.damaged", "step-0000002.damaged-2"):
        flip(save(tmp_path, 2) / "model.safetensors")
        found = checkpoint.latest(tmp_path)
        assert found is not None
        assert found.damaged == (tmp_path / name,)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again(tmp_path: Path) -> None:
    flip(save(tmp_path, 1) / "model.safetensors")
    for _ in range(2):  # the second time it has been set aside already
        with pytest.raises(ValueError, match=r"no whole checkpoint.*step-0000001.damaged"):
            checkpoint.latest(tmp_path)


def test_saving_onto_a_damaged_step_is_refused(tmp_path: Path) -> None:
    flip(save(tmp_path, 1) / "model.safetensors")
    with pytest.raises(checkpoint.DamagedCheckpointError, match="use another checkpoint"):
        save(tmp_path, 1)


# ---- full disks


# How often a save of two groups makes each call: for the two files and their folder, then for all
# three, the folder, and its parent.
CALLS = {
    "mkdir": 1,
    "open": 3 + 2 + 1 + 3 + 1 + 1,
    "write": 3,
    "fsync": 2 + 1 + 3 + 1 + 1,
    "rename": 1,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_the_kth_call_of_a_kind_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    real = getattr(os, call)
    error = durable.DiskFullError if code == errno.ENOSPC else OSError
    made = 0

    def fail_at(k: int) -> Callable[..., object]:
        def counted(*arguments: object, **options: object) -> object:
            nonlocal made
            made += 1
            if made == k:
                raise OSError(code, os.strerror(code))
            return real(*arguments, **options)

        return counted

    for k in range(1, CALLS[call] + 1):
        folder, made = tmp_path / f"{call}-{k}", 0
        save(folder, 1)
        with monkeypatch.context() as patch:
            patch.setattr(durable.os, call, fail_at(k))
            with pytest.raises(error, match=str(folder)):
                save(folder, 2)
        assert {path.name for path in folder.iterdir()} <= {"step-0000001", "step-0000002"}
        found = checkpoint.latest(folder)
        assert found is not None
        assert found.damaged == ()
        assert_holds(found.path, found.step)
        save(folder, 2)  # once there is room again
        assert_holds(folder / "step-0000002", 2)

    save(tmp_path, 1)
    made = 0
    with monkeypatch.context() as patch:
        patch.setattr(durable.os, call, fail_at(0))
        save(tmp_path, 2)
    assert made == CALLS[call]  # so there was none left to fail


# ---- kills

DRIVER = """
import json, os, sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_checkpoint import save
torch.set_num_threads(1)
for folder, crash_at, after_s in json.load(sys.stdin):
    Path(folder).mkdir()
    progress = os.open(Path(folder) / "progress", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    if (child := os.fork()) == 0:
        os.environ["TOTO_CRASH_AT"] = crash_at
        for step in range(1, 100_000):
            save(Path(folder) / "checkpoints", step)
            os.write(progress, f"{step}\\n".encode())
        os._exit(0)
    if after_s:
        time.sleep(after_s)
        os.kill(child, 9)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def kill(cases: list[tuple[Path, str, float]]) -> None:
    """Run a saving process for each case until it dies: at a crash point, or after some time."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(Path(__file__).parent)],
        input=json.dumps([(str(folder), crash_at, after_s) for folder, crash_at, after_s in cases]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == ["-9"] * len(cases)


def check_survivors(folder: Path) -> tuple[int, int]:
    """Check what a kill left; return the last step that was saved and the one that is found."""
    saved = [int(line) for line in (folder / "progress").read_text().split()]
    last = max(saved, default=0)
    checkpoints = folder / "checkpoints"
    whole = [path for path in checkpoints.glob("step-*") if "tmp" not in path.name]
    for path in whole:
        assert_holds(path, int(path.name.removeprefix("step-")))
    assert len(whole) >= min(last, KEEP)
    found = checkpoint.latest(checkpoints)
    step = found.step if found else 0
    assert not (found and found.damaged)
    assert last <= step <= last + 1
    save(checkpoints, step + 1)
    save(checkpoints, step + 2)
    names = sorted(path.name for path in checkpoints.iterdir())
    assert names == [f"step-{number:07d}" for number in (step + 1, step + 2)]
    return last, step


# What counts after dying there: the step before, or already the new one.
POINTS = {
    "before_write": 0,
    "after_folder": 0,
    "mid_write": 0,
    "mid_fsync": 0,
    "after_write": 0,
    "before_commit": 0,
    "after_record": 0,
    "before_fsync": 0,
    "before_rename": 0,
    "after_rename": 1,
    "before_prune": 1,
    "mid_prune": 1,
    "after_prune": 1,
}


def test_a_kill_at_any_named_point_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    cases = {
        (point, times): tmp_path / f"{point}-{times}" for point in POINTS for times in (1, 2, 3)
    }
    kill([(folder, f"checkpoint.{p}:{n}", 0.0) for (p, n), folder in cases.items()])
    for (point, times), folder in cases.items():
        last, found = check_survivors(folder)
        assert found == last + POINTS[point], point
        passed_a_save = 2 if point in ("mid_write", "mid_fsync") else 1  # each of two files
        first = KEEP if point == "mid_prune" else 0  # nothing is pruned before
        assert last == first + (times - 1) // passed_a_save, point


def test_a_kill_at_any_moment_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    moment = random.Random(0)
    folders = [tmp_path / str(number) for number in range(25)]
    kill([(folder, "", moment.uniform(0.03, 0.15)) for folder in folders])
    lasts = [check_survivors(folder)[0] for folder in folders]
    assert max(lasts) > KEEP  # else no kill came late enough to try anything
