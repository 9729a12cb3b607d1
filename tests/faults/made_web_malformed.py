"""Requests that are broken, or lie about themselves, each as the bytes that are sent."""

import json
from collections.abc import Iterator

from made_web_attacks import FILE, Attack
from made_web_visitor import Visitor, mine, multipart, posted


def bodies(visitor: Visitor) -> Iterator[Attack]:
    """Bodies that are broken, or lie about themselves."""
    join, name = "/gradio_api/queue/join", visitor.session
    good = {"data": ["x"], "fn_index": 4, "session_hash": name}
    for what, body in {
        "nothing": b"",
        "no JSON": b"data=1",
        "cut": json.dumps(good).encode()[:-4],
        "list": b"[]",
        "number": b"7",
        "brackets": b"[" * 200_000,
        "objects": b'{"a":' * 100_000,
        "closed brackets": b'{"data":' + b"[" * 90_000 + b"]" * 90_000 + b"}",
        "bytes": bytes(range(256)),
        "utf-16": json.dumps(good).encode("utf-16"),
        "digits": b'{"fn_index": ' + b"9" * 100_000 + b"}",
        "infinity": json.dumps({**good, "fn_index": float("inf")}).encode(),
        "surrogate": b'{"session_hash": "\\ud800", "fn_index": 4, "data": []}',
        "end of text": b'{"session_hash": "a\\u0000b", "fn_index": 4, "data": []}',
    }.items():
        yield f"body: {what}", mine(visitor, "POST", join, body)
    for field, values in {
        "fn_index": (999, -1, True, 1.5, "4", None, [], {}, 10**30),
        "data": (None, "x", {}, 7),
        "session_hash": (None, 7, "", "a", "x" * 65, "../../x", "a b", ["x"], "é" * 9),
        "trigger_id": (True, "x", 1.5, [], {}),
    }.items():
        for value in values:
            said = {**good, field: value}
            yield f"field: {field} {value!r}"[:60], posted(visitor, join, said)
    yield "field: nothing at all", posted(visitor, join, {})
    for value in (None, "x", True, []):
        said = {"session_hash": name, "fn_index": value, "event_id": "x"}
        yield f"cancel: fn_index {value!r}", posted(visitor, "/gradio_api/cancel", said)
    yield "cancel: no event", posted(visitor, "/gradio_api/cancel", {"session_hash": name})
    yield "reset: list", mine(visitor, "POST", "/gradio_api/reset", b"[]")
    upload = "/gradio_api/upload"
    kind, whole = multipart([("a.mp4", b"x" * 100)])
    part = b'--line\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n'
    for what, (type_, body) in {
        "no type": ("", whole),
        "other type": ("text/plain", whole),
        "JSON": ("application/json", b'{"files": "/etc/passwd"}'),
        "form": ("application/x-www-form-urlencoded", b"files=/etc/passwd"),
        "no boundary": ("multipart/form-data", whole),
        "wrong boundary": ("multipart/form-data; boundary=other", whole),
        "long boundary": (f"multipart/form-data; boundary={'b' * 5000}", whole),
        "no end": (kind, whole[:-9] + b"x"),
        "no parts": (kind, b"--line--\r\n"),
        "empty": (kind, b""),
        "no name": (kind, b"--line\r\nContent-Disposition: form-data\r\n\r\nx\r\n--line--\r\n"),
        "no disposition": (kind, b"--line\r\n\r\nx\r\n--line--\r\n"),
        "fields": (
            kind,
            b'--line\r\nContent-Disposition: form-data; name="files"\r\n\r\n'
            b"/etc/passwd\r\n--line--\r\n",
        ),
        "header bomb": (kind, part + b"X: " + b"y" * 60_000 + b"\r\n\r\nx\r\n--line--\r\n"),
        "many headers": (kind, part + b"X: y\r\n" * 9000 + b"\r\nx\r\n--line--\r\n"),
        "many files": multipart([(f"{n}", b"x") for n in range(500)]),
        "many fields": (
            kind,
            b"".join(
                b'--line\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n'
                for _ in range(500)
            )
            + b"--line--\r\n",
        ),
        "noise": (kind, bytes(range(256)) * 100),
    }.items():
        yield f"upload: {what}", mine(visitor, "POST", upload, body, **{"Content-Type": type_})


