"""One visitor's connection, which may not be held open for nothing."""

import asyncio
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0
"""Time for the head of a request, from the connection's or the head's first byte."""
STALL_S = 30.0
"""Time that a visitor may take nothing of an answer that waits for them."""
MOST_CONNECTIONS = min(2048, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
"""Open at a time. Those beyond what is served are told so; beyond these, they are hung up on."""


class Connection(H11Protocol):
    """What uvicorn does, with an end to slow heads, stalled readers and too many connections."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Begin to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._head = self.loop.call_later(HEAD_S, transport.abort)

    def handle_events(self) -> None:
        """Go on with what has come in; wait for the rest of a head, but not for ever."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._head = _ended(self._head)
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_S, self.transport.abort)

    def pause_writing(self) -> None:
        """Wait for a visitor who does not read, but not for ever."""
        super().pause_writing()
        self._stall = _ended(self._stall)
        self._stall = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The visitor reads again."""
        self._stall = _ended(self._stall)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the visitor."""
        self._head, self._stall = _ended(self._head), _ended(self._stall)
        super().connection_lost(exc)


def _ended(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
