"""Bodies of requests, measured while they are read, so that no header can lie about them."""

import asyncio
from collections.abc import Callable

from toto.app.asgi import Asgi, Message, Receive, Scope, Send, answer, header


class Bodies:
    """Middleware that reads no more of a body than is allowed, and waits no longer.

    The application is told that the visitor has left, so it frees what it holds; what it answers
    to that is not sent.

    Args:
        app: what comes after.
        most_bytes: of a body, by the path that is asked for.
        patience_s: time that any body may take.
        least_bytes_per_s: a body that comes faster may take longer.
    """

    def __init__(
        self,
        app: Asgi,
        *,
        most_bytes: Callable[[str], int],
        patience_s: float,
        least_bytes_per_s: float,
    ) -> None:
        self._app = app
        self._most_bytes = most_bytes
        self._patience_s = patience_s
        self._least_bytes_per_s = least_bytes_per_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, as far as its body is allowed."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._most_bytes(scope["path"])
        declared = header(scope, b"content-length") or "0"
        if not declared.isdecimal() or len(declared) > 18:
            await answer(send, 400)
            return
        if int(declared) > most:
            await answer(send, 413)
            return
        clock = asyncio.get_running_loop().time
        began, got, refused, started = clock(), 0, 0, False
        whole = declared == "0" and header(scope, b"transfer-encoding") is None

        async def measured() -> Message:
            nonlocal got, refused, whole
            if whole:
                return await receive()
            if not refused:
                try:
                    late = began + self._patience_s + got / self._least_bytes_per_s
                    async with asyncio.timeout_at(late):
                        message = await receive()
                except TimeoutError:
                    refused = 408
                else:
                    got += len(message.get("body", b""))
                    whole = not message.get("more_body", False)
                    if got <= most:
                        return message
                    refused = 413
            return {"type": "http.disconnect"}

        async def sent(message: Message) -> None:
            nonlocal started
            if refused and not started:
                return
            if message["type"] == "http.response.start":
                started = True
                if not whole:
                    # Nobody will read the rest.
                    message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        try:
            await self._app(scope, measured, sent)
        except Exception:
            # Whoever was reading a body that is refused complains that it ended.
            if not refused:
                raise
        if refused and not started:
            await answer(send, refused)