def framing(visitor: Visitor, most: int) -> Iterator[Attack]:
    """Sizes that lie, methods that are none, and heads that are too much."""
    cookie = f"Cookie: {visitor.cookie}\r\n"
    join = f"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\n{cookie}"
    upload = join.replace("queue/join", "upload")
    form = "Content-Type: multipart/form-data; boundary=line\r\n"
    for what, length in {
        "large": most + (1 << 20),
        "huge": 10**15,
        "endless": "9" * 400,
        "negative": -1,
        "hexadecimal": "0x10",
        "float": "1e3",
        "text": "many",
        "signed": "+5",
        "empty": "",
    }.items():
        yield f"length: {what}", f"{upload}{form}Content-Length: {length}\r\n\r\n".encode()
    message = f"{join}Content-Length: {2 << 20}\r\n\r\n".encode()
    yield "length: of a message", message + b"[" * 1000
    two = f"{join}Content-Length: 5\r\nContent-Length: 6\r\n\r\n[1,2]]".encode()
    yield "length: two", two
    chunked = "Transfer-Encoding: chunked\r\n\r\n"
    both = f"{join}Content-Length: 5\r\n{chunked}0\r\n\r\nGET /config HTTP/1.1\r\n\r\n"
    yield "length: and chunks", both.encode()
    yield "chunks: odd", f"{join}{chunked}zz\r\nx\r\n0\r\n\r\n".encode()
    yield "chunks: huge", f"{join}{chunked}ffffffffffffffff\r\nx".encode()
    yield "chunks: negative", f"{join}{chunked}-5\r\nx\r\n0\r\n\r\n".encode()
    yield "coding: unknown", f"{join}Transfer-Encoding: gzip\r\n\r\n".encode()
    yield "coding: hidden", f"{join}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".encode()
    yield (
        "chunks: large message",
        (f"{join}{chunked}".encode() + (b"10000\r\n" + b"[" * 0x10000 + b"\r\n") * 20),
    )
    for method in (
        "PUT",
        "DELETE",
        "PATCH",
        "TRACE",
        "OPTIONS",
        "CONNECT",
        "POST",
        "get",
        "X" * 99,
    ):
        yield f"method: {method[:9]} of the page", mine(visitor, method, "/")
    for method, target in (
        *(
            ("GET", "/gradio_api/queue/join"),
            ("GET", "/gradio_api/upload"),
            ("HEAD", "/gradio_api/x"),
        ),
        *(
            ("POST", "/gradio_api/queue/data"),
            ("DELETE", f"{FILE}/x"),
            ("POST", f"{FILE}/etc/passwd"),
        ),
        *(("PUT", "/gradio_api/upload"), ("POST", "/static/x"), ("OPTIONS", "*")),
    ):
        yield f"method: {method} {target}", mine(visitor, method, target)
    yield "head: long", mine(visitor, "GET", "/", X_Long="y" * 70_000)
    yield "head: many", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n"
    yield "head: long target", mine(visitor, "GET", "/" + "a" * 70_000)
    yield "head: long query", mine(visitor, "GET", "/gradio_api/queue/data?" + "a=b&" * 5000)
    yield "head: folded", b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nA: b\r\n c\r\n\r\n"
    yield "head: space", b"GET /x HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n"
    yield "head: end of text", b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nA: \0\r\n\r\n"
    yield "head: bytes", b"GET /\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    yield "head: old", b"GET /\r\n\r\n"
    yield "head: HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield "head: TLS", bytes.fromhex("16030100a5010000a10303") + bytes(200) + b"\r\n\r\n"
    yield "head: noise", bytes(range(256)) * 20 + b"\r\n\r\n"
    yield "head: shell", b"() { :;}; /bin/cat /etc/passwd\r\n\r\n"
    socket = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    for target in ("/queue/join", "/gradio_api/queue/join", "/ws"):
        yield f"websocket: {target}", mine(visitor, "GET", target, **socket, **key)
