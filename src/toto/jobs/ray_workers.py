"""Run a job's two halves over a Ray cluster: decode actors on CPUs, encode actors on CPUs or GPUs.

Actors alone, not Ray Data: there a task, which is one file in many pieces and one result, would
have to be taken apart into rows and gathered again by key, and it is a block of rows that is tried
again. Here an encode actor asks its decode actors for the next piece, as `ahead` asks its thread.
"""

import itertools
import os
import pickle
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from toto.jobs.ray_connection import connected
from toto.jobs.stages import (
    AHEAD,
    Died,
    EncodeStage,
    PieceT,
    Raised,
    ResultT,
    Stage,
    TaskT,
    tried_twice,
)
from toto.jobs.workers import START_ATTEMPTS, thread_limits


def over_ray(
    decode: Stage[TaskT, Iterator[PieceT]],
    encode: EncodeStage[TaskT, PieceT, ResultT],
    tasks: Sequence[TaskT],
    *,
    address: str,
    decoders: int | None = None,
    encoders: int | None = None,
    gpus_per_encoder: float = 0.0,
) -> Generator[tuple[int, ResultT | Died], None, None]:
    """Do every task on a cluster, and hand out each result as soon as there is one.

    Results are those of `over_processes(compose(decode, encode), tasks)`, since each actor
    computes with one thread too. Each decode actor serves one task at a time, and holds at most
    `AHEAD` pieces that are not used yet. A task whose actor died is done once more at the end, on
    fresh actors with no other beside it; if one dies again, its result is `Died`.

    The package must be installed on every machine of the cluster in the same version, and files
    are read and written there: what the tasks name must be a folder that all of them see. A
    `runtime_env` is the user's, by `ray job submit` or Ray's own settings.

    Args:
        decode: CPU work; sent to each decode actor once.
        encode: takes the pieces; sent to each encode actor once.
        tasks: started in this order; they and their results are small and can be pickled.
        address: of a running cluster, or `local` for one on this machine that ends with the work.
            Where this process is connected to Ray already, that connection is used and kept.
        decoders: how many decode actors; by default one a CPU.
        encoders: how many encode actors; by default what the GPUs have room for, or one a CPU
            where they need none.
        gpus_per_encoder: share of a GPU that each takes, 0 for none.

    Yields:
        The task's place in `tasks`, and its result, in the order they finish.

    Raises:
        ValueError: if Ray is not installed, the cluster is not there or has not the GPUs, or a
            number makes no sense.
        RuntimeError: if no actor gets ready.
        Exception: whatever a task raised first, with the actor's traceback as a note.
    """
    if not tasks:
        return
    with connected(address) as ray:
        cluster = _Cluster.plan(ray, decode, encode, decoders, encoders, gpus_per_encoder)
        yield from tried_twice(cluster.once, tasks, workers=min(cluster.decoders, len(tasks)))


@dataclass(eq=False, slots=True)
class _Encoder:
    """An encode actor; the slots that share it find the new one here when it died."""

    actor: Any
    slots: int


@dataclass(eq=False, slots=True)
class _Slot:
    """A decode actor and the encoder that it works for: room for one task at a time."""

    decoder: Any
    encoder: _Encoder


