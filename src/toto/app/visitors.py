"""Visitors, told apart by a cookie, and kept each to what is theirs."""

import asyncio
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from toto.app.asgi import Asgi, Message, Receive, Scope, Send, answer, header
from toto.app.door import API, DATA, FILE, HEARTBEAT, UPLOAD, UPLOADED
from toto.app.messages import retold
from toto.app.ownership import NotYoursError, Ownership
from toto.app.store import Store
from toto.app.transfer import give, take

MOST_UPLOADS = 4
"""Under way at a time."""
_FRAMING = {b"content-length", b"transfer-encoding"}


class Visitors:
    """Middleware that answers for files itself, and lets through what names nobody else's.

    Args:
        app: Gradio's application.
        store: where files lie.
        cookie: name of the cookie.
        events: numbers of the page's events.
    """

    def __init__(self, app: Asgi, *, store: Store, cookie: str, events: Collection[int]) -> None:
        self._app, self._store, self._cookie = app, store, cookie
        self._events = frozenset(events)
        self._secret = secrets.token_bytes(32)
        self._uploads = 0
        self.ownership = Ownership(store)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, visitor = scope["path"], self._visitor(scope)
        if not path.startswith(f"{API}/") or path == f"{API}/theme.css":
            new = path == "/" and visitor is None
            await self._app(scope, receive, self._introducing(send) if new else send)
        elif visitor is None:
            await answer(send, 403)
        else:
            try:
                await self._serve(visitor, scope, receive, send)
            except NotYoursError:
                await answer(send, 403)

    async def _serve(self, visitor: str, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == UPLOAD:
            await self._upload(visitor, scope, receive, send)
        elif path == UPLOADED:
            # The upload itself says when it is done.
            await _whole(send, b"text/event-stream", b'data: {"msg": "done"}\n\n')
        elif path.startswith(FILE):
            file = self.ownership.file(path.removeprefix(FILE), visitor)
            await give(file, scope, receive, send)
        elif path == DATA:
            asked = parse_qs(scope["query_string"].decode("latin-1"))
            session = asked.get("session_hash", [""])[-1]
            self.ownership.require(session, visitor)
            scope = {**scope, "query_string": f"session_hash={session}".encode()}
            await self._app(scope, receive, self._watching(send, visitor))
        elif scope["method"] == "POST":
            await self._message(visitor, scope, receive, send)
        else:
            if path.startswith(HEARTBEAT):
                self.ownership.claim(path.removeprefix(HEARTBEAT), visitor)
            await self._app(scope, receive, send)

    async def _upload(self, visitor: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self._uploads >= MOST_UPLOADS or await asyncio.to_thread(self._store.full):
            await answer(send, 503)
            return
        self._uploads += 1
        try:
            paths = await take(scope, receive, self._store)
        finally:
            self._uploads -= 1
        if isinstance(paths, int):
            await answer(send, paths)
            return
        for path in paths:
            self.ownership.give(path.parent.name, visitor)
        names = json.dumps([str(path) for path in paths])
        await _whole(send, b"application/json", names.encode())

    async def _message(self, visitor: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        if body is None:
            return
        try:
            body = retold(
                scope["path"],
                body,
                visitor=visitor,
                ownership=self.ownership,
                events=self._events,
            )
        except ValueError:
            await answer(send, 400)
            return
        headers = [pair for pair in scope["headers"] if pair[0] not in _FRAMING]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._app({**scope, "headers": headers}, _again(body, receive), send)

    def _visitor(self, scope: Scope) -> str | None:
        """Read who asks from the cookie, if it is one that was given out here."""
        try:
            jar = SimpleCookie(header(scope, b"cookie") or "")
        except CookieError:
            return None
        said = jar[self._cookie].value if self._cookie in jar else ""
        visitor, _, seal = said.partition("-")
        known = hmac.compare_digest(seal.encode(), self._seal(visitor).encode())
        return visitor if known else None

    def _seal(self, visitor: str) -> str:
        return hmac.new(self._secret, visitor.encode(), hashlib.sha256).hexdigest()

    def _introducing(self, send: Send) -> Send:
        """Give whoever loads the page a cookie."""
        visitor = secrets.token_hex(16)
        value = f"{self._cookie}={visitor}-{self._seal(visitor)}"
        cookie = f"{value}; Path=/; HttpOnly; SameSite=Lax".encode()

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"set-cookie", cookie)]
            await send(message)

        return sent

    def _watching(self, send: Send, visitor: str) -> Send:
        """Note which files a visitor is told of: these are theirs from then on."""
        start = str(self._store.files).encode() + b"/"
        told = re.compile(re.escape(start) + rb"([0-9a-f]{64})/")
        before = b""

        async def sent(message: Message) -> None:
            nonlocal before
            if message["type"] == "http.response.body":
                text = before + message.get("body", b"")
                for tag in told.findall(text):
                    self.ownership.give(tag.decode(), visitor)
                before = text[-len(start) - 65 :]
            await send(message)

        return sent


async def _read(receive: Receive) -> bytes | None:
    """Read a body that is known to be small; None if the visitor leaves before its end."""
    parts: list[bytes] = []
    while True:
        message: dict[str, Any] = dict(await receive())
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to the next who reads."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _whole(send: Send, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
