"""A signal to one rank stops all at one step; a run goes on from another's checkpoint."""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_runs import Ranks, Start, losses, newest, run, state_sha256, tiny, write_noise

from toto.models.llama import LlamaConfig
from toto.runtime import checkpoint, checkpoint_record
from toto.runtime.devices import REQUEUE_CODE

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise") / "shards"
    write_noise(folder)
    return folder


@pytest.mark.parametrize(
    ("rank", "number", "code"),
    [(1, signal.SIGUSR1, REQUEUE_CODE), (0, signal.SIGTERM, REQUEUE_CODE), (1, signal.SIGINT, 130)],
)
def test_a_signal_to_one_rank_saves_on_all_at_one_step(
    shards: Path, tmp_path: Path, rank: int, number: int, code: int
) -> None:
    steps = 400
    job = tiny(shards, steps=steps, save_every=steps, validate_every=steps)
    start = Start(job=job, out=tmp_path / "run")
    ranks = Ranks(start)
    try:
        assert ranks.wait(lambda: ranks.phase(rank)[0] == "a step")
        os.kill(ranks.processes[rank].pid or 0, number)
        if number != signal.SIGINT:
            os.kill(ranks.processes[rank].pid or 0, number)  # a second one changes nothing
        codes = ranks.join()
        said = [ranks.said(each) for each in range(2)]
    finally:
        ranks.kill()
    assert codes == [code, code], said
    stops = [re.search(r"stopped at step (\d+) of 400 and saved", text) for text in said]
    assert all(stops), said
    (stopped,) = {int(found[1]) for found in stops if found}
    assert [step for step, _ in checkpoint_record.steps(start.out / "checkpoints")] == [stopped]
    checkpoint.verify(newest(start.out))
    assert max(step for step, _ in losses(start.out)) == stopped < steps


def test_a_stopped_run_of_two_ranks_ends_as_the_unbroken_one(shards: Path, tmp_path: Path) -> None:
    job = tiny(shards, steps=30, save_every=8, validate_every=15)
    start = Start(job=job, out=tmp_path / "run")
    ranks = Ranks(start)
    try:
        assert ranks.wait(lambda: ranks.phase(0)[0] == "a step")
        os.kill(ranks.processes[1].pid or 0, signal.SIGTERM)
        assert ranks.join() == [REQUEUE_CODE] * 2
    finally:
        ranks.kill()
    run(start)
    unbroken = replace(start, out=tmp_path / "unbroken")
    run(unbroken)
    assert losses(start.out) == losses(unbroken.out)
    assert state_sha256(newest(start.out)) == state_sha256(newest(unbroken.out))


@pytest.mark.slow
def test_torchrun_reports_the_code_to_queue_the_run_again(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "toto", "pretrain", "tiny", "--precision", "fp32", "--steps", "4000"),
        *("--save-every", "4000", "--shards", str(shards), "--out", str(out)),
    ]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)
    metrics = out / "metrics.jsonl"
    while running.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        pass
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGUSR1)
    _, said = running.communicate(timeout=120)
    assert re.search(rf"exitcode\s*:\s*{REQUEUE_CODE}", said), said[-3000:]
    checkpoint.verify(newest(out))


@pytest.fixture(scope="module")
def origin(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("origin") / "run"
    tiny(shards, steps=6, save_every=2, validate_every=6).run(out)
    return out


def test_a_branch_begins_with_weights_and_moments_of_another_run(
    origin: Path, shards: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    # At a learning rate of 0 weights stay as they were, and the moments have one more step.
    job = tiny(shards, steps=1, warmup=0, lr=0.0, seed=5, branch=f"{origin}@4")
    job.run(tmp_path / "run")
    there = checkpoint.load(origin / "checkpoints" / "step-0000004", config_digest=None)
    here = checkpoint.load(newest(tmp_path / "run"), config_digest=None)
    for name, tensor in there["model"].items():
        assert torch.equal(here["model"][name], tensor)
    assert {v.item() for k, v in there["optimizer"].items() if k.endswith("/step")} == {4}
    assert {v.item() for k, v in here["optimizer"].items() if k.endswith("/step")} == {5}
    assert losses(tmp_path / "run")[0][0] == 1


def test_a_branch_resumes_from_its_own_checkpoint(
    origin: Path, shards: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    job = tiny(shards, steps=4, warmup=0, save_every=2, seed=5, branch=f"{origin}@6")
    job.run(tmp_path / "one")
    job.run(tmp_path / "two")
    (tmp_path / "two" / "results" / "pretrain.json").unlink()
    shutil.rmtree(newest(tmp_path / "two"))
    job.run(tmp_path / "two")
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    assert state_sha256(newest(tmp_path / "one")) == state_sha256(newest(tmp_path / "two"))


def test_branches_that_cannot_be(origin: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"branch 'runs/base' is not RUN@STEP, such as"):
        tiny(shards, branch="runs/base")
    with pytest.raises(ValueError, match=r"no checkpoint of step 5 \(it has: 4, 6\); give one of"):
        tiny(shards, branch=f"{origin}@5").run(tmp_path / "step")
    with pytest.raises(ValueError, match=r"is not a run folder \(no config.json\)"):
        tiny(shards, branch=f"{tmp_path}@5").run(tmp_path / "folder")
    model = LlamaConfig(vocab_size=19, width=64, depth=2, heads=2, mlp_width=64, context=258)
    wide = tiny(shards, branch=f"{origin}@6", model=model)
    with pytest.raises(
        ValueError, match=r"@6: \S+ is \(\S+ \d+\) in the checkpoint and \("
    ) as error:
        wide.run(tmp_path / "wide")
    assert "\n" not in str(error.value)
