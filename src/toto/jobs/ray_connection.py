"""Reach a Ray cluster, or start one here, as quietly as it goes."""

import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toto.runtime.durable import make_folder


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a cluster, or start one on this machine that ends with the block.

    Args:
        address: of a running cluster, or `local`. A connection that is there already is used and
            kept.

    Raises:
        ValueError: if Ray is not installed or no cluster answers.
    """
    # Otherwise Ray on this machine reports to its makers, and each actor that dies is a page on the
    # standard output, though its task's result says so. Ray reads these when it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker died or was killed|actor died")
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            'to run on Ray, install it: pip install "toto-video[scale]" (here and on each machine '
            "of the cluster)"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        quiet["include_dashboard"] = False
        leave_token()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _require_answer(address)
        ray.init(address=address, **quiet)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"no Ray cluster answers at {address}: start one (ray start --head), correct the "
            "address, copy its token to ~/.ray/auth_token here if it has one, or say local "
            f"({reason})"
        ) from error
    try:
        if threading.current_thread() is threading.main_thread():
            # Ray's handler prints a stack and aborts.
            signal.signal(signal.SIGTERM, on_sigterm)
        yield ray
    finally:
        ray.shutdown()


def leave_token() -> None:
    """Write the token of this user's clusters where Ray looks for it, if none is there.

    Ray does so itself, but of two clusters that start at once, each of which finds none, one then
    overwrites the other's and neither gets on.
    """
    place = Path.home() / ".ray" / "auth_token"
    if place.exists() or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    make_folder(place.parent)
    with tempfile.NamedTemporaryFile("w", dir=place.parent) as token:
        token.write(secrets.token_hex(32))
        token.flush()
        with suppress(FileExistsError):
            os.link(token.name, place)


def _require_answer(address: str) -> None:
    """Knock at HOST:PORT, since Ray itself tries for a minute and a half before it gives up."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
