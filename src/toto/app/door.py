"""Who may ask the page for what, decided before any line of Gradio sees the request.

Gradio offers many more routes than a page needs: a proxy, downloads by URL, direct calls, editors.
Those a page needs are listed here; the others are not there.
"""

import asyncio
import base64
import binascii
import logging
import re
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from toto.app.asgi import Asgi, Message, Receive, Scope, Send, answer, header

_log = logging.getLogger(__name__)
GUESS_S = 1.0
"""A wrong password is answered so much later."""
MOST_HEAD_BYTES = 32 << 10
"""Of a request's first lines."""
API = "/gradio_api"
FILE, UPLOAD, UPLOADED = f"{API}/file=", f"{API}/upload", f"{API}/upload_progress"
JOIN, DATA, CANCEL, HEARTBEAT = (
    *(f"{API}/queue/join", f"{API}/queue/data", f"{API}/cancel"),
    f"{API}/heartbeat/",
)
_READ = {"GET", "HEAD"}
ROUTES: tuple[tuple[re.Pattern[str], Collection[str]], ...] = (
    (re.compile(r"/|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt"), _READ),
    (re.compile(rf"/(assets|static)(/[\w@~+,-][\w.@~+,-]*)+|{API}/theme\.css"), _READ),
    (re.compile(rf"{API}/(startup-events|queue/data|upload_progress|heartbeat/\w+)"), {"GET"}),
    (re.compile(rf"{API}/(queue/join|cancel|reset|upload)"), {"POST"}),
    (re.compile(rf"{FILE}/.+"), _READ),
)
# What would change the addresses in the page, or hide its answers from the look-outs behind.
_UNHEARD = re.compile(rb"x-.*|forwarded|accept-encoding|authorization|upgrade")
_ODD = re.compile(r"[\x00-\x1f\x7f\\%]|//|/\.\.?(/|$)")
HEADERS = (
    (
        b"content-security-policy",
        # Gradio's page has scripts and styles in it, evaluates those of its HTML parts, and shows
        # pictures that come inside addresses. Nothing may come from another site, or go there.
        b"default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        b"media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
        b"manifest-src 'self'; worker-src 'self' blob:; base-uri 'self'; form-action 'none'; "
        b"frame-ancestors 'none'; object-src 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)


class Door:
    """Middleware that turns away what the page has not asked for itself.

    Args:
        app: what comes after.
        names: hosts under which the page may be asked for, without a port. Any other is a name
            that somebody else made point to this machine.
        password: what visitors must know; None for no password.
        most_requests: answered at a time.
    """

    def __init__(
        self, app: Asgi, *, names: Collection[str], password: str | None, most_requests: int
    ) -> None:
        self._app = app
        self._most_requests, self._under_way = most_requests, 0
        self._names = frozenset(names)
        self._password = password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [
                    *(pair for pair in message.get("headers", []) if _kept(pair[0])),
                    *HEADERS,
                ]
            await send(message)

        self._under_way += 1
        try:
            await self._answer(scope, receive, guarded)
        except Exception:
            _log.exception("a request failed: %s %s", scope["method"], ascii(scope["path"]))
            if started:
                raise
            await answer(guarded, 500)
        finally:
            self._under_way -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(scope)
        if refused is not None:
            await answer(send, refused)
        elif not self._knows_password(scope):
            # Who sends none is a browser that has not asked its user yet.
            if header(scope, b"authorization") is not None:
                await asyncio.sleep(GUESS_S)
            await answer(send, 401, (b"www-authenticate", b'Basic realm="toto"'))
        else:
            heard = [pair for pair in scope["headers"] if not _UNHEARD.fullmatch(pair[0])]
            # Only these routes read their query; that of the page itself would open saved states.
            asked = scope["query_string"] if scope["path"] in {DATA, UPLOADED} else b""
            await self._app({**scope, "headers": heard, "query_string": asked}, receive, send)

    def _refusal(self, scope: Scope) -> int | None:
        """Say with which status a request is refused; None if it is not."""
        if self._under_way > self._most_requests:
            return 503
        head = sum(len(name) + len(value) for name, value in scope["headers"])
        if head + len(scope["raw_path"]) + len(scope["query_string"]) > MOST_HEAD_BYTES:
            return 431
        host, origin = header(scope, b"host"), header(scope, b"origin")
        if host is None or _name_of(host) not in self._names:
            return 403
        if origin is not None and origin not in {f"http://{host}", f"https://{host}"}:
            return 403
        path, method = scope["path"], scope["method"]
        if header(scope, b"sec-fetch-site") in {"cross-site", "same-site"}:
            # A link to the page may stand anywhere; nothing else of it is for other pages.
            link = header(scope, b"sec-fetch-dest") == "document"
            if not (link and path == "/" and method == "GET"):
                return 403
        if not path.isascii() or _ODD.search(path):
            return 404
        methods = next((allowed for form, allowed in ROUTES if form.fullmatch(path)), None)
        if methods is None:
            return 404
        return None if method in methods else 405

    def _knows_password(self, scope: Scope) -> bool:
        if self._password is None:
            return True
        kind, _, words = (header(scope, b"authorization") or "").partition(" ")
        try:
            said = base64.b64decode(words, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            said = b""
        same = secrets.compare_digest(said, self._password.encode())
        return same and kind.lower() == "basic"


def _kept(name: bytes) -> bool:
    return not name.lower().startswith(b"access-control-") and name.lower() != b"server"


def _name_of(host: str) -> str | None:
    """The name in a Host header, without its port; None if it is not one."""
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018 - raises where it is not a number
    except ValueError:
        return None
    plain = parts.netloc == host and parts.username is None and not parts.path
    return parts.hostname if plain else None
