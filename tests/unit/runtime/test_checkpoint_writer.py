"""Two ranks of one process, since writers agree by files alone."""

import errno
import itertools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from toto.runtime import checkpoint, checkpoint_commit, checkpoint_writer, durable
from toto.runtime.checkpoint_blocks import Block, files, take
from toto.runtime.checkpoint_commit import Retention
from toto.runtime.checkpoint_writer import Writer
from toto.runtime.devices import Ranks

WHOLE = torch.arange(35.0).view(7, 5)


def writers(
    folder: Path, *, launch: int = 1, timeout_s: float = 20, world: int = 2
) -> list[Writer]:
    return [
        Writer(
            folder,
            config_digest="d",
            retention=Retention(),
            ranks=Ranks(rank=rank, world=world),
            launch=launch,
            receipt_timeout_s=timeout_s,
        )
        for rank in range(world)
    ]


def tensors(rank: int, step: int = 1) -> dict[str, dict[str, torch.Tensor | Block]]:
    """Rows 0-3 are the first rank's, 4-6 the second's; a scalar is the same on both."""
    rows = slice(0, 4) if rank == 0 else slice(4, 7)
    block = Block(values=WHOLE[rows] + step, shape=(7, 5), offsets=(rows.start, 0))
    return {
        "model": {"rows": block, "scalar": torch.tensor(float(step))},
        "random": {f"rank-{rank}": Block.own(torch.full((3,), rank, dtype=torch.uint8))},
    }


def save(pair: list[Writer], step: int = 1) -> None:
    for rank, writer in enumerate(pair):
        writer.save(step, tensors(rank, step))


def settle(pair: list[Writer]) -> None:
    for writer in reversed(pair):
        writer.wait()


def test_two_ranks_write_one_checkpoint(tmp_path: Path) -> None:
    pair = writers(tmp_path)
    for step in (1, 2, 3):
        save(pair, step)
    settle(pair)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000002", "step-0000003"]
    path = tmp_path / "step-0000003"
    assert sorted(file.name for file in path.iterdir()) == [
        "commit.json",
        "model.rank-00000.safetensors",
        "model.rank-00001.safetensors",
        "model.safetensors",
        "random.rank-00000.safetensors",
        "random.rank-00001.safetensors",
    ]
    loaded = checkpoint.load(path, config_digest="d")
    assert torch.equal(loaded["model"]["rows"], WHOLE + 3)
    assert loaded["model"]["scalar"] == 3
    assert {name: value.tolist() for name, value in loaded["random"].items()} == {
        "rank-0": [0, 0, 0],
        "rank-1": [1, 1, 1],
    }


def test_any_region_is_read_from_the_blocks_that_hold_it(tmp_path: Path) -> None:
    pair = writers(tmp_path)
    save(pair)
    settle(pair)
    stored = checkpoint.stored(tmp_path / "step-0000001", config_digest="d")["model"]["rows"]
    assert stored.shape == (7, 5)
    for a, b in itertools.combinations(range(8), 2):
        for c, d in ((0, 5), (1, 3), (4, 5)):
            got = stored[(slice(a, b), slice(c, d))]
            assert torch.equal(got, WHOLE[a:b, c:d] + 1)
    assert stored[(slice(2, 2), slice(0, 5))].shape == (0, 5)


def test_what_is_written_is_what_was_there_when_save_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, write_new = threading.Event(), durable.write_new

    def wait_and_write(path: Path, data: bytes) -> None:
        assert may_write.wait(20)
        write_new(path, data)

    monkeypatch.setattr(durable, "write_new", wait_and_write)
    weight = torch.zeros(4)
    (writer,) = writers(tmp_path, world=1)
    writer.save(1, {"model": {"weight": weight}})
    weight += 1  # training goes on, and save did not wait for the disk
    may_write.set()
    writer.wait()
    loaded = checkpoint.load(tmp_path / "step-0000001", config_digest=None)
    assert loaded["model"]["weight"].tolist() == [0, 0, 0, 0]