@dataclass(frozen=True, slots=True)
class _Cluster:
    """What actors are made of: the pickled stages, how many at most, and what each may use."""

    ray: Any
    decode: bytes
    encode: bytes
    decoders: int
    encoders: int
    cpus: float
    gpus: float

    @classmethod
    def plan(
        cls,
        ray: Any,
        decode: Any,
        encode: Any,
        decoders: int | None,
        encoders: int | None,
        gpus: float,
    ) -> "_Cluster":
        """Share out what the cluster has."""
        there = ray.cluster_resources()
        cpus = max(1, int(there.get("CPU", 1)))
        if gpus > 0:
            room = int(there.get("GPU", 0) / gpus)
            if (encoders or 1) > room:
                raise ValueError(
                    f"{encoders or 1} encoders of {gpus:g} GPUs each do not fit the cluster's "
                    f"{there.get('GPU', 0):g} GPUs; lower encoders or gpus_per_encoder"
                )
            encoders = room if encoders is None else encoders
        encoders = cpus if encoders is None else encoders
        decoders = max(cpus, encoders) if decoders is None else decoders
        if not 1 <= encoders <= decoders or gpus < 0:
            raise ValueError(
                "there must be at least 1 encoder and a decoder for each, got "
                f"{encoders} encoders of {gpus:g} GPUs and {decoders} decoders"
            )
        # Less than all of it, or Ray warns that its own work may hang.
        share = min(1.0, round(0.9 * cpus / (decoders + encoders), 3))
        stages = pickle.dumps(decode), pickle.dumps(encode)
        return cls(ray, *stages, decoders, encoders, share, gpus)

    def once(
        self, numbered: Iterable[tuple[int, TaskT]], workers: int
    ) -> Iterator[tuple[int, Any]]:
        """Do every task once on so many decoders; one that lost an actor results in `Died`."""
        todo, tickets = iter(numbered), itertools.count()
        waiting = next(todo, None)
        count = min(self.encoders, workers)
        crew = [_Encoder(None, -(-workers // count)) for _ in range(count)]
        slots = [_Slot(None, crew[number % count]) for number in range(workers)]
        # Each slot has at most one call under way: to get ready, which has no number, or a task.
        calls: dict[Any, tuple[_Slot, Any, int | None]] = {}
        early_deaths = 0
        try:
            for encoder in crew:
                encoder.actor = self._encoder(encoder.slots)
            for slot in slots:
                slot.decoder = self._decoder()
                actor = slot.encoder.actor
                calls[actor.ready.remote(slot.decoder)] = slot, actor, None
            while waiting or any(number is not None for _, _, number in calls.values()):
                (call,), _ = self.ray.wait(list(calls), num_returns=1)
                slot, actor, number = calls.pop(call)
                answer = self._answer(call)
                if isinstance(answer, Raised):
                    raise answer.error
                if isinstance(answer, Died):
                    if waiting:
                        early_deaths += self._replace(slot, actor, answer) and number is None
                        if early_deaths == START_ATTEMPTS:
                            raise RuntimeError(
                                f"{early_deaths} actors died before they began: {answer.reason}"
                            )
                        actor = slot.encoder.actor
                        calls[actor.ready.remote(slot.decoder)] = slot, actor, None
                    if number is not None:
                        yield number, answer
                    continue
                early_deaths = 0
                if waiting:
                    actor = slot.encoder.actor
                    doing = actor.do.remote(next(tickets), waiting[1], slot.decoder)
                    calls[doing] = slot, actor, waiting[0]
                    waiting = next(todo, None)
                if number is not None:
                    yield number, answer[0]
        finally:
            for started in (*(e.actor for e in crew), *(slot.decoder for slot in slots)):
                if started is not None:
                    self.ray.kill(started)

    def _answer(self, call: Any) -> tuple[Any] | Died | Raised:
        """Take what an encode actor answered; it may be dead itself."""
        try:
            return self.ray.get(call)
        except _losses(self.ray) as error:
            return Died(f"its encode actor died ({_reason(error)})")

    def _replace(self, slot: _Slot, actor: Any, died: Died) -> bool:
        """Start another actor for the one that died, if no other slot has done so yet."""
        if isinstance(died, _DecoderDied):
            self.ray.kill(slot.decoder)
            slot.decoder = self._decoder()
            return True
        if slot.encoder.actor is not actor:
            return False
        # One that only cannot be reached must not go on beside its successor.
        self.ray.kill(actor)
        slot.encoder.actor = self._encoder(slot.encoder.slots)
        return True

    def _decoder(self) -> Any:
        return self.ray.remote(_DecodeActor).options(num_cpus=self.cpus).remote(self.decode)

    def _encoder(self, slots: int) -> Any:
        options = {"num_cpus": self.cpus, "max_concurrency": slots}
        if self.gpus > 0:
            options["num_gpus"] = self.gpus
        return self.ray.remote(_EncodeActor).options(**options).remote(self.encode)


class _Actor:
    """An opened stage, in a process of the cluster."""

    where = "an actor"

    def __init__(self, stage: bytes) -> None:
        # Before the stage brings them in; a worker of Ray may have torch from the user's own work.
        os.environ.update(thread_limits(1))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        self._failed: Raised | None = None
        self._stack = ExitStack()
        try:
            self._work = self._stack.enter_context(pickle.loads(stage).open())
        except Exception as error:  # noqa: BLE001 - the driver raises it
            self._failed = Raised.caught(error, self.where)


class _DecodeActor(_Actor):
    """Makes the pieces of one task at a time, each when it is asked for."""

    where = "a decode actor"

    def ready(self) -> Raised | None:
        """Whether the stage is open, or why not."""
        return self._failed

    def begin(self, ticket: int, task: Any) -> None:
        """Leave the task before and turn to this one."""
        self._ticket, self._pieces = ticket, self._lazily(task)

    def _lazily(self, task: Any) -> Iterator[Any]:
        yield from self._work(task)

    def piece(self, ticket: int) -> bytes:
        """The next piece in a tuple, None after the last, or an exception; all of it pickled.

        Pickled here and not by Ray, whose arrays cannot be written to and stay in its store for
        as long as they are used.

        Args:
            ticket: that of `begin`. A request that comes late, from an encode actor that died
                meanwhile, takes no piece away from another task.
        """
        if ticket != self._ticket:
            return b""
        try:
            for piece in self._pieces:
                return pickle.dumps((piece,))
            return pickle.dumps(None)
        except Exception as error:  # noqa: BLE001 - the encode actor raises it
            return pickle.dumps(Raised.caught(error, self.where))


class _EncodeActor(_Actor):
    """Asks decode actors for pieces and makes results of them; each call has its own thread."""

    where = "an encode actor"

    def ready(self, decoder: Any) -> tuple[()] | Raised | Died:
        """Wait until both actors of a slot are ready."""
        import ray

        try:
            return self._failed or ray.get(decoder.ready.remote()) or ()
        except _losses(ray) as error:
            return _DecoderDied(f"its decode actor died ({_reason(error)})")

    def do(self, ticket: int, task: Any, decoder: Any) -> tuple[Any] | Raised | Died:
        """Do one task with the pieces of one decode actor."""
        import ray

        try:
            return (self._work(task, _pieces(ray, ticket, task, decoder)),)
        except _losses(ray) as error:
            return _DecoderDied(f"its decode actor died ({_reason(error)})")
        except Exception as error:  # noqa: BLE001 - the driver raises it
            return Raised.caught(error, self.where)


class _DecoderDied(Died):
    """The same, and whose fault it was not: the encode actor's, which says so."""


def _pieces(ray: Any, ticket: int, task: Any, decoder: Any) -> Iterator[Any]:
    """Pass on a decode actor's pieces; `AHEAD` of them wait or are in the making."""
    decoder.begin.remote(ticket, task)
    waiting = deque(decoder.piece.remote(ticket) for _ in range(AHEAD))
    while (answer := pickle.loads(ray.get(waiting.popleft()))) is not None:
        if isinstance(answer, Raised):
            raise answer.error
        waiting.append(decoder.piece.remote(ticket))
        yield answer[0]


def _losses(ray: Any) -> tuple[type[Exception], ...]:
    """What Ray raises where an actor, its machine or what it had made is gone."""
    errors = ray.exceptions
    return (
        errors.RayActorError,
        errors.NodeDiedError,
        errors.ObjectLostError,
        errors.OutOfMemoryError,
        errors.WorkerCrashedError,
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
