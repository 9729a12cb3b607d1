"""Where a run computes: device, precision, ranks, and what it costs there."""

import atexit
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

import torch
import torch.distributed

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among those that train together.

    Raises:
        ValueError: if the rank does not lie below the world size.
    """

    rank: int = 0
    world: int = 1
    """How many processes train together."""
    local_rank: int = 0
    """Rank among the processes of this machine; the number of its GPU."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(
                f"rank {self.rank} does not lie below a world of {self.world}; "
                "start the processes with torchrun"
            )

    @classmethod
    def current(cls) -> "Ranks":
        """Read the ranks from torch.distributed, or else from torchrun's variables, or be alone."""
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        return cls(rank=rank, world=world, local_rank=local_rank)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            torch.distributed.barrier()

    def any(self, value: bool) -> bool:
        """Tell every rank whether the value is true on at least one.

        A stop signal may reach one process only; all must leave the loop at the same step, or the
        others wait for it for ever. Every rank must call this.
        """
        return bool(self.highest(int(value))[0])

    def highest(self, *values: int) -> list[int]:
        """Give every rank the highest value of each kind on any; every rank must call this."""
        if self.world == 1:
            return list(values)
        found = torch.tensor(values, device=device())
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        return found.tolist()

    def from_first(self, *values: int) -> list[int]:
        """Give every rank the values of the first; every rank must call this with as many."""
        if self.world == 1:
            return list(values)
        found = torch.tensor(values, device=device())
        torch.distributed.broadcast(found, src=0)
        return found.tolist()

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """Give every rank the sum of what the ranks hold; every rank must call this."""
        if self.world == 1:
            return values
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total


def device() -> torch.device:
    """The GPU of this rank if there is CUDA, the CPU otherwise."""
    if torch.cuda.is_available():
        return torch.device("cuda", Ranks.current().local_rank)
    return torch.device("cpu")


_GROUPS: list[object] = []
atexit.register(_GROUPS.clear)


@contextmanager
def distributed() -> Iterator[Ranks]:
    """Join the other processes when torchrun started this one; alone, do nothing.

    Yields the ranks. The processes speak over NCCL with CUDA and over gloo without.

    Gloo's threads end when the last one lets go of the group, who waits for them. DDP would do so
    with Python's lock held, which such a thread may need to let go of the last tensor it sent: both
    wait for ever (pytorch/pytorch#56297). After the interpreter's end it would abort instead. So
    this module lets go last, and before that end: Python's own reference waits without the lock.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Ranks()
        return
    place = device()
    if place.type == "cuda":
        torch.cuda.set_device(place)
        torch.distributed.init_process_group("nccl", device_id=place)
    else:
        torch.distributed.init_process_group("gloo")
    _GROUPS.append(torch.distributed.group.WORLD)
    try:
        yield Ranks.current()
    finally:
        torch.distributed.destroy_process_group()


def resolve_precision(wanted: str, place: torch.device) -> Precision:
    """Choose the type that matrix products are computed in.

    Args:
        wanted: "fp32", "bf16", or "auto": bf16 where the device computes it natively (recent GPUs,
            CPUs with AVX512-BF16, AMX or ARM's bf16), fp32 elsewhere.
        place: the device that computes.

    Raises:
        ValueError: for any other value; fp16 is among them, because it needs loss scaling and
            is about a hundred times slower than bf16 on a CPU.
    """
    if wanted == "fp32" or wanted == "bf16":
        return wanted
    if wanted != "auto":
        reason = "fp16 needs loss scaling and crawls on CPUs" if wanted == "fp16" else "unknown"
        raise ValueError(f"precision {wanted!r}: {reason}; use 'auto', 'bf16' or 'fp32'")
    if place.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capable = torch.cpu.get_capabilities()
        native = any(capable.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bf16" if native else "fp32"


def compute(precision: Precision, place: torch.device) -> AbstractContextManager[object]:
    """Context in which a forward pass computes at this precision; parameters stay fp32."""
    if precision == "bf16":
        return torch.autocast(place.type, dtype=torch.bfloat16)
    return nullcontext()


def peak_memory_bytes(*, children: bool = False) -> int:
    """Most memory this process ever held at once (resident), since it started.

    Args:
        children: look instead at the child processes that have ended: the largest single one.
    """
    if sys.platform == "linux" and not children:
        # getrusage counts what the program held from which this one was started.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    whose = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(whose).ru_maxrss * unit_bytes


@dataclass(kw_only=True, slots=True)
class Cost:
    """What a stretch of work took; the numbers are there once `measure` has ended."""

    wall_s: float = float("nan")
    cpu_s: float = float("nan")
    """Processor time of this process, all threads together, without its children."""
    peak_bytes: int = 0
    """Most memory held during the block. Where the kernel cannot reset the mark (not Linux), most
    since the process started."""


@contextmanager
def measure() -> Iterator[Cost]:
    """Time what happens inside; yields a `Cost` that is filled in at the end."""
    cost = Cost()
    # 5 sets the process's high-water mark of resident memory back to what it holds now (proc(5)).
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    try:
        yield cost
    finally:
        cost.wall_s = time.perf_counter() - wall_s
        cost.cpu_s = time.process_time() - cpu_s
        cost.peak_bytes = peak_memory_bytes()


REQUEUE_CODE = 75
"""Exit status of a run that a scheduler stopped and that has saved: start it again as it was.
EX_TEMPFAIL of sysexits.h."""
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(slots=True)
class Interruption:
    """Whether somebody asked the run to stop.

    Attributes:
        signal: the number of the signal that asked; 0 if none has.
    """

    signal: int = 0

    @property
    def stopped(self) -> bool:
        """Whether a signal has come."""
        return self.signal != 0


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turn Ctrl-C, SIGTERM and SIGUSR1 into a flag, so that the run can save before it ends.

    Schedulers send SIGTERM when they take a machine back, or SIGUSR1 some time before, as they are
    told to. The first signal is noted. Ctrl-C after that raises `KeyboardInterrupt` at once, the
    others change nothing any more. The handlers from before come back at the end. Call it in the
    main thread.
    """
    flag, owner = Interruption(), os.getpid()

    def note(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:
            _as_worker(number)
            return
        if flag.stopped and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.signal = flag.signal or number

    before = {number: signal.signal(number, note) for number in _STOPS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_worker(number: int) -> None:
    """Take a signal in a forked worker, which inherits the handler but must not follow it.

    Ctrl-C reaches the whole group, and the parent still needs its workers for the last step;
    SIGTERM is how the parent ends them.
    """
    if number == signal.SIGTERM:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
