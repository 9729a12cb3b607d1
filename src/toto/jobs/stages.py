"""The steps of a job as values that can be sent to where the work is done, and what comes back.

A `Stage` is a picklable config: it says how to get ready, once in each process, and then does one
task after the other. `workers` runs stages over the processes of this machine, `ray_workers` over
a cluster; both give the same results, since what a task gives depends on nothing but the task.
"""

import contextlib
import pickle
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

TaskT = TypeVar("TaskT")
PieceT = TypeVar("PieceT")
ResultT = TypeVar("ResultT")
TaskT_contra = TypeVar("TaskT_contra", contravariant=True)
PieceT_contra = TypeVar("PieceT_contra", contravariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)

AHEAD = 2
"""Pieces that may be ready before they are asked for: one to take, one in the making."""


@runtime_checkable
class Stage(Protocol[TaskT_contra, ResultT_co]):
    """Work that is done task by task; a frozen dataclass that can be pickled."""

    def open(self) -> AbstractContextManager[Callable[[TaskT_contra], ResultT_co]]:
        """Get ready, in the process that does the work: load a tokenizer, make a decoder.

        What stands after its `yield` runs where the work comes to its end on this machine; one
        that is stopped, and an actor of Ray, are killed instead.
        """
        ...


@runtime_checkable
class EncodeStage(Protocol[TaskT_contra, PieceT_contra, ResultT_co]):
    """The second half of work in two halves: it takes a task and the pieces that a first half made.

    Under Ray one that is open works on several tasks at once, each in a thread of its own: what it
    keeps between two pieces belongs to the call, and so do switches that torch keeps for each
    thread, such as `no_grad`.
    """

    def open(
        self,
    ) -> AbstractContextManager[Callable[[TaskT_contra, Iterator[PieceT_contra]], ResultT_co]]:
        """Get ready, in the process that does the work."""
        ...


@dataclass(frozen=True, slots=True)
class Died:
    """Stands for the result of a task that ended its process twice."""

    reason: str


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception on its way to the process that asked."""

    error: Exception

    @classmethod
    def caught(cls, error: Exception, where: str) -> "Raised":
        """Note on it where it was raised, since a traceback cannot travel."""
        lines = "".join(traceback.format_exception(error))
        try:
            same = type(pickle.loads(pickle.dumps(error))) is type(error)
        except Exception:  # noqa: BLE001 - whatever a strange exception does when it is copied
            same = False
        sent = error if same else RuntimeError(f"{type(error).__name__}: {error}")
        sent.add_note(f"raised in {where}:\n{lines}")
        return cls(sent)


def tried_twice(
    once: Callable[[Iterable[tuple[int, TaskT]], int], Iterator[tuple[int, ResultT | Died]]],
    tasks: Sequence[TaskT],
    *,
    workers: int,
) -> Generator[tuple[int, ResultT | Died], None, None]:
    """Do every task, and at the end those that died once more, one by one with none beside it.

    Args:
        once: does numbered tasks on so many workers, fresh ones at each call.
        tasks: what there is to do.
        workers: how many at a time.
    """
    again = []
    for number, result in once(enumerate(tasks), workers):
        if isinstance(result, Died):
            again.append(number)
        else:
            yield number, result
    for number in again:
        for _, result in once([(number, tasks[number])], 1):
            if isinstance(result, Died):
                result = Died(f"{result.reason}, twice")
            yield number, result


@dataclass(frozen=True, slots=True)
class Composed(Generic[TaskT, PieceT, ResultT]):
    """Two stages as one that does both in one process; see `compose`."""

    decode: Stage[TaskT, Iterator[PieceT]]
    encode: EncodeStage[TaskT, PieceT, ResultT]

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[TaskT], ResultT]]:
        """Open both."""
        with (
            self.decode.open() as pieces_of,
            self.encode.open() as finish,
            ThreadPoolExecutor(1, "decode") as thread,
        ):

            def do(task: TaskT) -> ResultT:
                with contextlib.closing(ahead(pieces_of(task), thread)) as pieces:
                    return finish(task, pieces)

            yield do


def compose(
    decode: Stage[TaskT, Iterator[PieceT]], encode: EncodeStage[TaskT, PieceT, ResultT]
) -> Composed[TaskT, PieceT, ResultT]:
    """Make one stage of two: the next piece is decoded in a thread while the last is encoded."""
    return Composed(decode, encode)


def ahead(
    items: Iterator[PieceT], thread: ThreadPoolExecutor, count: int = AHEAD
) -> Generator[PieceT, None, None]:
    """Pass items through, taking up to `count` of them from their source before they are needed.

    An exception of the source comes out where its item would have. Closing this closes the source,
    after the item that is in the making.

    Args:
        items: an iterator; it runs in `thread` only.
        thread: an executor of one thread, which must live on between two calls of this: the
            kernel ends a decode child together with the thread that started it.
        count: how many items wait or are in the making while the last one is used.
    """
    end = object()
    waiting: deque[Future[Any]] = deque()
    try:
        for _ in range(count):
            waiting.append(thread.submit(next, items, end))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item
    finally:
        for future in waiting:
            future.cancel()
        close = getattr(items, "close", None)
        if close is not None:
            thread.submit(close).result()
