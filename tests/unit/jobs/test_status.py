"""What `toto status` says of a run, from its files alone."""

import fcntl
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toto.jobs.status import RunStatus, Score, Status, as_json, as_text
from toto.runtime import checkpoint_record

STEPS = 1000


def loss(step: int) -> float:
    return 2 + 3 * step**-0.5 + 0.02 * math.sin(step)


def run_at(folder: Path, step: int, *, saved: tuple[int, ...] = (), **more: float | None) -> Path:
    """A run of 1,000 steps that has logged every tenth up to this one, 2 steps a second."""
    folder.mkdir(parents=True)
    config = {"lr": 1e-3, "warmup": 50, "steps": STEPS}
    saved_config = {"schema": 1, "kind": "Pretrain", "digest": "0" * 64, "config": config}
    (folder / "config.json").write_text(json.dumps(saved_config))
    lines = []
    for at in range(10, step + 1, 10):
        line = {"step": at, "loss": loss(at), "tokens_per_s": 3000.0, "time_s": at / 2}
        lines.append({**line, "loading_share": 0.01, "mfu": 0.25, "memory_bytes": 10**9, **more})
        if at % 200 == 0:
            lines.append({"step": at, "validation_loss": loss(at) + 0.1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for at in saved:
        checkpoint_at(folder, at)
    return folder


def checkpoint_at(folder: Path, step: int) -> Path:
    path = folder / "checkpoints" / f"step-{step:07d}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    record = {
        "schema": checkpoint_record.SCHEMA,
        "step": step,
        "sha256": {"model.safetensors": "9a9a" + "0" * 60},
        "bytes": {"model.safetensors": 7},
    }
    (path / checkpoint_record.RECORD).write_bytes(checkpoint_record.sealed(record))
    return path


def status(folder: Path, **options: bool) -> RunStatus:
    return Status(run_folder=folder, **options).run()


def held(folder: Path) -> int:
    """Hold the run's lock, as the process that writes it does."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, b"process 7 on node-3")
    return descriptor


def test_a_run_that_is_being_written(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "pretrain", 600, saved=(400,))
    lock = held(folder)
    found = status(tmp_path)
    assert (found.state, found.why, found.step) == ("running", "process 7 on node-3", 600)
    assert found.left_s == pytest.approx(200)
    assert found.validation_loss == (600, pytest.approx(loss(600) + 0.1))
    assert found.troubles == []
    text = "\n".join(as_text(found))
    assert "RUNNING, process 7 on node-3" in text
    assert "600 of 1,000" in text
    assert "60 %, 3 min to go" in text
    assert "3,000 tokens/s, MFU 25 %, 1.0 % waiting for data, 1.0 GB" in text
    assert "health       well" in text
    assert "checkpoint   step 400, 0.0 MB, complete" in text
    os.close(lock)


def test_a_lock_is_not_taken_away_by_looking(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "run", 100)
    status(folder)
    os.close(held(folder))
    status(folder)
    os.close(held(folder))


def test_one_that_is_silent_says_so(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "run", 600)
    lock = held(folder)
    long_ago = time.time() - 720
    os.utime(folder / "metrics.jsonl", (long_ago, long_ago))
    assert status(folder).why == "process 7 on node-3, silent for 12 min"
    os.close(lock)


def test_stopped_dead_hung_new_and_finished(tmp_path: Path) -> None:
    stopped = status(run_at(tmp_path / "stopped", 300, saved=(200, 301)))
    assert stopped.state == "stopped"
    assert stopped.why.endswith("the same command goes on from step 301")
    assert stopped.left_s is None
    dead = run_at(tmp_path / "dead", 330, saved=(200, 300))
    assert status(dead).state == "dead"
    assert status(dead).why.endswith("goes on from step 300, 30 before the last line")
    (dead / "stacks").mkdir()
    (dead / "stacks" / "rank-1.txt").write_text("")
    assert "; it hung, see" in status(dead).why
    new = run_at(tmp_path / "new", 0)
    assert (status(new).state, status(new).loss) == ("new", None)
    assert "checkpoint   none yet" in as_text(status(new))
    finished = run_at(tmp_path / "finished", STEPS)
    (finished / "results").mkdir()
    (finished / "results" / "pretrain.json").write_text("{}")
    assert (status(finished).state, status(finished).forecast) == ("finished", None)


def test_troubles_are_counted_and_named(tmp_path: Path) -> None:
    counts = {"skipped": 3, "spikes": 2, "nonfinite": 2, "loading_share": 0.4}
    folder = run_at(tmp_path / "run", 300, **counts)
    (folder / "results").mkdir()
    (folder / "results" / "rewinds.json").write_text('{"rewinds": [{}]}')
    found = status(folder)
    assert found.counts == {"skipped": 3, "spikes": 2, "nonfinite": 2, "rewinds": 1}
    assert found.troubles == [
        "2 steps were not finite and passed over (incidents.jsonl)",
        "2 spikes, 1 of them passed over (incidents.jsonl)",
        "1 rewinds that left batches out (results/rewinds.json)",
        "40 % of the time goes into waiting for data",
    ]


def test_a_loss_that_was_not_finite_is_no_point_of_the_curve(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "run", 300)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 310, "loss": null, "time_s": 155.0}\n{"step": 320, "lo')
    found = status(folder)
    assert (found.step, len(found.curve)) == (310, 30)


def test_checkpoints_are_complete_verified_or_damaged(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "run", 300, saved=(100, 200, 300))
    whole = folder / "checkpoints" / "step-0000100"
    sha256 = checkpoint_record.durable.sha256_file(whole / "model.safetensors")
    record = checkpoint_record.unsealed((whole / "commit.json").read_bytes())
    record["sha256"]["model.safetensors"] = sha256
    (whole / "commit.json").write_bytes(checkpoint_record.sealed(record))
    (folder / "checkpoints" / "step-0000200" / "model.safetensors").write_bytes(b"weight")
    (folder / "checkpoints" / "step-0000200.rewound-1").mkdir()
    (folder / "checkpoints" / "step-0000250.tmp-ab").mkdir()

    def states(found: RunStatus) -> list[tuple[int, str]]:
        return [(there.step, there.state) for there in found.checkpoints]

    assert states(status(folder)) == [(300, "complete"), (200, "damaged"), (100, "complete")]
    # The newest has the right size and another hash than its record says.
    verified = status(folder, verify=True)
    assert states(verified) == [(300, "damaged"), (200, "damaged"), (100, "verified")]
    assert verified.set_aside == ["step-0000200.rewound-1"]


def test_json_has_the_same_and_is_strict(tmp_path: Path) -> None:
    found = status(run_at(tmp_path / "run", 600))

    def refuse(word: str) -> None:
        raise AssertionError(word)

    read = json.loads(as_json(found), parse_constant=refuse)
    assert (read["state"], read["step"], read["steps"]) == ("dead", 600, STEPS)
    assert read["forecast"]["loss"] == found.forecast.loss


def test_it_answers_without_torch(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "run", 600)
    program = (
        "import sys; from toto.cli import main; sys.argv = ['toto', 'status', sys.argv[1]]; "
        "main(); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False False"
    assert "600 of 1,000" in done.stdout


def finetuning_at(folder: Path, step: int) -> Path:
    """A fine-tuning of 1,000 steps whose selection accuracy is read every 200."""
    run_at(folder, step)
    config = {"epochs": 5, "batch": 8, "task": {"name": "digit", "classes": 4}}
    (folder / "config.json").write_text(json.dumps({"kind": "Finetune", "config": config}))
    (folder / "results").mkdir()
    schedule = {"peak": 1e-3, "warmup": 50, "steps": STEPS, "floor": 0.0}
    (folder / "results" / "schedule.json").write_text(json.dumps(schedule))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    accuracies = {200: 0.5, 400: 0.75, 600: 0.7}
    for at, accuracy in accuracies.items():
        if at <= step:
            lines.append(json.dumps({"step": at, "epoch": 1, "selection_accuracy": accuracy}))
    kept = [line for line in lines if "validation_loss" not in line]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in kept))
    return folder


def test_a_fine_tuning_has_a_forecast_and_a_score(tmp_path: Path) -> None:
    folder = finetuning_at(tmp_path / "finetune", 610)
    lock = held(folder)
    found = status(folder)
    assert (found.state, found.step, found.steps) == ("running", 610, STEPS)
    assert found.left_s == pytest.approx(195)
    assert found.forecast is not None
    assert found.score == Score(selection=(600, 0.7), best=(400, 0.75), test=None, chance=0.25)
    text = "\n".join(as_text(found))
    assert (
        "accuracy     selection 70.0 % at step 600, 75.0 % at best, step 400, chance 25.0 %" in text
    )
    assert "held out" not in text
    os.close(lock)
    (folder / "results" / "finetune.json").write_text('{"test_accuracy": 0.66}')
    found = status(folder)
    assert (found.state, found.forecast) == ("finished", None)
    assert "test 66.0 %, chance 25.0 %" in "\n".join(as_text(found))
    assert json.loads(as_json(found))["score"]["test"] == 0.66


def test_a_fine_tuning_has_no_score_before_it_read_any(tmp_path: Path) -> None:
    found = status(finetuning_at(tmp_path / "finetune", 100))
    assert (found.score, found.state) == (None, "dead")
    assert not any(line.startswith("accuracy") for line in as_text(found))


def test_the_steps_that_a_fine_tuning_passed_over_are_counted(tmp_path: Path) -> None:
    folder = finetuning_at(tmp_path / "finetune", 100)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 110, "loss": 2.0, "nonfinite": 2, "skipped": 2, "time_s": 55.0}\n')
    # It writes no incidents.jsonl to point to.
    assert status(folder).troubles == ["2 steps were not finite and passed over"]


def test_a_fine_tuning_that_has_not_begun_is_refused(tmp_path: Path) -> None:
    folder = finetuning_at(tmp_path / "finetune", 0)
    (folder / "results" / "schedule.json").unlink()
    with pytest.raises(ValueError, match=r"not begun \(no schedule.json\); give its command again"):
        status(folder)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            None,
            r"no config.json\); give .* `toto pretrain --out` or `toto finetune --out` made",
        ),
        (
            "TokenizerTraining",
            "is a run of TokenizerTraining; give one of `toto pretrain` or `toto finetune`",
        ),
    ],
)
def test_other_folders_are_refused(kind: str | None, message: str, tmp_path: Path) -> None:
    if kind:
        (tmp_path / "config.json").write_text(json.dumps({"kind": kind, "config": {}}))
    with pytest.raises(ValueError, match=message):
        status(tmp_path)
