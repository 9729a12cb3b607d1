"""Two processes that share each batch train as one does."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from toto.data.layout import Layout
from toto.data.loader import Loader
from toto.data.token_set import TokenSet
from toto.recipes import PRETRAIN

OPTIONS = ["--precision", "fp32", "--steps", "12", "--save-every", "6", "--validate-every", "6"]


def pretrain(shards: Path, out: Path, *, ranks: int) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run(
        [
            *(sys.executable, *(launcher if ranks > 1 else [])),
            *("-m", "toto", "pretrain", "tiny", *OPTIONS),
            *("--shards", str(shards), "--out", str(out)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_see_together_what_one_sees(grey_shards: Path, accumulate: int) -> None:
    job = PRETRAIN["tiny"]()
    shards = [TokenSet(grey_shards / source.name) for source in job.mixture]
    layout = Layout(job.layout, codes=16, frame_tokens=16)
    loader = Loader(shards, [source.weight for source in job.mixture], layout, seed=job.seed)
    alone = loader.batches(batch=job.batch, first_step=3)
    ranks = [
        loader.batches(batch=job.batch, first_step=3, accumulate=accumulate, rank=rank, world=2)
        for rank in range(2)
    ]
    for whole in islice(alone, 5):
        parts = [next(rank).ids for rank in ranks for _ in range(accumulate)]
        assert torch.equal(torch.cat(parts), whole.ids)


@pytest.fixture(scope="module")
def runs(
    grey_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple[Path, subprocess.CompletedProcess[str]]]:
    """The same run on one rank and on two."""
    found = {}
    for ranks in (1, 2):
        out = tmp_path_factory.mktemp(f"ranks-{ranks}") / "run"
        found[ranks] = out, pretrain(grey_shards, out, ranks=ranks)
        assert found[ranks][1].returncode == 0, found[ranks][1].stderr
    return found


def test_losses_of_two_ranks_are_those_of_one(
    runs: dict[int, tuple[Path, subprocess.CompletedProcess[str]]],
) -> None:
    one, two = metrics(runs[1][0]), metrics(runs[2][0])
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for name in ("loss", "validation_loss", "grad_norm"):
        ours = [line[name] for line in two if name in line]
        # Sums of 4 sequences and of 2 + 2 round differently, and 12 steps carry that on.
        assert ours == pytest.approx([line[name] for line in one if name in line], abs=1e-4)
        assert len(ours) == (2 if name == "validation_loss" else 12)


def test_only_the_first_rank_writes_and_speaks(
    runs: dict[int, tuple[Path, subprocess.CompletedProcess[str]]],
) -> None:
    out, done = runs[2]
    steps = [line["step"] for line in metrics(out) if "loss" in line]
    assert steps == list(range(1, 13))
    assert [path.name for path in out.glob("env*.json")] == ["env.json"]
    assert len(list((out / "tensorboard").iterdir())) == 1
    assert done.stdout.count("validation loss") == 1
    assert done.stderr.count("pretrain ") == 1


def test_two_ranks_leave_a_finished_run_alone(
    runs: dict[int, tuple[Path, subprocess.CompletedProcess[str]]], grey_shards: Path
) -> None:
    out, first = runs[2]
    before = metrics(out)
    again = pretrain(grey_shards, out, ranks=2)
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert metrics(out) == before


@pytest.mark.slow
def test_two_ranks_go_on_from_the_newest_whole_checkpoint(
    runs: dict[int, tuple[Path, subprocess.CompletedProcess[str]]], grey_shards: Path
) -> None:
    out, _ = runs[2]
    before = metrics(out)
    (out / "results" / "pretrain.json").unlink()
    newest = out / "checkpoints" / "step-0000012" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    resumed = pretrain(grey_shards, out, ranks=2)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.count("set aside a damaged checkpoint") == 1
    losses = [
        [line["loss"] for line in lines if "loss" in line] for lines in (before, metrics(out))
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
