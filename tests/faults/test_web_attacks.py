"""Attacks on the page over HTTP: nothing of others is read, nothing is fetched, all is answered.

The page behind is careless on purpose: it gives back whatever file it is told of. What is held here
is held by what stands before Gradio, whatever the page does.
"""

import contextlib
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import made_web_attacks as attacks
import made_web_malformed as malformed
import pytest
from made_web_visitor import (
    Answer,
    Served,
    Visitor,
    as_file,
    ask,
    multipart,
    request,
    rest,
    served,
)

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="isolation is Linux's"),
]
pytest.importorskip("gradio", reason="the extra `app` is not installed")
SECRET = "open-sesame-of-the-web"
UPLOAD_BYTES = 4 << 20
REFUSED = {400, 403, 404, 405, 408, 413, 431}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    notes = tmp_path_factory.mktemp("web")
    # What Gradio would take from its environment must not open what the config has closed.
    evil = {
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SHARE": "True",
        "GRADIO_ALLOWED_PATHS": "/",
        "GRADIO_ROOT_PATH": "http://evil.example",
        "GRADIO_MCP_SERVER": "True",
        "GRADIO_ANALYTICS_ENABLED": "True",
        "GRADIO_TEMP_DIR": str(notes),
        "SECRET_TOKEN": SECRET,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in evil.items():
            patch.setenv(name, value)
        with served(notes, max_upload_bytes=UPLOAD_BYTES, body_s=2.0) as server:
            yield server


def test_no_attack_gets_anything(server: Served) -> None:
    canary = server.notes / "canary.txt"
    canary.write_text(SECRET)
    attacker, victim = Visitor(server.port), Visitor(server.port)
    own = attacker.upload(b"mine", "a.txt")
    made = victim.run(3, SECRET)["output"]["data"][0]["path"]
    theirs = {"upload": victim.upload(SECRET.encode(), "secret.png"), "made": made}
    attacker.run(4, "hello")
    assert theirs["upload"].rpartition("/")[0] != own.rpartition("/")[0]
    with socket.create_server(("127.0.0.1", 0)) as bait:
        bait.settimeout(0)
        port = bait.getsockname()[1]
        cases = dict(
            [
                *attacks.traversals(attacker, own, str(canary)),
                *attacks.paths_in_messages(attacker, theirs["upload"], str(canary), port),
                *attacks.routes(attacker, str(canary), port),
                *attacks.strangers(attacker, server.port),
                *attacks.sessions(attacker, victim, theirs),
                *malformed.bodies(attacker),
                *malformed.framing(attacker, UPLOAD_BYTES),
            ]
        )
        assert len(cases) >= 300
        wrong = {}
        for name, data in cases.items():
            began = time.monotonic()
            raw = ask(server.port, data, wait_s=15.0)
            answer = Answer.of(raw)
            took_s = time.monotonic() - began
            if answer.status not in REFUSED or took_s > 10 or leaks(raw, server):
                wrong[name] = (answer.status, round(took_s, 1), raw[:300])
        assert wrong == {}
        with pytest.raises(BlockingIOError):
            bait.accept()
    assert server.network() == []
    assert server.alive()
    # It was the attacks that failed, and not the page.
    assert attacker.run(1, as_file(own))["output"]["data"] == ["mine"]
    assert victim.run(1, as_file(theirs["upload"]))["output"]["data"] == [SECRET]
    assert victim.fetch(made).body == SECRET.encode()
    assert "Traceback" not in server.said()


def leaks(raw: bytes, server: Served) -> bool:
    """Whether an answer holds a secret, a path, a trace, or a leave for other sites."""
    words = (SECRET.encode(), b"root:", b"Traceback", b"site-packages", str(server.notes).encode())
    head = raw.partition(b"\r\n\r\n")[0].lower()
    return any(word in raw for word in words) or b"access-control" in head or b"location:" in head


def test_it_listens_on_this_machine_alone(server: Served) -> None:
    """Whatever GRADIO_SERVER_NAME says."""
    lines = Path(f"/proc/{server.process.pid}/net/tcp").read_text().splitlines()
    lines += Path(f"/proc/{server.process.pid}/net/tcp6").read_text().splitlines()
    local = [line.split()[1] for line in lines[1:] if line.split()[3:4] == ["0A"]]
    assert [name for name in local if name.endswith(f":{server.port:04X}")] == [
        f"0100007F:{server.port:04X}"
    ]


def test_every_answer_carries_what_browsers_hold_to(server: Served) -> None:
    visitor = Visitor(server.port)
    refused = visitor.ask("GET", "/config")
    for answer in (visitor.page, refused, visitor.join(4, "x")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "connect-src 'self'" in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers
    assert "HttpOnly; SameSite=Lax" in visitor.page.headers["set-cookie"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:9", "LOCALHOST"])
def test_names_of_this_machine_are_known(host: str, server: Served) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    for headers in ({}, {"Origin": f"http://{host}"}, link):
        data = request("GET", "/", host=host, headers=headers)
        assert Answer.of(ask(server.port, data)).status == 200


def test_what_others_say_of_the_address_is_not_repeated(server: Served) -> None:
    told = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    told |= {"X-Gradio-Server": "http://evil.example", "Forwarded": "host=evil.example"}
    answer = Answer.of(ask(server.port, request("GET", "/?deep_link=../../x", headers=told)))
    assert answer.status == 200
    assert b"evil.example" not in answer.body


def test_files_are_given_in_a_form_that_runs_nothing(server: Served) -> None:
    visitor = Visitor(server.port)
    for name, shown in (("a.html", False), ("a.svg", False), ("a.js", False), ("a.png", True)):
        answer = visitor.fetch(visitor.upload(b"<script>alert(1)</script>", name))
        inline = answer.headers["content-disposition"].startswith("inline")
        assert (answer.status, inline) == (200, shown)
        octets = answer.headers["content-type"] == "application/octet-stream"
        assert octets != shown


@pytest.mark.parametrize("asked", ["bytes=0-1", "bytes=2-", "bytes=-1"])
def test_parts_of_an_own_file(asked: str, server: Served) -> None:
    visitor = Visitor(server.port)
    path = visitor.upload(b"abcd")
    answer = visitor.ask("GET", f"/gradio_api/file={path}", Range=asked)
    assert (answer.status, answer.body) == (
        206,
        {"bytes=0-1": b"ab", "bytes=2-": b"cd", "bytes=-1": b"d"}[asked],
    )


@pytest.mark.parametrize(
    "asked", ["bytes=1-2-3", "bytes=9-2", "x", "bytes=a-b", "bytes=" + "0-1," * 5000, "bytes=99-"]
)
def test_parts_that_make_no_sense(asked: str, server: Served) -> None:
    visitor = Visitor(server.port)
    path = visitor.upload(b"abcd")
    answer = visitor.ask("GET", f"/gradio_api/file={path}", Range=asked)
    assert answer.status in {200, 206, 400, 416}
    assert len(answer.body) < 1000


def test_a_body_is_measured_while_it_is_read(server: Served) -> None:
    """Chunks have no length before they end, so only counting bounds them."""
    visitor = Visitor(server.port)
    kind, body = multipart([("a.mp4", bytes(3 * UPLOAD_BYTES))])
    head = {"Cookie": visitor.cookie, "Content-Type": kind, "Transfer-Encoding": "chunked"}
    start = request("POST", "/gradio_api/upload", headers=head)
    before = stored(server)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(start)
        sent = 0
        try:
            for at in range(0, len(body), 1 << 16):
                part = body[at : at + (1 << 16)]
                connection.sendall(b"%x\r\n" % len(part) + part + b"\r\n")
                sent += len(part)
        except ConnectionError:
            pass
        assert Answer.of(rest(connection)).status == 413
    assert UPLOAD_BYTES < sent < len(body)
    assert stored(server) == before


def stored(server: Served) -> int:
    """Files that the server keeps."""
    folder = next(Path("/proc", str(server.process.pid), "fd").iterdir()).parent
    links = [Path(link).resolve() for link in folder.iterdir()]
    (lock,) = [link for link in links if link.name == ".lock" and "toto-app-" in str(link)]
    return sum(path.is_file() for path in lock.parent.rglob("*"))


def test_slow_ones_are_let_go(server: Served) -> None:
    """A head that never ends, a body a byte at a time, one that stops, a reader who does not."""
    visitor = Visitor(server.port)
    cookie = {"Cookie": visitor.cookie}
    body = {**cookie, "Content-Length": "1000"}
    starts = {
        "nothing": b"",
        "head": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA: ",
        "message": request("POST", "/gradio_api/queue/join", headers=body) + b"{",
        "upload": request(
            "POST",
            "/gradio_api/upload",
            headers={**body, "Content-Type": "multipart/form-data; boundary=b"},
        )
        + b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n',
        "second head": request("GET", "/robots.txt") + b"GET / HT",
    }
    ended: dict[str, tuple[float, int | None]] = {}
    got = dict.fromkeys(starts, b"")
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as opened:
        for name, start in starts.items():
            connection = socket.create_connection(("127.0.0.1", server.port))
            opened.enter_context(connection)
            connection.sendall(start)
            selector.register(connection, selectors.EVENT_READ, name)
        began, dripped = time.monotonic(), 0.0
        while len(ended) < len(starts):
            waited = time.monotonic() - began
            assert waited < 25, set(starts) - set(ended)
            for key, _ in selector.select(0.2):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                try:
                    part = connection.recv(1 << 16)
                except ConnectionError:
                    part = b""
                got[key.data] += part
                if not part:
                    last = got[key.data].rpartition(b"HTTP/1.1")
                    ended[key.data] = (waited, Answer.of(last[1] + last[2]).status)
                    selector.unregister(connection)
                    connection.close()
            if waited > dripped + 0.5:
                dripped = waited
                for key in list(selector.get_map().values()):
                    connection = key.fileobj
                    assert isinstance(connection, socket.socket)
                    if key.data != "nothing":
                        connection.send(b"x")
    # Without a request there is nothing to answer.
    assert {name: status for name, (_, status) in ended.items()} == {
        "nothing": None,
        "head": None,
        "message": 408,
        "upload": 408,
        "second head": 200,
    }
    assert {name for name, (waited, _) in ended.items() if waited > 14} == set()
    assert ended["message"][0] < 8
    assert server.alive()


def test_a_visitor_who_leaves_frees_the_worker(server: Served) -> None:
    counted = server.notes / "count"
    counted.unlink(missing_ok=True)
    leaving, waiting = Visitor(server.port), Visitor(server.port)
    assert leaving.join(2).status == 200
    assert waiting.join(2).status == 200
    stream = leaving.follow()
    for message in stream:
        if message["msg"] == "process_generating":
            break
    queued = waiting.follow()
    next(queued)
    queued.close()
    time.sleep(0.3)
    stream.close()
    left = time.monotonic()
    while counted.read_text() != "ended":
        assert time.monotonic() - left < 2.0
        time.sleep(0.01)
    # Nor is what waited done for nobody.
    time.sleep(1.0)
    assert counted.read_text() == "ended"
    again = Visitor(server.port)
    assert again.run(4, "free")["output"]["data"] == ["free"]
