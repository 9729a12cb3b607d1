"""Ranks of a real pre-training run as processes that a test can kill at any moment.

They are forked from a process that has imported everything, so that a start takes a fraction of a
second and kills land in the training and not in the imports. What a rank is doing stands in a file
of slots, one for its main thread and one for the thread that writes checkpoints.
"""

import contextlib
import errno
import hashlib
import json
import mmap
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from made_grey import of_grey
from made_ports import free_port
from toto.data.records import ClipRecord
from toto.data.shards import write_shard
from toto.data.token_set import write_index
from toto.jobs.pretrain import Pretrain
from toto.jobs.training import StoppedError, Training
from toto.jobs.watch import Watch
from toto.recipes import PRETRAIN
from toto.runtime import checkpoint, durable
from toto.runtime.parallel import Parallel
from toto.tokenizers import load_tokenizer, save_tokenizer
from toto.types import TokenGrid

_SLOT_BYTES = 40
# Not this module, which the server of forks does not find.
_PRELOADED = ["toto.jobs.pretraining", "toto.recipes", "torch.utils.tensorboard", "pandas"]


def write_noise(folder: Path) -> None:
    """Write noise in tokens, 4 x 4 a frame, into the folders that recipe tiny reads."""
    grey, draw = load_tokenizer("grey"), torch.Generator().manual_seed(0)
    description = of_grey()
    for name in ("clips/pretrain", "moving-digits/pretrain", "moving-digits/selection"):
        grids = torch.randint(16, (10, 6, 4, 4), generator=draw, dtype=torch.int32)
        clips = [
            (
                TokenGrid(ids=grid, vocab_size=16),
                ClipRecord(
                    source=f"noise#{number}",
                    source_sha256=None,
                    frame_indices=tuple(range(6)),
                    times_s=tuple(range(6)),
                    side_px=32,
                    crop=(0.5, 0.5),
                ),
            )
            for number, grid in enumerate(grids)
        ]
        write_shard(folder / name / "00000", description, clips)
        write_index(folder / name)
    save_tokenizer(grey, folder / "tokenizer")


def tiny(shards: Path, **changes: Any) -> Pretrain:
    """Recipe tiny in fp32."""
    return replace(PRETRAIN["tiny"](), shards=str(shards), precision="fp32", **changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What one start of a run is given."""

    job: Pretrain
    out: Path
    world: int = 2
    parallel: Parallel = field(default_factory=lambda: Parallel(strategy="fsdp"))
    crash_at: str = ""
    """Crash point and how often it is passed before, as TOTO_CRASH_AT has it."""
    crash_rank: int = 0
    full_at: int = 0
    """Which of the writes of `crash_rank` finds the disk full, counted from 1; 0 for none."""


class Ranks:
    """The processes of one start."""

    def __init__(self, start: Start) -> None:
        self.start = start
        out = start.out
        out.parent.mkdir(parents=True, exist_ok=True)
        self._slots = out.with_name(f"{out.name}.slots")
        self._slots.write_bytes(bytes(_SLOT_BYTES * 2 * start.world))
        port = free_port()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self.processes = [
            context.Process(target=_run_rank, args=(start, rank, port, self._slots, sys.path))
            for rank in range(start.world)
        ]
        for process in self.processes:
            process.start()

    def phase(self, rank: int) -> tuple[str, str]:
        """What the main thread does, and what the writing thread does ("" for nothing)."""
        raw = self._slots.read_bytes()
        at = rank * 2 * _SLOT_BYTES
        main, writer = (
            raw[at + k * _SLOT_BYTES :][:_SLOT_BYTES].rstrip(b"\0").decode() for k in range(2)
        )
        return main, writer

    def said(self, rank: int) -> str:
        """What a rank printed."""
        return _log(self.start.out, rank).read_text()

    def wait(self, done: Callable[[], bool], *, seconds: float = 120) -> bool:
        """Wait until something is so, or until a rank has ended (False)."""
        deadline = time.monotonic() + seconds
        while not done():
            if any(process.exitcode is not None for process in self.processes):
                return done()
            assert time.monotonic() < deadline, [self.said(r) for r in range(self.start.world)]
            time.sleep(0.001)
        return True

    def join(self, seconds: float = 120) -> list[int | None]:
        """Wait until all have ended; their exit codes."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def kill(self) -> None:
        """Kill those that still run, as torchrun does when one has died."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()


def run(start: Start) -> None:
    """Run to the end; every rank must end well."""
    ranks = Ranks(start)
    try:
        codes = ranks.join()
    finally:
        ranks.kill()
    assert codes == [0] * start.world, [ranks.said(rank)[-3000:] for rank in range(start.world)]


def full_disk(k: int) -> SimpleNamespace:
    """A stand-in for `os` whose k-th write of a file, and no other, finds the disk full.

    A negative k only counts: `made` says how many writes there were.
    """
    lock, module = threading.Lock(), SimpleNamespace(**vars(os), made=0)

    def write(descriptor: int, data: memoryview) -> int:
        with lock:
            module.made += 1
            full = module.made == k
        if full:
            os.write(descriptor, data[: len(data) // 2])  # what fitted
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, data)

    module.write = write
    return module


def losses(out: Path) -> list[tuple[int, str]]:
    """All that was logged of losses and gradients, exactly, with its step."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["step"], name + float(line[name]).hex())
        for line in lines
        for name in ("loss", "validation_loss", "grad_norm")
        if name in line
    ]