def test_one_save_is_in_flight_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, write = 0, 0, checkpoint_writer.write_part

    def counted(*arguments: object, **options: object) -> object:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return write(*arguments, **options)  # type: ignore[arg-type]
        finally:
            running -= 1

    monkeypatch.setattr(checkpoint_writer, "write_part", counted)
    (writer,) = writers(tmp_path, world=1)
    for step in range(1, 8):
        writer.save(step, tensors(0, step) | {"random": {}, "model": {"w": torch.zeros(9)}})
    writer.wait()
    assert most == 1
    assert (tmp_path / "step-0000007").exists()


def full_at(k: int) -> Callable[..., int]:
    made, write = 0, os.write

    def counted(descriptor: int, data: bytes) -> int:
        nonlocal made
        made += 1
        if made == k:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    return counted


def test_a_full_disk_in_the_background_is_told_at_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (writer,) = writers(tmp_path, world=1)
    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "write", full_at(1))
        writer.save(1, {"model": {"w": torch.zeros(100)}})
        with pytest.raises(durable.DiskFullError, match=r"model.safetensors.*\d+ bytes needed"):
            writer.wait()
    assert isinstance(writer.error, durable.DiskFullError)
    assert not list(tmp_path.iterdir())


def test_what_one_rank_cannot_write_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = writers(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "write", full_at(1))
        pair[1].save(1, tensors(1))
        with pytest.raises(durable.DiskFullError):
            pair[1].wait()
    pair[0].save(1, tensors(0))
    with pytest.raises(OSError, match=r"rank 1 could not save: .*disk or the quota is full"):
        pair[0].wait()
    assert checkpoint.latest(tmp_path) is None


def test_a_rank_that_does_not_come_is_named(tmp_path: Path) -> None:
    first = writers(tmp_path, timeout_s=0.05)[0]
    first.save(1, tensors(0))
    with pytest.raises(TimeoutError, match=r"rank 1 has not written its part in 0 s; put the run"):
        first.wait()
    assert checkpoint.latest(tmp_path) is None


def test_the_end_does_not_wait_for_a_rank_that_is_gone(tmp_path: Path) -> None:
    first = writers(tmp_path, timeout_s=1000)[0]
    first.save(1, tensors(0))
    first.abandon()
    assert checkpoint.latest(tmp_path) is None
    assert "given up before rank 1 was done" in str(first.error)


def test_receipts_of_an_earlier_start_are_not_taken(tmp_path: Path) -> None:
    gone = writers(tmp_path, launch=1)[1]
    gone.save(1, tensors(1))
    gone.wait()
    first = writers(tmp_path, launch=2, timeout_s=0.2)[0]
    first.save(1, tensors(0))
    with pytest.raises(TimeoutError):
        first.wait()
    checkpoint_commit.sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_receipt_is_not_believed(tmp_path: Path) -> None:
    pair = writers(tmp_path)
    pair[1].save(1, tensors(1))
    pair[1].wait()
    (receipt,) = tmp_path.glob("*/receipt-00001.json")
    content = json.loads(receipt.read_text())
    content["files"]["model.rank-00001.safetensors"][1] += 1
    receipt.write_text(json.dumps(content, indent=1) + "\n")
    pair[0].save(1, tensors(0))
    with pytest.raises(OSError, match=r"receipt-00001.json is not what rank 1 wrote; check that"):
        pair[0].wait()


def test_blocks_that_do_not_make_up_the_whole_are_damage(tmp_path: Path) -> None:
    (alone,) = writers(tmp_path, world=1)
    alone.save(1, tensors(0))
    alone.wait()
    with pytest.raises(
        checkpoint.DamagedCheckpointError, match="has not all blocks of model tensor rows"
    ):
        checkpoint.load(tmp_path / "step-0000001", config_digest=None)


def test_the_same_tensors_give_the_same_bytes_each_time() -> None:
    # A header of two entries came out in either order.
    made = [dict(files(take(tensors(0)))) for _ in range(20)]
    assert all(made[0] == again for again in made)
