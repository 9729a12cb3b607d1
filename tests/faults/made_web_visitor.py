"""A page served in another process, and visitors of it who speak plain HTTP."""

import contextlib
import json
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

SERVER = Path(__file__).with_name("made_web_page.py")
START_S = 90.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that runs."""

    notes: Path
    process: subprocess.Popen[bytes]
    port: int

    def network(self) -> list[str]:
        """Addresses that it looked up or connected to."""
        return (self.notes / "network").read_text().splitlines()

    def peak_mib(self) -> float:
        """Most memory that it ever held."""
        return int((self.notes / "peak_kib").read_text()) / 1024

    def said(self) -> str:
        """What it wrote to its log."""
        return (self.notes / "log").read_text(errors="replace")

    def alive(self) -> bool:
        return self.process.poll() is None


@contextlib.contextmanager
def served(notes: Path, run: str = "careless", **settings: Any) -> Iterator[Served]:
    """Start a server, wait until it answers, and end it."""
    notes.mkdir(parents=True, exist_ok=True)
    with open(notes / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(SERVER), str(notes), run, json.dumps(settings)],
            stdout=log,
            stderr=log,
            cwd=notes,
        )
    try:
        deadline = time.monotonic() + START_S
        while not (notes / "address").exists():
            assert process.poll() is None, (notes / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        port = urlsplit((notes / "address").read_text()).port
        assert port
        server = Served(notes=notes, process=process, port=port)
        # It listens before the page is there; the first answer comes when it is.
        first = ask(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", START_S)
        assert Answer.of(first).status, server.said()
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Answer:
    """A status of None: the connection was closed without one."""

    status: int | None
    headers: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, data: bytes) -> "Answer":
        """Read the first answer of a connection."""
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        found = re.match(r"HTTP/1\.1 (\d+)", lines[0])
        if not found:
            return cls(None, {}, data)
        pairs = (line.partition(":") for line in lines[1:])
        return cls(int(found[1]), {k.lower(): v.strip() for k, _, v in pairs}, body)


def ask(port: int, data: bytes, wait_s: float = 10.0) -> bytes:
    """Send bytes and read all that comes until the server closes, or says nothing for a while."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait_s) as connection:
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.sendall(data)
        return rest(connection)


def rest(connection: socket.socket, quiet_s: float | None = None) -> bytes:
    """Read one whole answer, or all that comes."""
    got = b""
    if quiet_s is not None:
        connection.settimeout(quiet_s)
    with contextlib.suppress(ConnectionError, TimeoutError):
        while part := connection.recv(1 << 16):
            got += part
            head, end, body = got.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            if end and length and len(body) >= int(length[1]):
                break
            if end and b"chunked" in head.lower() and body.endswith(b"0\r\n\r\n"):
                break
    return got


def request(
    method: str,
    target: str,
    *,
    host: str = "127.0.0.1",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> bytes:
    """Write a request; nothing in it is changed or made safe."""
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in {"Host": host, **(headers or {})}.items()]
    if body and "Content-Length" not in (headers or {}):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def multipart(files: list[tuple[str, bytes]], boundary: str = "line") -> tuple[str, bytes]:
    """Write a form of files; return its content type and body."""
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in files
    )
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


class Visitor:
    """Somebody who has opened the page."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.session = secrets.token_hex(6)
        opened = self.ask("GET", "/")
        assert opened.status == 200
        self.page = opened
        self.cookie = opened.headers["set-cookie"].partition(";")[0]

    def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        wait_s: float = 20.0,
        **headers: str,
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        mine = {"Cookie": self.cookie} if hasattr(self, "cookie") else {}
        data = request(method, target, headers={**mine, **named}, body=body)
        return Answer.of(ask(self.port, data, wait_s))

    def upload(self, data: bytes, name: str = "a.mp4") -> str:
        """Send a file; return the path under which it is known."""
        kind, body = multipart([(name, data)])
        answer = self.ask("POST", "/gradio_api/upload", body, Content_Type=kind)
        assert answer.status == 200, answer
        return json.loads(answer.body)[0]

    def join(self, event: int, *data: Any, **more: Any) -> Answer:
        message = {"data": list(data), "fn_index": event, "session_hash": self.session, **more}
        return self.ask(
            "POST",
            "/gradio_api/queue/join",
            json.dumps(message).encode(),
            Content_Type="application/json",
        )

    def follow(self) -> Iterator[dict[str, Any]]:
        """Open the stream of answers and yield them; leaving off closes it."""
        target = f"/gradio_api/queue/data?session_hash={self.session}"
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(request("GET", target, headers={"Cookie": self.cookie}))
            got = b""
            while part := connection.recv(1 << 16):
                got += part
                # Chunks of a stream each hold whole lines of data.
                while b"\n\n" in got:
                    line, _, got = got.partition(b"\n\n")
                    _, found, said = line.partition(b"\r\ndata: ")
                    if found:
                        yield json.loads(said)

    def run(self, event: int, *data: Any, **more: Any) -> dict[str, Any]:
        """Have an event done; return the last message about it."""
        joined = self.join(event, *data, **more)
        assert joined.status == 200, joined
        wanted = json.loads(joined.body)["event_id"]
        for message in self.follow():
            if message["msg"] == "process_completed" and message["event_id"] == wanted:
                return message
        raise AssertionError("the stream ended")

    def fetch(self, path: str) -> Answer:
        return self.ask("GET", f"/gradio_api/file={quote(path)}")


def as_file(path: str, **more: Any) -> dict[str, Any]:
    """A path, as the page's scripts send it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def raw(method: str, target: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    host = headers.pop("Host")
    return request(method, target, host=host, headers=headers, body=body)


def mine(visitor: Visitor, method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {"Cookie": visitor.cookie, **named}
    if method == "POST":
        sent = {"Content-Type": "application/json", "Content-Length": str(len(body)), **sent}
    return request(method, target, headers=sent, body=body)


def posted(visitor: Visitor, target: str, said: object) -> bytes:
    return mine(visitor, "POST", target, json.dumps(said).encode())


def joined(visitor: Visitor, said: dict[str, object], session: str = "") -> bytes:
    named = {**said, "session_hash": session or visitor.session}
    return posted(visitor, "/gradio_api/queue/join", named)
