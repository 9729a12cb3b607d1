"""The parent's side of one decode child: start it, talk to it within a deadline, end it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from toto.video.channel import Channel

Backend = Literal["pyav", "torchcodec"]

START_LIMIT_S = 60.0
"""A start takes a fifth of a second; a machine under heavy load may need much longer."""

_PROGRAM = (
    "import sys, json\n"
    "sys.path[:] = json.loads(sys.argv[1])\n"
    "from toto.video.decode_child import main\n"
    "main(sys.argv[2:])\n"
)


_ENVIRONMENT = {
    # One thread, or numpy's would make a user namespace impossible.
    **{"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    # Keep the memory of frames for the next file; getting it anew costs more than resizing them.
    **{"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)},
}


class ChildDiedError(RuntimeError):
    """The child ended, hung or talked nonsense.

    Args:
        stage: crash or timeout.
        reason: one line.
    """

    def __init__(self, stage: Literal["crash", "timeout"], reason: str) -> None:
        super().__init__(stage, reason)
        self.stage: Literal["crash", "timeout"] = stage
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Isolation:
    """What a decode child holds, as it reported itself.

    Resource limits and the allow-lists always hold; these two need the kernel's consent.
    """

    decoder: str
    """Names and versions of the backend, for sidecars: `PyAV 18.1.0, FFmpeg 8.1.2`."""
    no_network: bool
    """It lives in a network namespace of its own, which has no interface that is up."""
    no_files: bool
    """Landlock denies it every path; it reads only the descriptors it is sent."""


class Child:
    """A running decode child.

    Attributes:
        channel: where requests go and answers come from.
        isolation: what it said of itself when it started.
        start_s: how long the start took, in seconds.
        wear: share of the files it may be sent that it was sent; its owner counts.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        channel: Channel,
        isolation: Isolation,
        start_s: float,
    ) -> None:
        self.process = process
        self.channel = channel
        self.isolation = isolation
        self.start_s = start_s
        self.wear = 0.0

    @classmethod
    def start(cls, limits: Mapping[str, Any], backend: Backend = "pyav") -> Self:
        """Start one and wait for its hello.

        Raises:
            RuntimeError: if it does not come up; the message has its last words.
            ValueError: if the machine has not what the backend needs.
        """
        began = time.monotonic()
        ours, theirs = socket.socketpair()
        # Room for a whole large frame, where the system allows it: 1.8 times as fast for those.
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        # An empty environment: a child that is taken over finds no tokens in it.
        kept = {k: v for k, v in os.environ.items() if k in {"LD_LIBRARY_PATH", "TMPDIR"}}
        # The parent's own search path, or two versions of this package could meet.
        roots = json.dumps([path for path in sys.path if os.path.isabs(path)])
        with theirs:
            arguments = [str(theirs.fileno()), str(os.getpid()), json.dumps(limits), backend]
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, roots, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env={**kept, **_ENVIRONMENT},
                start_new_session=True,
            )
        channel = Channel(ours)
        channel.set_deadline(START_LIMIT_S)
        try:
            hello = channel.receive()
            isolation = None if "unusable" in hello else Isolation(**hello["hello"])
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            words = _end(process, channel)
            raise RuntimeError(f"the decode child does not start: {words} ({error!r})") from error
        if isolation is None:
            _end(process, channel)
            raise ValueError(str(hello["unusable"]))
        return cls(process, channel, isolation, time.monotonic() - began)

    def close(self) -> str:
        """End it, and say how it ended: its signal, or the last line it wrote to stderr."""
        return _end(self.process, self.channel)


def _end(process: subprocess.Popen[bytes], channel: Channel) -> str:
    channel.close()
    try:
        # Hanging up ends a healthy child, and a dying one needs a moment to leave its status.
        process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    said = _last_line(process)
    if process.returncode >= 0:
        return said or f"exit status {process.returncode}"
    known = {number.value: number.name for number in signal.Signals}
    return known.get(-process.returncode, f"signal {-process.returncode}")


def _last_line(process: subprocess.Popen[bytes]) -> str:
    """Take what is in the stderr pipe, which the kernel bounds, and close it."""
    if process.stderr is None or process.stderr.closed:
        return ""
    with process.stderr:
        os.set_blocking(process.stderr.fileno(), False)
        lines = (process.stderr.read() or b"").decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:300] if said else ""
