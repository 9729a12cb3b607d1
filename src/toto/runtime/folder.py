"""The run folder: everything a run did, as files that outlive it.

`config.json` is what was asked, `env.json` what it ran on, `metrics.jsonl` what was measured on the
way, `results/` what came out, `checkpoints/` what it can go on from. Reports read these files and
nothing else.
"""

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from toto.config import digest, from_dict, to_dict
from toto.runtime import durable
from toto.runtime.provenance import environment

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

ConfigT = TypeVar("ConfigT")
SCHEMA = 1
DYING_S = 3.0
"""How long a lock is waited for. A process that is killed while it starts another one leaves the
lock to that one, which dies a moment later: measured, 10 to 60 ms after it, longer under load."""
_OURS = re.compile(r"\..*|env(-\d+)?\.json")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class RunFolder:
    """One run's files. Make it with `create` or `open`; use it in a `with`, or `close` it.

    Any number of processes may read a run folder and write results to it. Only one at a time may
    log and rewind: it holds a lock, which ends with the process whatever way that dies (a worker
    process that it forked and that outlives it still holds the lock).

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, *, writing: bool, tensorboard: bool) -> None:
        self.path = path
        self._tensorboard = tensorboard
        self._board: SummaryWriter | None = None
        self._lock = _lock(path) if writing else None

    @classmethod
    def create(cls, path: Path, config: Any, *, tensorboard: bool = True) -> Self:
        """Begin a run, or go on with one of the same config.

        Config and environment are on disk before this returns. Going on adds an `env-2.json`, and
        so forth: a run may continue on another machine.

        Args:
            path: the folder; made if need be.
            config: the run's whole config, a dataclass.
            tensorboard: whether `log` also writes TensorBoard's event files.

        Raises:
            ValueError: if the folder holds a run of another config (the message lists the fields),
                holds other files, or is being written by another process.
        """
        durable.make_folder(path)
        foreign = sorted(p.name for p in path.iterdir() if not _OURS.fullmatch(p.name))
        if foreign and not (path / "config.json").exists():
            raise ValueError(
                f"{path} is not a run folder and holds other files ({foreign[0]}); "
                "choose another --out"
            )
        run = cls(path, writing=True, tensorboard=tensorboard)
        try:
            # What was refused before it did anything may be asked for anew, with other fields.
            begun = any(
                file.is_file() and file.name != "config.json" and not _OURS.fullmatch(file.name)
                for file in path.rglob("*")
            )
            if begun and (path / "config.json").exists():
                run._require_config(config)
            run._begin_writing()
            if not begun or not (path / "config.json").exists():
                # Last, since it is what makes this a run folder.
                saved = {
                    "schema": SCHEMA,
                    "kind": type(config).__name__,
                    "digest": digest(config),
                    "config": to_dict(config),
                }
                durable.write_json(path / "config.json", saved)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: Path, *, writing: bool = False, tensorboard: bool = True) -> Self:
        """Open a run that was begun before.

        Args:
            path: the folder.
            writing: whether to `log` and `rewind`; takes the lock.
            tensorboard: whether `log` also writes TensorBoard's event files.

        Raises:
            ValueError: if it is not a run folder, or is to be written and another process does.
        """
        if not (path / "config.json").is_file():
            raise ValueError(
                f"{path} is not a run folder (no config.json); give a folder that --out made"
            )
        run = cls(path, writing=writing, tensorboard=tensorboard)
        try:
            if writing:
                run._begin_writing()
        except BaseException:
            run.close()
            raise
        return run

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are; `toto.runtime.checkpoint` makes and reads them."""
        return self.path / "checkpoints"

    def config(self, cls: type[ConfigT]) -> ConfigT:
        """Read the config the run was begun with.

        Raises:
            ValueError: if it is of another class, or was edited since.
        """
        saved = self._saved_config()
        if saved["kind"] != cls.__name__:
            raise ValueError(
                f"{self.path} is a run of {saved['kind']}, not of {cls.__name__}; "
                "give another run folder"
            )
        config = from_dict(cls, saved["config"])
        if digest(config) != saved["digest"]:
            raise ValueError(
                f"{self.path / 'config.json'} was edited after the run began; "
                "undo that, or begin a run of its own with another --out"
            )
        return config

    def log(self, **values: float | int | str | bool | None) -> None:
        """Add a line to `metrics.jsonl`; numbers also become TensorBoard scalars.

        Args:
            values: what was measured, `step` (an int) among them.

        Raises:
            ValueError: if there is no step, a value is not a plain one, or the run was opened for
                reading.
            DiskFullError: if the line does not fit; the file is as before.
        """
        self._require_writing()
        step = values.get("step")
        if type(step) is not int:
            raise ValueError(f"a metric line needs an int step, got {step!r}; log(step=..., ...)")
        for name, value in values.items():
            if value is not None and not isinstance(value, float | int | str):
                raise ValueError(
                    f"metric {name} is a {type(value).__name__}; log a plain one, such as .item()"
                )
        board = self._scalars() if self._tensorboard else None
        durable.append(self.path / "metrics.jsonl", (json.dumps(values) + "\n").encode())
        if board is not None:
            for name, value in values.items():
                if name != "step" and isinstance(value, float | int) and type(value) is not bool:
                    board.add_scalar(name, value, step)

    def metrics(self) -> list[dict[str, Any]]:
        """Read the lines that were logged, oldest first.

        A last line without an end is what a crash left of it, and is passed over.

        Raises:
            ValueError: if any other line is broken; the message has its number.
        """
        return [json.loads(line) for line in self._lines()]

    def rewind(self, step: int) -> None:
        """Drop the lines of later steps, all at once: they will be taken again.

        TensorBoard is told by the next `log` to forget them too.

        Raises:
            ValueError: if a line is broken, or the run was opened for reading.
        """
        self._require_writing()
        kept = [line + b"\n" for line in self._lines() if json.loads(line)["step"] <= step]
        durable.write_bytes(self.path / "metrics.jsonl", b"".join(kept))
        self._close_board()

    def write_result(self, name: str, payload: Mapping[str, Any]) -> None:
        """Write `results/NAME.json`, in place of an earlier one.

        Raises:
            ValueError: if the name is not a plain file name.
            DiskFullError: if it does not fit; an earlier result stands.
        """
        file = self._result_file(name)
        durable.make_folder(file.parent)
        durable.write_json(file, dict(payload))

    def result(self, name: str) -> dict[str, Any]:
        """Read `results/NAME.json`.

        Raises:
            ValueError: if there is no such result; the message lists those there are.
        """
        file = self._result_file(name)
        if not file.is_file():
            there = sorted(path.stem for path in file.parent.glob("*.json"))
            raise ValueError(
                f"{self.path} has no result {name!r} (it has: {', '.join(there) or 'none'}); "
                "evaluate the run first"
            )
        return json.loads(file.read_text())

    def has_result(self, name: str) -> bool:
        """Whether `results/NAME.json` is there."""
        return self._result_file(name).is_file()

    def close(self) -> None:
        """Finish the event files and let go of the lock; closing twice does nothing more."""
        self._close_board()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _saved_config(self) -> dict[str, Any]:
        file = self.path / "config.json"
        saved = json.loads(file.read_text())
        if saved["schema"] != SCHEMA:
            raise ValueError(
                f"{file} has schema {saved['schema']}, this toto reads {SCHEMA}; "
                "use the version of toto that wrote it"
            )
        return saved

    def _require_config(self, config: Any) -> None:
        saved = self._saved_config()
        if saved["kind"] == type(config).__name__ and saved["digest"] == digest(config):
            return
        old = {"kind": saved["kind"], **saved["config"]}
        new = {"kind": type(config).__name__, **to_dict(config)}
        raise ValueError(
            f"{self.path} holds a run of another config ({'; '.join(_differences(old, new))}); "
            "choose another --out, or remove the folder"
        )

    def _begin_writing(self) -> None:
        for unfinished in self.path.glob(".*.tmp"):
            unfinished.unlink()
        earlier = len(list(self.path.glob("env*.json")))
        name = f"env-{earlier + 1}.json" if earlier else "env.json"
        durable.write_json(self.path / name, environment())
        metrics = self.path / "metrics.jsonl"
        if metrics.exists():
            # The next line would otherwise be glued to what a crash left of the last one.
            os.truncate(metrics, metrics.read_bytes().rfind(b"\n") + 1)

    def _require_writing(self) -> None:
        if self._lock is None:
            raise ValueError(
                f"{self.path} is open for reading only; RunFolder.open(path, writing=True)"
            )

    def _lines(self) -> list[bytes]:
        file = self.path / "metrics.jsonl"
        whole = file.read_bytes().rpartition(b"\n")[0] if file.exists() else b""
        lines = whole.split(b"\n") if whole else []
        for number, line in enumerate(lines, start=1):
            if not _is_metric(line):
                raise ValueError(
                    f"{file}, line {number} is broken ({line[:40]!r}); remove that line"
                )
        return lines

    def _scalars(self) -> "SummaryWriter":
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            # Events of steps that a crash or a rewind undid are still in older event files.
            purge_step = max((m["step"] + 1 for m in self.metrics()), default=0)
            self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=purge_step)
        return self._board

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    def _result_file(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"result name {name!r} is not a file name; use letters, digits, _ . -")
        return self.path / "results" / f"{name}.json"


def _is_metric(line: bytes) -> bool:
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and type(value.get("step")) is int


def _lock(path: Path) -> int:
    """Hold the folder's lock and say who does; the descriptor is the lock."""
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    if not _taken(descriptor):
        holder = os.read(descriptor, 1000).decode() or "another process"
        os.close(descriptor)
        raise ValueError(
            f"{path} is being written by {holder}, or a worker it left; "
            "stop that first, or choose another --out"
        )
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def _taken(descriptor: int) -> bool:
    """Take a lock; a process that was killed while it started another one keeps it for a moment."""
    give_up_s = time.monotonic() + DYING_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up_s:
                return False
            time.sleep(0.02)
        else:
            return True


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Where two configs differ, as `model.width: 64 != 128`, the old value first."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            below = f"{where}.{name}" if where else name
            yield from _differences(old.get(name, "absent"), new.get(name, "absent"), below)
    elif old != new:
        yield f"{where}: {old!r} != {new!r}"
