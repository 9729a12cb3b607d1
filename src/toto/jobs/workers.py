"""Run a stage's tasks over worker processes that may die, on this machine.

Our own loop over `subprocess` and not a pool of the standard library or loky: when a worker dies
those fail every task that was running and cannot say which one was to blame, and they leave
workers at their work when the parent is killed.
"""

import contextlib
import ctypes
import functools
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import IO, Any, NoReturn, Self

from toto.jobs.stages import Died, Raised, ResultT, Stage, TaskT, tried_twice

ENDING_S = 10.0
"""How long a worker that has nothing left to do may take to close its stage."""
LOOKS_UP_S = 1.0
"""How long the parent waits for workers before it sees whether a signal has come."""
START_ATTEMPTS = 3
"""Workers that may die one after the other while they get ready."""

_PROGRAM = (
    "import sys, json\n"
    "sys.path[:] = json.loads(sys.argv[1])\n"
    "from toto.jobs.workers import serve\n"
    "serve(int(sys.argv[2]), int(sys.argv[3]))\n"
)
_PR_SET_PDEATHSIG = 1


def over_processes(
    stage: Stage[TaskT, ResultT],
    tasks: Sequence[TaskT],
    *,
    workers: int,
    threads_per_worker: int = 1,
) -> Generator[tuple[int, ResultT | Died], None, None]:
    """Do every task in a worker process, and hand out each result as soon as there is one.

    A task whose worker died is done once more at the end, in a fresh worker with no other beside
    it; if that dies too, its result is `Died`. One worker is a process too, so that any number of
    them compute with the same threads and give the same bytes.

    The workers end at once when the generator is closed or raises, and, on Linux, when the thread
    that runs it ends, even if it is killed; elsewhere within a second of the parent's end. So
    advance it from a thread that lives on. `contextlib.closing` around it makes sure that a
    caller's own exception stops the work.

    Args:
        stage: sent to each worker once; its class must be importable.
        tasks: started in this order; they and their results are small and can be pickled.
        workers: most processes at a time; each costs a start, 2 to 3 s where torch is imported.
        threads_per_worker: of torch and BLAS. Float sums depend on it, so results may too.

    Yields:
        The task's place in `tasks`, and its result, in the order they finish.

    Raises:
        ValueError: if workers or threads make no sense.
        RuntimeError: if no worker gets ready.
        Exception: whatever a task raised first, with the worker's traceback as a note.
    """
    if workers < 1 or threads_per_worker < 1:
        raise ValueError(
            f"workers and threads_per_worker must be at least 1, got {workers} and "
            f"{threads_per_worker}"
        )
    start = functools.partial(_Worker.start, pickle.dumps(stage), thread_limits(threads_per_worker))
    once = functools.partial(_once, start)
    yield from tried_twice(once, tasks, workers=min(workers, len(tasks)))


@dataclass(eq=False, slots=True)
class _Worker:
    """The parent's side of one worker.

    Attributes:
        said: a file without a name that takes what it prints, to tell how it died.
        task: the number of what it works on; None while it gets ready.
    """

    process: subprocess.Popen[bytes]
    connection: Connection
    said: IO[bytes]
    task: int | None = None

    @classmethod
    def start(cls, stage: bytes, limits: dict[str, str]) -> Self:
        """Start one, and let it open its stage."""
        one, other = socket.socketpair()
        ours, theirs = Connection(one.detach()), Connection(other.detach())
        said = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        # The parent's own search path, or two versions of this package could meet.
        roots = json.dumps([path for path in sys.path if os.path.isabs(path)])
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, roots, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **limits},
                # Ctrl-C in the terminal is for the parent, which ends its workers.
                start_new_session=True,
            )
        worker = cls(process, ours, said)
        worker.send(stage)
        return worker

    @property
    def hired(self) -> bool:
        """Whether there may be work for it still; without, it is on its way out."""
        return not self.connection.closed

    def send(self, data: bytes) -> None:
        """Send what it waits for; one that died meanwhile is noticed when its answer is read."""
        with contextlib.suppress(OSError):
            self.connection.send_bytes(data)

    def answer(self) -> tuple[Any] | Raised | None:
        """Take its answer: a result in a tuple, an exception, or None if it died."""
        try:
            return pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return None

    def end(self, *, patience_s: float = 0.0) -> str:
        """End it, and say how it ended: its signal, or the last line it printed."""
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_s)
        self.process.kill()
        status = self.process.wait()
        with self.said:
            self.said.seek(max(0, self.said.seek(0, os.SEEK_END) - 2000))
            lines = [line.strip() for line in self.said.read().decode(errors="replace").split("\n")]
        if status < 0:
            known = {number.value: number.name for number in signal.Signals}
            return known.get(-status, f"signal {-status}")
        return next((line for line in reversed(lines) if line), f"exit status {status}")


