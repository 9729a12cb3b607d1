"""Ranks that train together: one bad loss stops all of them, one that hangs is noticed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import test_resume
import torch

from made_ports import free_port
from toto.recipes import PRETRAIN
from toto.runtime import checkpoint
from toto.runtime.watchdog import HUNG_CODE

pytestmark = pytest.mark.faults
shards = test_resume.shards
STEPS = 8
POISONED = """
# Trains; at step 5 the loss of the last rank alone is not a number.
import math, os, sys
from dataclasses import replace
import toto.jobs.pretraining

whole, calls = toto.jobs.pretraining.objective_of, 0

def poisoned(*arguments):
    objective = whole(*arguments)
    last = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1
    def loss(model, batch):
        global calls
        calls += 1
        return objective.loss(model, batch) * (math.nan if last and calls == 5 else 1)
    return replace(objective, loss=loss)

# What comes before the loop, such as the pass that settles DDP's buckets, is no step.
steps = toto.jobs.pretraining.train_steps

def from_here(*arguments, **more):
    global calls
    calls = 0
    return steps(*arguments, **more)

toto.jobs.pretraining.objective_of, toto.jobs.pretraining.train_steps = poisoned, from_here
from toto.cli import main
main()
"""


def launch(
    world: int, start: list[str], shards: Path, out: Path, **options: object
) -> list[subprocess.Popen[str]]:
    """Start `toto pretrain tiny` on so many ranks."""
    port = free_port()
    fields = {"shards": shards, "out": out, "precision": "fp32", **options}
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    if world > 1:
        environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [
                *(sys.executable, *start, "pretrain", "tiny"),
                *(f"--{name.replace('_', '-')}={value}" for name, value in fields.items()),
            ],
            env=environ | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def test_a_loss_that_is_no_number_on_one_rank_passes_the_step_over_on_all(
    shards: Path, tmp_path: Path
) -> None:
    for world in (1, 2):
        ranks = launch(world, ["-c", POISONED], shards, tmp_path / str(world), steps=STEPS)
        said = [rank.communicate(timeout=120)[1] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0] * world, said
    for world in ("1", "2"):
        lines = (tmp_path / world / "incidents.jsonl").read_text().splitlines()
        (incident,) = map(json.loads, lines)
        assert (incident["step"], incident["what"], incident["taken"]) == (5, "nonfinite", False)
        # The clips of the whole batch, since nobody knows whose it was.
        assert sum(map(len, incident["batch"].values())) == PRETRAIN["tiny"]().batch
    one, two = (
        checkpoint.load(tmp_path / world / f"checkpoints/step-{STEPS:07d}", config_digest=None)
        for world in ("1", "2")
    )
    for name, tensor in one["model"].items():
        torch.testing.assert_close(two["model"][name], tensor, rtol=1e-4, atol=1e-5)


def test_a_rank_that_was_stopped_is_named_by_the_one_that_waits(
    shards: Path, tmp_path: Path
) -> None:
    out, never = tmp_path / "run", 100_000
    often = {"steps": never, "save_every": never, "validate_every": never, "hung_after_s": 4}
    ranks = launch(2, ["-m", "toto"], shards, out, **often)
    try:
        metrics, deadline = out / "metrics.jsonl", time.monotonic() + 120
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < 3:
            assert ranks[0].poll() is None, ranks[0].communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ranks[1].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        said = ranks[0].communicate(timeout=90)[1]
        took_s = time.monotonic() - began
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[0].returncode == HUNG_CODE
    assert 4 <= took_s < 60
    (line,) = [line for line in said.splitlines() if "hangs" in line]
    assert "rank 0 of 2 hangs: no sign of life for" in line
    assert line.endswith("; no stacks from rank 1: stopped, or gone")
    # In a step, or in what the ranks tell each other between two of them.
    assert "toto/jobs/pretraining.py" in (out / "stacks" / "rank-0.txt").read_text()
    assert not (out / "stacks" / "rank-1.txt").exists()


FLIPPED = """
# Trains; after step 3 or 4 one bit of the last rank's weights or moments is turned over.
import os, sys, torch
what = sys.argv.pop(1)
step, taken = torch.optim.AdamW.step, 0

def then_flip(self, *arguments, **more):
    global taken
    result = step(self, *arguments, **more)
    taken += 1
    # A moment is compared before the next step, which would carry it into the weight.
    last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    if last and taken == (3 if what == "weight" else 4):
        weight = self.param_groups[0]["params"][0]
        tensor = weight.data if what == "weight" else self.state[weight][what]
        tensor.view(torch.int32).view(-1)[7] ^= 1
    return result

torch.optim.AdamW.step = then_flip
from toto.cli import main
main()
"""


@pytest.mark.parametrize("what", [pytest.param("weight", marks=pytest.mark.slow), "exp_avg_sq"])
def test_a_bit_that_turned_over_on_one_rank_is_found_before_it_is_saved(
    what: str, shards: Path, tmp_path: Path
) -> None:
    world, options = (3, {"batch": 6}) if what == "weight" else (2, {})
    every = {"steps": STEPS, "save_every": 4, "health.replicas_every": 4, **options}
    ranks = launch(world, ["-c", FLIPPED, what], shards, tmp_path / "run", **every)
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2] * world, said
    for words in said:
        (line,) = [line for line in words.splitlines() if line.startswith("toto: step 4: ")]
        who = "rank 2 holds other values" if world == 3 else "ranks 0 and 1 hold different values"
        assert f"toto: step 4: {who} of " in line
        assert ("/exp_avg_sq" in line) == (what == "exp_avg_sq")
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))
