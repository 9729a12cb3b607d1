"""A pre-training run that was killed, stopped or damaged ends as the one that was left alone."""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_runs import write_noise

from toto.jobs.pretrain import Pretrain
from toto.jobs.training import StoppedError
from toto.recipes import PRETRAIN

pytestmark = pytest.mark.faults
STEPS = 20
CRASHES = [
    "checkpoint.before_write:1",
    "checkpoint.mid_write:4",
    "checkpoint.before_commit:2",
    "checkpoint.before_fsync:3",
    "checkpoint.before_rename:2",
    "checkpoint.after_rename:2",
    "checkpoint.mid_prune:1",
    "checkpoint.before_rename:4",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise") / "shards"
    write_noise(folder)
    return folder


def job(shards: Path, steps: int = STEPS) -> Pretrain:
    return replace(PRETRAIN["tiny"](), shards=str(shards), steps=steps, precision="fp32")


def train(shards: Path, out: Path, crash_at: str = "", steps: int = STEPS) -> None:
    """Run in this process: the target of a process of its own, when it has to die."""
    torch.set_num_threads(1)
    os.environ["TOTO_CRASH_AT"] = crash_at
    try:
        job(shards, steps).run(out)
    finally:
        del os.environ["TOTO_CRASH_AT"]


def process(*arguments: object) -> multiprocessing.Process:
    """Start `train` in a process forked from one that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toto.jobs.pretrain", "toto.recipes"])
    child = context.Process(target=train, args=arguments)
    child.start()
    return child


def steps_and_losses(out: Path) -> list[tuple[int, str]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["step"], name + float(line[name]).hex())
        for line in lines
        for name in ("loss", "validation_loss", "grad_norm")
        if name in line
    ]


def weights_sha256(out: Path, step: int = STEPS) -> str:
    file = out / "checkpoints" / f"step-{step:07d}" / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def unbroken(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    train(shards, out)
    return out


def assert_same_end(out: Path, unbroken: Path) -> None:
    assert steps_and_losses(out) == steps_and_losses(unbroken)
    assert weights_sha256(out) == weights_sha256(unbroken)
    results = [
        json.loads((run / "results" / "pretrain.json").read_text()) for run in (out, unbroken)
    ]
    for result in results:
        del result["tokens_per_s"], result["loading_share"]
    assert results[0] == results[1]


def test_the_run_learns_and_saves_as_told(unbroken: Path) -> None:
    steps = [step for step, value in steps_and_losses(unbroken) if value.startswith("loss")]
    assert steps == list(range(1, STEPS + 1))
    kept = sorted(path.name for path in (unbroken / "checkpoints").iterdir())
    assert kept == ["step-0000015", "step-0000020"]


@pytest.mark.parametrize("crash_at", CRASHES)
def test_killed_at_a_named_point_and_resumed(
    crash_at: str, shards: Path, unbroken: Path, tmp_path: Path
) -> None:
    child = process(shards, tmp_path / "run", crash_at)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "run" / "results" / "pretrain.json").exists()
    train(shards, tmp_path / "run")
    assert_same_end(tmp_path / "run", unbroken)
    assert not list((tmp_path / "run" / "checkpoints").glob("*tmp*"))


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_twice_and_resumed(
    seed: int, shards: Path, unbroken: Path, tmp_path: Path
) -> None:
    draw, out = random.Random(seed), tmp_path / "run"
    for _ in range(2):
        child = process(shards, out)
        wait_for_lines(out, draw.randrange(1, STEPS), child)
        time.sleep(draw.uniform(0, 0.02))
        child.kill()
        child.join(60)
    train(shards, out)
    assert_same_end(out, unbroken)


def test_a_finished_run_is_not_done_again(shards: Path, unbroken: Path) -> None:
    def state() -> tuple[bytes, list[int]]:
        saved = sorted(unbroken.glob("checkpoints/*/*"))
        return (unbroken / "metrics.jsonl").read_bytes(), [p.stat().st_mtime_ns for p in saved]

    before = state()
    first = json.loads((unbroken / "results" / "pretrain.json").read_text())
    assert job(shards).run(unbroken) == first
    assert state() == before


def unfinished(unbroken: Path, copy: Path) -> Path:
    """The run as if it had been killed right after its last checkpoint."""
    shutil.copytree(unbroken, copy)
    (copy / "results" / "pretrain.json").unlink()
    return copy


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "commit.json"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    file: str, shards: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = unfinished(unbroken, tmp_path / "run")
    victim = out / "checkpoints" / "step-0000020" / file
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    train(shards, out)
    said = " ".join(capsys.readouterr().err.split())
    assert "set aside a damaged checkpoint" in said
    assert "at step 15" in said
    assert_same_end(out, unbroken)
    assert (out / "checkpoints" / "step-0000020.damaged" / file).read_bytes() == data


def test_without_one_whole_checkpoint_it_does_not_begin_again_in_silence(
    shards: Path, unbroken: Path, tmp_path: Path
) -> None:
    out = unfinished(unbroken, tmp_path / "run")
    for checkpoint in (out / "checkpoints").iterdir():
        (checkpoint / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="no whole checkpoint, only damaged ones"):
        train(shards, out)


def test_it_is_not_resumed_with_another_config(
    shards: Path, unbroken: Path, tmp_path: Path
) -> None:
    out = unfinished(unbroken, tmp_path / "run")
    with pytest.raises(ValueError, match=r"another config \(steps: 20 != 30\); choose another"):
        train(shards, out, steps=30)


def test_sigterm_saves_and_says_how_to_go_on(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []

    def stop_at_the_third_line(path: Path, data: bytes) -> None:
        append(path, data)
        saved.append(data)
        if len(saved) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    from toto.runtime import durable

    append = durable.append
    monkeypatch.setattr(durable, "append", stop_at_the_third_line)
    with pytest.raises(StoppedError, match=r"step 3 of 20 and saved in .*same command"):
        train(shards, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000003"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)]
)
def test_a_stopped_command_saves_says_so_by_its_code_and_goes_on(
    shards: Path, tmp_path: Path, number: int, code: int
) -> None:
    steps, out = 50, tmp_path / "run"
    command = [sys.executable, "-m", "toto", "pretrain", "tiny", "--precision", "fp32"]
    command += ["--shards", str(shards), "--out", str(out), "--steps", str(steps)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )
    wait_for_lines(out, 7, running)
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == code
    lines = [line for line in said.splitlines() if line.startswith("toto: ")]
    assert len(lines) == 1
    assert lines[0].endswith(f"saved in {out}; the same command goes on from there")
    assert "Traceback" not in said
    stopped = max(step for step, _ in steps_and_losses(out))
    assert f"stopped at step {stopped} of {steps}" in lines[0]
    assert 7 <= stopped < steps
    train(shards, out, steps=steps)
    train(shards, tmp_path / "unbroken", steps=steps)
    assert steps_and_losses(out) == steps_and_losses(tmp_path / "unbroken")
    assert weights_sha256(out, steps) == weights_sha256(tmp_path / "unbroken", steps)


def wait_for_lines(
    out: Path, count: int, running: subprocess.Popen[str] | multiprocessing.Process
) -> None:
    """Wait until a run has logged so many steps, or has ended."""
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline:
        ended = running.poll() if isinstance(running, subprocess.Popen) else running.exitcode
        if ended is not None:
            return
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.002)
    pytest.fail(f"{out} did not get to line {count} in 60 s")