def _once(
    start: Callable[[], _Worker], numbered: Iterable[tuple[int, TaskT]], workers: int
) -> Iterator[tuple[int, Any]]:
    """Do every task once; the result of one whose worker died is `Died`."""
    todo = iter(numbered)
    waiting = next(todo, None)
    crew: list[_Worker] = []
    early_deaths = 0
    try:
        while waiting or any(worker.hired for worker in crew):
            while waiting and sum(worker.hired for worker in crew) < workers:
                crew.append(start())
            # Not for ever: a Ctrl-C that comes right before would only be seen afterwards.
            ready = wait([worker.connection for worker in crew if worker.hired], LOOKS_UP_S)
            for worker in [worker for worker in crew if worker.connection in ready]:
                answer, number = worker.answer(), worker.task
                if isinstance(answer, Raised):
                    raise answer.error
                if answer is None:
                    how = worker.end(patience_s=ENDING_S)
                    crew.remove(worker)
                    early_deaths += number is None
                    if early_deaths == START_ATTEMPTS:
                        raise RuntimeError(f"{early_deaths} workers died before they began: {how}")
                    if number is not None:
                        yield number, Died(f"its worker died ({how})")
                    continue
                early_deaths = 0
                if waiting:
                    worker.task, task = waiting
                    worker.send(pickle.dumps(task))
                    waiting = next(todo, None)
                else:
                    worker.connection.close()
                if number is not None:
                    yield number, answer[0]
        while crew:
            crew[-1].end(patience_s=ENDING_S)
            crew.pop()
    finally:
        for worker in crew:
            worker.process.kill()
        for worker in crew:
            worker.end()


def serve(fd: int, parent_pid: int) -> None:
    """Be a worker: open the stage that comes first, then do tasks until the parent hangs up.

    Args:
        fd: this end of the connection.
        parent_pid: the process to die with.
    """
    die_with_parent(parent_pid)
    os.set_inheritable(fd, False)
    with Connection(fd) as parent:
        try:
            with pickle.loads(parent.recv_bytes()).open() as do:
                parent.send_bytes(pickle.dumps(()))
                while (task := _next_task(parent)) is not None:
                    parent.send_bytes(pickle.dumps((do(pickle.loads(task)),)))
        except Exception as error:  # noqa: BLE001 - the parent raises it
            parent.send_bytes(pickle.dumps(Raised.caught(error, "a worker process")))


def _next_task(parent: Connection) -> bytes | None:
    try:
        return parent.recv_bytes()
    except EOFError:
        return None


def thread_limits(threads: int) -> dict[str, str]:
    """Environment that limits torch and BLAS to so many threads; it must stand before they load."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys((*names, "VECLIB_MAXIMUM_THREADS"), str(threads))


def die_with_parent(parent_pid: int) -> None:
    """Let this process be killed when its parent ends, however that ends.

    On Linux the kernel does it, the moment the thread that started this process is gone. Elsewhere
    a thread looks every half second.

    Raises:
        SystemExit: if the parent is gone already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=[parent_pid], daemon=True).start()
    if os.getppid() != parent_pid:
        raise SystemExit("the parent process is gone")


def _watch(parent_pid: int) -> NoReturn:
    while os.getppid() == parent_pid:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit
