"""A fine-tuning that was killed, stopped or shared out ends as the one that was left alone."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from made_labelled import losses, probes, tiny, weights_sha256, write_labelled, write_run
from made_ranks import over_ranks
from toto.jobs import evaluation
from toto.jobs.finetune import Finetune
from toto.jobs.training import StoppedError
from toto.runtime.devices import REQUEUE_CODE
from toto.runtime.parallel import Parallel
from toto.train.augmentation import AugmentationConfig
from toto.train.mixing import MixingConfig

pytestmark = pytest.mark.faults
MAE: dict[str, Any] = {
    "augmentation": AugmentationConfig(crop_area=(0.3, 1.0), flip=0.5, operations=2, erase=0.25),
    "mixing": MixingConfig(mixup=0.8, cutmix=1.0),
    "label_smoothing": 0.1,
    "drop_path": 0.3,
}
CRASHES = {
    "before_write": "checkpoint.before_write:1",
    "before_commit": "checkpoint.before_commit:2",
    "after_rename": "checkpoint.after_rename:2",
    "before_rename": "checkpoint.before_rename:3",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_labelled(folder / "shards")
    write_run(folder / "run")
    return folder


def job(made: Path, protocol: str) -> Finetune:
    """Everything that is drawn is drawn: mixing and dropping in one, augmentation in both."""
    changes = {"save_every": 3, "epochs": 4}
    if protocol == "whole":
        return tiny(made / "run", made / "shards", **changes, **MAE)
    stopped = {"augmentation": MAE["augmentation"], "drop_path": 0.3}
    return probes(made / "run", made / "shards", **changes, **stopped)


def train(made: Path, protocol: str, out: Path, crash_at: str = "") -> None:
    """Run in this process: the target of a process of its own, when it has to die."""
    torch.set_num_threads(1)
    os.environ["TOTO_CRASH_AT"] = crash_at
    try:
        job(made, protocol).run(out)
    finally:
        del os.environ["TOTO_CRASH_AT"]


@pytest.fixture(scope="module")
def unbroken(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for protocol in ("whole", "stop-gradient"):
        found[protocol] = tmp_path_factory.mktemp("unbroken") / "out"
        train(made, protocol, found[protocol])
    return found


def assert_same_end(out: Path, unbroken: Path) -> None:
    assert losses(out) == losses(unbroken)
    assert weights_sha256(out) == weights_sha256(unbroken)
    for name in ("predictions", "finetune"):
        ours, theirs = (
            json.loads((folder / "results" / f"{name}.json").read_text())
            for folder in (out, unbroken)
        )
        assert ours == theirs


@pytest.mark.parametrize("protocol", ["whole", "stop-gradient"])
@pytest.mark.parametrize("crash", sorted(CRASHES))
def test_a_killed_run_ends_as_the_unbroken_one(
    made: Path, unbroken: dict[str, Path], tmp_path: Path, protocol: str, crash: str
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toto.jobs.finetuning", "toto.recipes"])
    child = context.Process(target=train, args=(made, protocol, tmp_path / "out", CRASHES[crash]))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out" / "results" / "finetune.json").exists()
    train(made, protocol, tmp_path / "out")
    assert_same_end(tmp_path / "out", unbroken[protocol])


def test_sigterm_saves_and_the_same_command_goes_on(
    made: Path, unbroken: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toto.jobs import finetuning

    taken = finetuning.Watch.note

    def note(self: Any, step: Any, progress: Any) -> None:
        taken(self, step, progress)
        if step.number == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(finetuning.Watch, "note", note)
        with pytest.raises(StoppedError, match="stopped at step 5 of 14 and saved in") as stopped:
            train(made, "whole", tmp_path / "out")
    assert stopped.value.exit_code == REQUEUE_CODE
    train(made, "whole", tmp_path / "out")
    assert_same_end(tmp_path / "out", unbroken["whole"])


def share(made: Path, protocol: str, out: Path, strategy: str, accumulate: int) -> None:
    """One rank's part; 9 and 7 clips are 5 and 4 groups, which ranks do not share evenly."""
    evaluation.TOGETHER = 2
    job(made, protocol).run(out, Parallel(strategy=strategy, accumulate=accumulate))


@pytest.mark.parametrize(
    ("protocol", "strategy"),
    [("whole", "ddp"), ("whole", "fsdp"), ("stop-gradient", "ddp"), ("stop-gradient", "fsdp")],
)
def test_two_ranks_train_as_one(
    made: Path, unbroken: dict[str, Path], tmp_path: Path, protocol: str, strategy: str
) -> None:
    over_ranks(2, share, made, protocol, tmp_path / "out", strategy, 1)
    ours, theirs = losses(tmp_path / "out"), losses(unbroken[protocol])
    assert [line[:2] for line in ours] == [line[:2] for line in theirs]
    for mine, alone in zip(ours, theirs, strict=True):
        # Sums of 4 clips and of 2 + 2 round differently, and 14 steps carry that on.
        tolerance = 1e-3 if mine[1] == "grad_norm" else 1e-5
        found, expected = float.fromhex(mine[2]), float.fromhex(alone[2])
        assert found == pytest.approx(expected, rel=tolerance, abs=1e-7), mine[:2]
    first, second = (
        json.loads((folder / "results" / "predictions.json").read_text())
        for folder in (tmp_path / "out", unbroken[protocol])
    )
    assert first == second


def test_two_ranks_go_on_where_one_was_killed(
    made: Path, unbroken: dict[str, Path], tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    crash = CRASHES["before_rename"]
    child = context.Process(target=train, args=(made, "whole", tmp_path / "out", crash))
    child.start()
    child.join(120)
    over_ranks(2, share, made, "whole", tmp_path / "out", "fsdp", 1)
    ours, theirs = losses(tmp_path / "out"), losses(unbroken["whole"])
    assert len(ours) == len(theirs)
    for mine, alone in zip(ours, theirs, strict=True):
        if mine[1] == "loss":
            found, expected = float.fromhex(mine[2]), float.fromhex(alone[2])
            assert found == pytest.approx(expected, rel=1e-5)


def test_the_command_stops_with_the_code_to_queue_it_again(made: Path, tmp_path: Path) -> None:
    fields = ["--epochs", "4000", "--precision", "fp32", "--task.name", "shade"]
    command = [sys.executable, "-m", "toto", "finetune", "tiny", "--task.classes", "3", *fields]
    paths = {"run-folder": made / "run", "shards": made / "shards", "out": tmp_path / "out"}
    for name, path in paths.items():
        command += [f"--{name}", str(path)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        metrics = tmp_path / "out" / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.read_bytes()):
            time.sleep(0.05)
        process.terminate()
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == REQUEUE_CODE, said
    assert "the same command goes on from there" in said.splitlines()[-1]
