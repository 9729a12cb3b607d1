"""Small stages for the tests of workers, which import them from here by name."""

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toto.runtime.durable import DiskFullError


@dataclass(frozen=True)
class Errands:
    """Does what a task says; every start of a task leaves a file `TASK@PID` in `folder`."""

    folder: Path

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[str], str]]:
        yield self.do
        (self.folder / f"closed@{os.getpid()}").touch()

    def do(self, task: str) -> str:
        verb, _, what = task.partition(" ")
        first = not list(self.folder.glob(f"{task}@*"))
        (self.folder / f"{task}@{os.getpid()}").touch()
        if verb == "sleep":
            time.sleep(float(what))
        elif verb == "raise":
            raise ValueError(f"{what}: it is wrong; mend it")
        elif verb == "raise-beside":
            while not (self.folder / f"{what}.pids").exists():
                time.sleep(0.01)
            raise ValueError(f"wrong beside {what}")
        elif verb == "full":
            raise DiskFullError(errno.ENOSPC, f"{what}: the disk is full")
        elif verb == "strange":
            raise Strange(1, 2)
        elif verb == "die" or (verb == "die-first" and first):
            die(what)
        elif verb == "environ":
            return os.environ[what]
        elif verb == "torch-threads":
            import torch

            return str(torch.get_num_threads())
        elif verb == "hang":
            # Here, since it imports torch, which costs a second of each worker's start.
            from toto.video.decode import Decoder

            with Decoder() as decoder:
                assert decoder.isolation
                pids = f"{os.getpid()} {decoder.pid}"
                (self.folder / f"{what}.part").write_text(pids)
                (self.folder / f"{what}.part").rename(self.folder / f"{what}.pids")
                time.sleep(600)
        return f"did {task}"


def die(how: str) -> None:
    if how == "exit":
        print("its last words", file=sys.stderr, flush=True)
        os._exit(3)
    if how == "silently":
        sys.exit(4)
    os.kill(os.getpid(), signal.Signals[how])
    time.sleep(600)


class Strange(Exception):
    """Cannot be pickled: its arguments are not those of its constructor."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@dataclass(frozen=True)
class Unready:
    """Fails before the first task."""

    how: str

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[int], int]]:
        if self.how == "raise":
            raise ValueError("no tokenizer there; name another")
        die(self.how)
        yield int


@dataclass(frozen=True)
class Noise:
    """First half: a task (seed, pieces) becomes so many arrays; each leaves a file in `folder`."""

    folder: Path
    deadly_piece: int | None = None
    """The process ends before this piece, in the first attempt at a task."""

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[tuple[int, int]], Iterator[NDArray[np.uint8]]]]:
        yield self.pieces

    def pieces(self, task: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
        seed, count = task
        draw = np.random.default_rng(seed)
        for number in range(count):
            again = self.folder / f"died-{seed}"
            if number == self.deadly_piece and not again.exists():
                again.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            (
                self.folder / f"made-{seed}-{number}-{os.getpid()}-{threading.get_native_id()}"
            ).touch()
            yield draw.integers(0, 256, (8, 16, 16, 3), np.uint8)


@dataclass(frozen=True)
class Checksum:
    """Second half: a task's arrays become one number.

    Each piece it uses leaves a file in `folder`: how many more were made by then.
    """

    folder: Path
    piece_s: float = 0.0
    """How long a piece takes at least, in seconds."""
    most: int | None = None
    """It is done after so many pieces."""
    deadly_seed: int | None = None
    deadly_always: bool = False

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[tuple[int, int], Iterator[NDArray[np.uint8]]], int]]:
        yield self.finish

    def finish(self, task: tuple[int, int], pieces: Iterator[NDArray[np.uint8]]) -> int:
        seed, _ = task
        total = 0
        for number, piece in enumerate(pieces):
            if number == self.most:
                break
            time.sleep(self.piece_s)
            again = self.folder / f"died-{seed}"
            if seed == self.deadly_seed and (self.deadly_always or not again.exists()):
                again.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            made = len(list(self.folder.glob(f"made-{seed}-*")))
            (self.folder / f"used-{seed}-{number}").write_text(str(made - number - 1))
            piece += np.uint8(1)  # a piece is the encoder's own
            total = (31 * total + int(piece.astype(np.int64).sum())) % (1 << 61)
        return total


@dataclass(frozen=True)
class Broken:
    """First half: raises at `where`, open or the second piece."""

    where: str

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[tuple[int, int]], Iterator[NDArray[np.uint8]]]]:
        if self.where == "open":
            raise ValueError("no decoder there; name another")
        yield self.pieces

    def pieces(self, task: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
        yield np.zeros(3, np.uint8)
        raise ValueError(f"task {task[0]} is broken; mend it")


@dataclass(frozen=True)
class Environ:
    """Second half: says what a variable of the environment is."""

    name: str

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[object, Iterator[object]], str]]:
        yield lambda task, pieces: f"{len(list(pieces))} {os.environ[self.name]}"


@dataclass(frozen=True)
class WithChild:
    """First half: starts a decode child, notes both process ids in `folder`, and never ends."""

    folder: Path

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[int], Iterator[int]]]:
        from toto.video.decode import Decoder

        with Decoder() as decoder:

            def pieces(task: int) -> Iterator[int]:
                assert decoder.isolation
                (self.folder / "part").write_text(f"{os.getpid()} {decoder.pid}")
                (self.folder / "part").rename(self.folder / f"{task}.pids")
                yield from range(1_000_000)

            yield pieces


@dataclass(frozen=True)
class Slow:
    """Second half: takes a piece now and then; task 0 has enough at once."""

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[int, Iterator[int]], int]]:
        def finish(task: int, pieces: Iterator[int]) -> int:
            for piece in pieces:
                if task == 0:
                    return piece
                time.sleep(0.1)
            return -1

        yield finish