def state_sha256(path: Path) -> dict[str, str]:
    """SHA-256 of a checkpoint's weights and of its moments, whole, whatever files hold them."""
    tensors = checkpoint.load(path, config_digest=None)
    found = {}
    for group in ("model", "optimizer"):
        sha256 = hashlib.sha256()
        for name in sorted(tensors[group]):
            sha256.update(name.encode() + tensors[group][name].numpy().tobytes())
        found[group] = sha256.hexdigest()
    return found


def newest(out: Path) -> Path:
    """The checkpoint with the highest step."""
    return max(path for path in (out / "checkpoints").iterdir() if path.name[5:].isdigit())


def _run_rank(start: Start, rank: int, port: int, slots: Path, path: list[str]) -> None:
    sys.path[:] = path
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(start.world),
        "LOCAL_WORLD_SIZE": str(start.world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TOTO_CRASH_AT": start.crash_at if rank == start.crash_rank else "",
    }
    if start.world == 1:
        for name in ("RANK", "WORLD_SIZE"):
            del os.environ[name]
    log = os.open(_log(start.out, rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    if start.full_at and rank == start.crash_rank:
        durable.os = full_disk(start.full_at)  # type: ignore[assignment]
    with _published(slots, rank):
        try:
            start.job.run(start.out, start.parallel)
        except StoppedError as stopped:
            print(stopped, file=sys.stderr, flush=True)
            sys.exit(stopped.exit_code)
        except OSError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            sys.exit(1)


@contextlib.contextmanager
def _published(slots: Path, rank: int) -> Iterator[None]:
    """Write into the slots what this rank does: the crash points that it passes, and the rest."""
    with slots.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:

        def publish(phase: str) -> None:
            main = threading.current_thread() is threading.main_thread()
            at = (rank * 2 + (not main)) * _SLOT_BYTES
            memory[at : at + _SLOT_BYTES] = phase.encode().ljust(_SLOT_BYTES, b"\0")

        def crash_point(name: str) -> None:
            publish(name)
            die_here(name)

        def note(*arguments: Any) -> None:
            publish("a step")
            note_step(*arguments)

        def settle(training: Training) -> None:
            publish("waiting for the save")
            wait(training)
            publish("after the steps")

        def write(writer: Any, *arguments: Any) -> None:
            write_all(writer, *arguments)
            publish("")

        from toto.jobs import pretraining
        from toto.runtime.checkpoint_writer import Writer

        # Measuring the machine's speed would take most of a start.
        pretraining.matmul_flops_per_s = lambda *_: 1e9
        die_here, note_step = durable.crash_point, Watch.note
        wait, write_all = Training.settle, Writer._run
        durable.crash_point, Watch.note = crash_point, note  # type: ignore[assignment]
        Training.settle, Writer._run = settle, write  # type: ignore[assignment]
        publish("starting")
        yield


def _log(out: Path, rank: int) -> Path:
    return out.with_name(f"{out.name}.rank-{rank}.log")
