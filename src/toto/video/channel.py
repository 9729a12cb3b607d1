"""The messages between a decoder and its child: a length, a JSON object, and raw bytes after it.

JSON and raw bytes, never pickle, because the child parses strangers' files: whatever it sends is
treated as data that may be wrong. The file to decode travels as an open descriptor, so the child
needs no right to open anything.
"""

import json
import socket
import struct
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_HEADER_BYTES = 1 << 20
MESSAGE_BYTES = 1 << 20
"""Pictures are sent together up to about so many bytes."""
_LENGTH = struct.Struct(">I")
_PARTS = 1024
"""Pieces of memory that Linux takes in one call."""


class Channel:
    """One end of a connected local stream socket.

    Args:
        sock: owned from here on; `close` closes it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._deadline: float | None = None

    def set_deadline(self, seconds: float | None) -> None:
        """Let everything from now on take `seconds` in all, or for ever with None."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    @property
    def left_s(self) -> float | None:
        """Seconds to the deadline, below 0 after it; None without one."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def send(self, header: dict[str, Any], *payload: NDArray[np.uint8]) -> None:
        """Send one message, with the bytes of contiguous arrays after it.

        Raises:
            TimeoutError: if the deadline passed.
            OSError: if the other end is gone.
        """
        text = json.dumps(header).encode()
        self._wait()
        parts = [memoryview(_LENGTH.pack(len(text)) + text)]
        parts += [array.reshape(-1).data for array in payload]
        while parts:
            sent = self.sock.sendmsg(parts[:_PARTS])
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if sent:
                parts[0] = parts[0][sent:]

    def send_with_file(self, header: dict[str, Any], fd: int) -> None:
        """Send one message and a duplicate of an open file descriptor."""
        text = json.dumps(header).encode()
        self._wait()
        socket.send_fds(self.sock, [_LENGTH.pack(len(text))], [fd])
        self.sock.sendall(text)

    def receive(self) -> dict[str, Any]:
        """Wait for a message's JSON object; its bytes, if any, are the caller's to take.

        Raises:
            TimeoutError: if the deadline passed.
            EOFError: if the other end is gone.
            ValueError: if it is not a JSON object of at most `MAX_HEADER_BYTES`.
        """
        return self._body(self._exactly(_LENGTH.size))

    def receive_with_file(self) -> tuple[dict[str, Any], int]:
        """Wait for what `send_with_file` sent; the descriptor is the caller's to close."""
        self._wait()
        length, fds, _, _ = socket.recv_fds(self.sock, _LENGTH.size, 1)
        if not length:
            raise EOFError("the other end closed the channel")
        length += self._exactly(_LENGTH.size - len(length))
        return self._body(length), fds[0]

    def receive_into(self, array: NDArray[np.uint8]) -> None:
        """Fill a contiguous array with the bytes that follow a message."""
        rest = array.reshape(-1).data
        while rest:
            self._wait()
            count = self.sock.recv_into(rest)
            if not count:
                raise EOFError("the other end closed the channel")
            rest = rest[count:]

    def close(self) -> None:
        """Close this end."""
        self.sock.close()

    def _wait(self) -> None:
        if self._deadline is None:
            self.sock.settimeout(None)
            return
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the deadline passed")
        self.sock.settimeout(left_s)

    def _exactly(self, count: int) -> bytes:
        data = np.empty(count, np.uint8)
        self.receive_into(data)
        return data.tobytes()

    def _body(self, length: bytes) -> dict[str, Any]:
        (count,) = _LENGTH.unpack(length)
        if count > MAX_HEADER_BYTES:
            raise ValueError(f"a message of {count} bytes, at most {MAX_HEADER_BYTES} are allowed")
        message = json.loads(self._exactly(count))
        if not isinstance(message, dict):
            raise ValueError(f"a message must be a JSON object, got {type(message).__name__}")
        return message
