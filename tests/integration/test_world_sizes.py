"""A run may go on with another number of ranks: the same batches, and the same losses."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from made_ranks import counting_shards, over_ranks
from toto.jobs.pretrain import Pretrain
from toto.jobs.pretraining import Pretraining
from toto.jobs.training import StoppedError
from toto.models.flops import model_cost
from toto.recipes import PRETRAIN
from toto.runtime.devices import Interruption, distributed
from toto.runtime.parallel import Parallel
from toto.types import Batch

PHASE = 50 if os.environ.get("TOTO_FAULTS") else 5
"""Steps that a number of ranks takes before the next goes on."""
WORLDS = (1, 2, 4, 1)
SOURCES = ("clips/pretrain", "moving-digits/pretrain", "moving-digits/selection")
Run = tuple[NDArray[np.int64], NDArray[np.float64]]
"""The global batch of every step, and every step's loss."""


class StopAfter(Interruption):
    """Asks a run to stop when it has taken so many steps; every step looks at it once."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @property
    def signal(self) -> int:
        self.left -= 1
        return signal.SIGTERM if self.left == 0 else 0


def job(shards: str) -> Pretrain:
    steps = len(WORLDS) * PHASE
    return replace(PRETRAIN["tiny"](), shards=shards, steps=steps, precision="fp32")


def train(shards: str, out: str, steps: int, parallel: Parallel) -> None:
    """Take so many steps on this rank, and write down the batches it read."""
    with distributed() as ranks:
        part = Pretraining(job(shards), Path(out), ranks, parallel)
        read, batches = [], part.loader.batches

        def noted(**options: int) -> Iterator[Batch]:
            for batch in batches(**options):
                read.append(batch.ids.numpy())
                yield batch

        part.loader.batches = noted
        with suppress(StoppedError):
            part.train(StopAfter(steps))
        # What DDP reads before the first step, to lay out its buckets, is not among them.
        ids = np.stack(read[-steps:]).reshape(steps, -1, read[0].shape[1])
        np.save(Path(out) / f"batches-{ranks.rank}.npy", ids)


def run(shards: Path, out: Path, worlds: tuple[int, ...], *, steps: int, parallel: Parallel) -> Run:
    """Take so many steps with each number of ranks in turn."""
    batches = []
    for world in worlds:
        over_ranks(world, train, str(shards), str(out), steps, parallel)
        shares = [np.load(out / f"batches-{rank}.npy") for rank in range(world)]
        batches.append(np.concatenate(shares, axis=1))
    return np.concatenate(batches), np.array(losses(out))


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return counting_shards(tmp_path_factory.mktemp("counting") / "shards", *SOURCES)


@pytest.fixture(scope="module")
def unbroken(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    return run(shards, out, (1,), steps=len(WORLDS) * PHASE, parallel=Parallel())


@pytest.mark.parametrize(
    "parallel",
    [Parallel(strategy="ddp"), Parallel(strategy="fsdp")],
    ids=lambda parallel: parallel.strategy,
)
def test_other_numbers_of_ranks_go_on_with_the_same_run(
    parallel: Parallel, shards: Path, unbroken: Run, tmp_path: Path
) -> None:
    batches, found = run(shards, tmp_path / "run", WORLDS, steps=PHASE, parallel=parallel)
    assert np.array_equal(batches, unbroken[0])
    assert len(found) == len(WORLDS) * PHASE
    assert found[-1] < 0.95 * found[0]
    np.testing.assert_allclose(found, unbroken[1], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_four_ranks_that_stopped_go_on_bit_for_bit(
    strategy: Literal["ddp", "fsdp"], shards: Path, tmp_path: Path
) -> None:
    parallel, steps = Parallel(strategy=strategy), len(WORLDS) * PHASE
    _, left_alone = run(shards, tmp_path / "one", (4,), steps=steps, parallel=parallel)
    _, stopped = run(shards, tmp_path / "two", (4, 4), steps=steps // 2, parallel=parallel)
    assert stopped.tolist() == left_alone.tolist()


@pytest.fixture(scope="module")
def paper_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made tokens under the names of the paper's mixture, as many codes as its tokenizer has."""
    names = [source.name for source in PRETRAIN["1b"]().mixture]
    folder = tmp_path_factory.mktemp("paper") / "shards"
    return counting_shards(folder, *names, codes=8192, frames=17)


def test_1b_of_less_width_takes_three_steps_on_two_ranks(
    paper_shards: Path, tmp_path: Path
) -> None:
    narrow = ["--model.width", "32", "--model.heads", "2", "--model.mlp-width", "86"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [
            *(sys.executable, *launcher, "-m", "toto", "pretrain", "1b", *narrow),
            *("--strategy", "fsdp", "--accumulate", "2", "--activation-checkpointing"),
            *("--batch", "4", "--steps", "3", "--warmup", "1", "--log-every", "1"),
            *("--precision", "fp32", "--shards", str(paper_shards), "--out", str(tmp_path / "run")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == pytest.approx([np.log(8195)] * 3, rel=0.02)
    model = replace(PRETRAIN["1b"]().model, width=32, heads=2, mlp_width=86)
    parameters = sum(parameter.numel() for parameter in model.build().parameters())
    announced = [line for line in done.stderr.splitlines() if " tokens a step, " in line]
    flops = 4 * 258 * model_cost(model).train_flops_a_token
    assert announced == [
        f"{4 * 258:,} tokens a step, {parameters:,} parameters, {flops:.2e} FLOPs a step; "
        "2 ranks by fsdp, 1 sequences at once in fp32"
    ]
    assert done.stderr.count(" GB (weights ") == 1
