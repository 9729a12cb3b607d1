"""A disk that is full at any write of a run: one clear error, and an exact end once there is room.

Every file of a run is written through `toto.runtime.durable`: checkpoints, metrics, results.
"""

import os
import re
from pathlib import Path

import pytest
import torch
from made_runs import Ranks, Start, full_disk, losses, newest, run, state_sha256, tiny, write_noise

from toto.jobs.pretrain import Pretrain
from toto.runtime import checkpoint, checkpoint_record, durable

pytestmark = pytest.mark.faults
EVERY = {"": 9, "ci": 3, "nightly": 1}[os.environ.get("TOTO_FAULTS", "")]
"""Each so many-th write of a run is tried."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise") / "shards"
    write_noise(folder)
    return folder


def job(shards: Path) -> Pretrain:
    return tiny(shards, steps=8, save_every=2, validate_every=4)


@pytest.fixture(scope="module")
def unbroken(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    run(Start(job=job(shards), out=out))
    return out


def assert_nothing_half_written_counts(out: Path) -> None:
    for _, path in checkpoint_record.steps(out / "checkpoints"):
        checkpoint.verify(path)


def test_the_kth_write_of_a_run_finds_the_disk_full(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    alone = tmp_path / "unbroken"
    with monkeypatch.context() as patch:
        counting = full_disk(-1)
        patch.setattr(durable, "os", counting)
        job(shards).run(alone)
    assert counting.made > 30  # four checkpoints of five files, eight lines, config, results
    tried = range(1, counting.made + 1, EVERY)
    for k in tried:
        out = tmp_path / f"run-{k}"
        with monkeypatch.context() as patch:
            patch.setattr(durable, "os", full_disk(k))
            with pytest.raises(durable.DiskFullError) as caught:
                job(shards).run(out)
        message = str(caught.value)
        assert re.search(r"the disk or the quota is full \(\d+ bytes needed, \d+ free\)", message)
        assert str(out) in message
        assert "\n" not in message
        assert_nothing_half_written_counts(out)
        job(shards).run(out)  # there is room again
        assert losses(out) == losses(alone), k
        assert state_sha256(newest(out)) == state_sha256(newest(alone)), k
        assert not list((out / "checkpoints").glob("*tmp*"))
    print(f"\n{len(tried)} of {counting.made} writes of a run found the disk full")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("full_at", {9: [6], 3: [6, 9], 1: range(3, 13)}[EVERY])
def test_one_of_two_ranks_finds_the_disk_full(
    shards: Path, unbroken: Path, tmp_path: Path, rank: int, full_at: int
) -> None:
    start = Start(job=job(shards), out=tmp_path / "run", crash_rank=rank, full_at=full_at)
    ranks = Ranks(start)
    try:
        codes = ranks.join()
        said = [ranks.said(each) for each in range(2)]
    finally:
        ranks.kill()
    assert codes[rank] == 1, said
    assert codes[1 - rank] not in (0, None), said
    complaints = [line for line in said[rank].splitlines() if line.startswith("DiskFullError")]
    assert len(complaints) == 1
    assert_nothing_half_written_counts(start.out)
    run(Start(job=job(shards), out=start.out))
    assert losses(start.out) == losses(unbroken)
    assert state_sha256(newest(start.out)) == state_sha256(newest(unbroken))
