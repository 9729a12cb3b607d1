"""The types that parts of the server speak in, and what it answers itself: one line of text.

Source: the ASGI specification, version 3; starlette has the same types, but is not needed here.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

SENTENCES = {
    400: "this request cannot be understood",
    401: "this page asks for a password",
    403: "this is not yours to ask for: open the page itself first",
    404: "there is nothing here",
    405: "this is not done here",
    408: "this request took too long to arrive",
    413: "this is too large",
    431: "this is too large",
    500: "something went wrong here; the server's log says what",
    503: "there is too much to do here: try again later",
}


async def answer(send: Send, status: int, *headers: tuple[bytes, bytes]) -> None:
    """Send a whole answer of one line, after which the connection closes."""
    body = SENTENCES[status].encode() + b"\n"
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *headers,
        ],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})


def header(scope: Scope, name: bytes) -> str | None:
    """Give a header's value, of the first if there are several; None if there is none."""
    values = (value for key, value in scope["headers"] if key == name)
    first = next(values, None)
    return None if first is None else first.decode("latin-1")
