"""What some number of ranks saved, any other number reads, bit for bit, and saves again alike."""

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from made_runs import newest, state_sha256
from torch import nn

from made_ports import free_port
from toto.jobs.training import Training
from toto.runtime import checkpoint, state
from toto.runtime.devices import distributed
from toto.runtime.folder import RunFolder
from toto.runtime.parallel import Parallel

pytestmark = pytest.mark.faults
HOPS = [
    (1, Parallel(strategy="none")),
    (2, Parallel(strategy="fsdp")),
    (4, Parallel(strategy="fsdp")),
    (1, Parallel(strategy="none")),
    (4, Parallel(strategy="hsdp", replicas=2)),
    (2, Parallel(strategy="ddp")),
    (3, Parallel(strategy="fsdp")),
    (1, Parallel(strategy="none")),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A config."""

    seed: int = 0


def network() -> nn.Sequential:
    """Rows that no number of ranks divides: 7, 5, 3 and 1 of them, so that some ranks have none."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 7), nn.LayerNorm(7)),
        nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)),
        nn.Linear(3, 1),
    )


def hop(out: Path, world: int, rank: int, port: int, parallel: Parallel, steps: int) -> None:
    """Resume, take steps, and save at a step that is one higher."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with distributed() as ranks:
        net, place = network(), torch.device("cpu")
        blocks: list[nn.Module] = [net[0], net[1]]
        trained = parallel.spread(net, blocks, ranks=ranks, place=place)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        if rank == 0:
            folder = RunFolder.create(out, Job(), tensorboard=False)
        else:
            folder = RunFolder(out, writing=False, tensorboard=False)
        with folder:
            training = Training(
                folder=folder, config=Job(), model=net, optimizer=optimizer, ranks=ranks, seed=3
            )
            with training:
                done = training.resume()
                (out / f"random-{done}-{rank}").write_text(str(torch.rand(3).tolist()))
                for _ in range(steps):
                    trained(torch.ones(2, 6)).square().sum().backward()
                    optimizer.step()
                    optimizer.zero_grad()
                training.save(done + 1, background=True)


def start(out: Path, world: int, parallel: Parallel, steps: int = 0) -> None:
    port = free_port()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toto.jobs.pretraining", "toto.recipes"])
    ranks = [
        context.Process(target=hop, args=(out, world, rank, port, parallel, steps))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in ranks] == [0] * world


def test_weights_and_moments_pass_through_any_number_of_ranks(tmp_path: Path) -> None:
    out = tmp_path / "run"
    hops = HOPS if os.environ.get("TOTO_FAULTS") else HOPS[:4]
    start(out, 1, Parallel(strategy="none"), steps=3)
    wanted = state_sha256(newest(out))
    for number, (world, parallel) in enumerate(hops, start=2):
        start(out, world, parallel)
        path = newest(out)
        assert path.name == f"step-{number:07d}"
        assert state_sha256(path) == wanted, (world, parallel)
        sharded = parallel.strategy in ("fsdp", "hsdp")
        assert (path / "model.rank-00001.safetensors").exists() == sharded
        assert (path / "model.safetensors").exists() != sharded
        saved = checkpoint.load(path, config_digest=None)["random"]
        assert sorted(saved) == [f"rank-{r:05d}-of-{world:05d}/cpu" for r in range(world)]


def test_blocks_trained_apart_are_the_whole_that_was_trained(tmp_path: Path) -> None:
    """The same three steps on one rank, and on two after one: the same weights but for rounding."""
    start(tmp_path / "alone", 1, Parallel(strategy="none"), steps=3)
    start(tmp_path / "both", 1, Parallel(strategy="none"), steps=1)
    start(tmp_path / "both", 2, Parallel(strategy="fsdp"), steps=2)
    one, other = (
        checkpoint.load(newest(tmp_path / name), config_digest=None) for name in ("alone", "both")
    )
    for group in ("model", "optimizer"):
        assert one[group].keys() == other[group].keys()
        for name, tensor in one[group].items():
            torch.testing.assert_close(other[group][name], tensor, rtol=1e-5, atol=1e-6)


def test_each_rank_gets_its_own_random_state_back_or_one_of_seed_and_step(tmp_path: Path) -> None:
    out = tmp_path / "run"
    start(out, 2, Parallel(strategy="ddp"))
    start(out, 2, Parallel(strategy="ddp"))
    path = newest(out)
    saved = checkpoint.load(path, config_digest=None)["random"]
    start(out, 2, Parallel(strategy="ddp"))
    for rank in range(2):
        torch.set_rng_state(saved[f"rank-{rank:05d}-of-00002/cpu"])
        assert (out / f"random-2-{rank}").read_text() == str(torch.rand(3).tolist())
    start(out, 1, Parallel(strategy="none"))
    state.draw_anew(3, 3, 0)
    assert (out / "random-3-0").read_text() == str(torch.rand(3).tolist())
