"""Single damages to a sharded checkpoint: all are found before a tensor reaches the model."""

import os
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from toto.jobs.training import Training
from toto.runtime import checkpoint, state
from toto.runtime.checkpoint_blocks import Block
from toto.runtime.checkpoint_commit import Retention
from toto.runtime.checkpoint_writer import Writer
from toto.runtime.devices import Ranks
from toto.runtime.folder import RunFolder

pytestmark = pytest.mark.faults
COUNT = {"": 60, "ci": 300, "nightly": 10_000}[os.environ.get("TOTO_FAULTS", "")]
SEED = int(os.environ.get("TOTO_FAULTS_SEED", "0"))
OLD, NEW = 4, 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A config."""

    seed: int = 0


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))


def in_halves(tensor: torch.Tensor, rank: int) -> torch.Tensor | Block:
    if tensor.ndim == 0:
        return tensor
    first = (len(tensor) + 1) // 2
    rows = slice(0, first) if rank == 0 else slice(first, len(tensor))
    offsets = (rows.start, *(0,) * (tensor.ndim - 1))
    return Block(values=tensor[rows], shape=tuple(tensor.shape), offsets=offsets)


def save_as_two_ranks(folder: RunFolder, training: Training, steps: list[int]) -> dict[int, float]:
    """Save random weights at each step, half a tensor a rank; one weight of each step."""
    pair = [
        Writer(
            folder.checkpoints,
            config_digest=training.config_digest,
            retention=Retention(),
            ranks=Ranks(rank=rank, world=2),
            launch=1,
        )
        for rank in range(2)
    ]
    marks = {}
    for step in steps:
        training.model(torch.randn(4, 6)).square().sum().backward()
        training.optimizer.step()
        groups = {
            "model": training.model.state_dict(),
            "optimizer": state.optimizer_tensors(training.optimizer, training.model),
        }
        for rank in reversed(range(2)):
            random_states = {
                f"rank-{rank:05d}-of-00002/{kind}": Block.own(value)
                for kind, value in state.random_tensors().items()
            }
            parts = {
                group: {name: in_halves(tensor, rank) for name, tensor in named.items()}
                for group, named in groups.items()
            }
            pair[rank].save(step, {**parts, "random": random_states})
        for writer in reversed(pair):
            writer.wait()
        marks[step] = mark(training.model)
    return marks


def mark(model: nn.Module) -> float:
    return sum(parameter.double().sum().item() for parameter in model.parameters())


def damage(file: Path, kind: str, draw: random.Random) -> str:
    """Do one damage to a file, or to it and another; returns the kind."""
    raw = file.read_bytes()
    if kind == "flip":
        data = bytearray(raw)
        data[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
    elif kind == "truncate":
        os.truncate(file, draw.randrange(len(raw)))
    elif kind == "remove":
        file.unlink()
    else:
        # With another of this checkpoint, or with the same of the step before.
        siblings = [path for path in file.parent.iterdir() if path != file]
        other = draw.choice([*siblings, file.parent.with_name(f"step-{OLD:07d}") / file.name])
        theirs = other.read_bytes()
        assert theirs != raw
        if other.parent == file.parent:
            other.write_bytes(raw)
        file.write_bytes(theirs)
    return kind


def test_every_single_damage_is_found_and_the_checkpoint_before_is_taken(tmp_path: Path) -> None:
    draw, found = random.Random(SEED), Counter()
    with RunFolder.create(tmp_path / "run", Job(), tensorboard=False) as folder:
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        training = Training(folder=folder, config=Job(), model=model, optimizer=optimizer)
        marks = save_as_two_ranks(folder, training, [2, OLD, NEW])
        good = tmp_path / "good"
        shutil.copytree(folder.checkpoints, good)
        assert training.resume() == NEW
        files = sorted(path.name for path in (good / f"step-{NEW:07d}").iterdir())
        assert len(files) == 8  # blocks of two ranks, three groups, what is whole, and the record
        newest = folder.checkpoints / f"step-{NEW:07d}"
        for number in range(COUNT):
            file = files[number % len(files)]
            kind = ("flip", "flip", "truncate", "swap", "remove")[number // len(files) % 5]
            found[damage(newest / file, kind, draw)] += 1
            last = number % 10 == 9
            if last:
                damage(folder.checkpoints / f"step-{OLD:07d}" / file, "flip", draw)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()
            if last:
                with pytest.raises(ValueError, match="no whole checkpoint, only damaged ones"):
                    training.resume()
                assert mark(model) == 0
            else:
                assert training.resume() == OLD, (file, kind)
                assert mark(model) == marks[OLD]
            aside = folder.checkpoints / f"step-{NEW:07d}.damaged"
            assert aside.is_dir()
            shutil.rmtree(folder.checkpoints)
            shutil.copytree(good, folder.checkpoints)
        assert training.resume() == NEW
        assert mark(model) == marks[NEW]
        assert checkpoint.latest(folder.checkpoints) is not None
    assert sum(found.values()) == COUNT
    print(f"\n{COUNT} single damages, all found: {dict(found)}")
