"""Bodies, heads and messages, each part of the server by itself."""

import asyncio
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toto.app.asgi import SENTENCES, Asgi
from toto.app.bodies import Bodies
from toto.app.door import CANCEL, JOIN, Door
from toto.app.messages import retold
from toto.app.ownership import NotYoursError, Ownership
from toto.app.store import Store

GOOD = {"data": ["x"], "fn_index": 1, "session_hash": "abcd"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Store(max_bytes=1000) as store:
        yield store


def through(
    app: Asgi, parts: list[bytes], headers: dict[str, str], *, path: str = "/", pause_s: float = 0.0
) -> list[Any]:
    """Send a request through; return what is answered."""
    coming, answered = list(parts), []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause_s)
        body = coming.pop(0) if coming else b""
        return {"type": "http.request", "body": body, "more_body": bool(coming)}

    async def send(message: Any) -> None:
        answered.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(app(scope, receive, send))
    return answered


class Reader:
    """An application that reads all, and says how much that was."""

    def __init__(self, *, hasty: bool = False) -> None:
        self.hasty, self.left = hasty, False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        got, more = b"", not self.hasty
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left = True
                raise RuntimeError("what an application does when its visitor leaves")
            got += message["body"]
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": got, "more_body": False})


def bounded(app: Asgi, least_bytes_per_s: float = 1000.0) -> Bodies:
    return Bodies(app, most_bytes=lambda _: 10, patience_s=0.2, least_bytes_per_s=least_bytes_per_s)


def test_a_body_within_its_limit_passes() -> None:
    chunked = {"transfer-encoding": "chunked"}
    for headers, parts in (
        ({"content-length": "10"}, [b"x" * 10]),
        (chunked, [b"xxxxx", b"xxxxx"]),
        (chunked, [b""]),
        ({}, [b""]),
    ):
        start, body = through(bounded(Reader()), parts, headers)
        assert start["status"] == 200
        assert body["body"] == b"".join(parts)
        assert start["headers"] == []


@pytest.mark.parametrize(
    ("headers", "parts", "status"),
    [
        ({"content-length": "11"}, [], 413),
        ({"transfer-encoding": "chunked"}, [b"x" * 6, b"x" * 6, b"x"], 413),
        # What is said of its length does not matter, what comes does.
        ({"content-length": "5"}, [b"x" * 11], 413),
        ({"content-length": "-1"}, [], 400),
        ({"content-length": "1" * 19}, [], 400),
        ({"content-length": "\u0663"}, [], 400),
    ],
)
def test_a_body_beyond_it_does_not(headers: dict, parts: list[bytes], status: int) -> None:
    reader = Reader()
    start, body = through(bounded(reader), parts, headers)
    assert start["status"] == status
    assert (b"connection", b"close") in start["headers"]
    assert body["body"] == SENTENCES[status].encode() + b"\n"
    # The application is told, so that it lets go of what it holds.
    assert reader.left == (status == 413 and len(parts) > 0)


def test_a_slow_body_is_not_waited_for() -> None:
    headers = {"transfer-encoding": "chunked"}
    start, _ = through(bounded(Reader()), [b"x"] * 9, headers, pause_s=0.1)
    assert start["status"] == 408
    # Four bytes buy a second here.
    start, _ = through(bounded(Reader(), 4.0), [b"xxxx", b"xx"], headers, pause_s=0.15)
    assert start["status"] == 200


def test_a_rest_that_nobody_reads_ends_the_connection() -> None:
    start, _ = through(bounded(Reader(hasty=True)), [b"x"], {"content-length": "9"})
    assert start["headers"] == [(b"connection", b"close")]


def test_a_fault_of_the_application_is_its_own() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("/secret/path")

    with pytest.raises(KeyError):
        through(bounded(broken), [b"x"], {"content-length": "1"})
    door = Door(broken, names=["localhost"], password=None, most_requests=1)
    start, body = through(door, [b""], {"host": "localhost"}, path=JOIN)
    assert start["status"] == 500
    assert body["body"] == SENTENCES[500].encode() + b"\n"


def test_more_requests_than_are_answered_are_told_so() -> None:
    door: Any = None
    inner: list[Any] = []

    async def asks_again(scope: Any, receive: Any, send: Any) -> None:
        async def note(message: Any) -> None:
            inner.append(message)

        await door(scope, receive, note)
        await Reader()(scope, receive, send)

    door = Door(asks_again, names=["localhost"], password=None, most_requests=1)
    for _ in range(2):
        outer = through(door, [b""], {"host": "localhost"}, path=JOIN)
        assert (outer[0]["status"], inner[0]["status"]) == (200, 503)
        inner.clear()


def told(store: Store, said: object, path: str = JOIN, visitor: str = "ann") -> dict[str, Any]:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    ownership = Ownership(store)
    ownership.claim("mine", "ann")
    made = retold(path, body, visitor=visitor, ownership=ownership, events={1, 2})
    return json.loads(made)


def test_a_message_keeps_what_the_page_needs(store: Store) -> None:
    more = {"trigger_id": 7, "event_data": {"kind": "patch", "row": 3, "at": [1, 2]}}
    assert told(store, {**GOOD, **more}) == {**GOOD, **more}
    extra = {"batched": True, "event_id": "x", "simple_format": True, "oauth_token": "t"}
    assert told(store, {**GOOD, **extra, "request": {"username": "root"}}) == GOOD
    cancel = {"session_hash": "mine", "fn_index": 1, "event_id": "e"}
    assert told(store, {**cancel, "data": ["x"]}, CANCEL) == cancel
    assert told(store, GOOD, "/gradio_api/reset") == {}


def test_an_address_beside_a_path_is_left_out(store: Store) -> None:
    path = str(store.add(BytesIO(b"x"), "a"))
    said = {**GOOD, "data": [{"path": path, "url": "http://127.0.0.1/x", "size": None}]}
    assert told(store, said)["data"] == [{"path": path, "size": None}]


@pytest.mark.parametrize(
    "text", ["data:image/png;base64,AAAA", "layer: 3", "a/b", "0.5", "", "..", "top-k (0: any)"]
)
def test_texts_that_name_nothing_pass(text: str, store: Store) -> None:
    assert told(store, {**GOOD, "data": [text]})["data"] == [text]


def test_a_path_that_names_nothing_does_not(store: Store) -> None:
    for value in ("a.mp4", "../a", ".", 7, ["x"], False, {"path": "x"}):
        with pytest.raises(NotYoursError):
            told(store, {**GOOD, "data": [{"path": value}]})
    with pytest.raises(NotYoursError):
        told(store, {**GOOD, "session_hash": "mine"}, visitor="bob")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"\xff", "can't decode byte 0xff"),
        (b"[" * 100_000, "its brackets have no end"),
        (b"7", "it is no object"),
        ({**GOOD, "fn_index": 3}, "it is of no event"),
        ({**GOOD, "data": "x"}, "it holds no data"),
        ({**GOOD, "trigger_id": "x"}, "it is of no component"),
    ],
)
def test_what_is_no_message_is_refused(said: object, words: str, store: Store) -> None:
    with pytest.raises(ValueError, match=words):
        told(store, said)


def test_a_reader_who_stalls_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    uvicorn = pytest.importorskip("uvicorn", reason="the extra `app` is not installed")
    from toto.app import connection

    monkeypatch.setattr(connection, "STALL_S", 0.05)
    monkeypatch.setattr(connection, "HEAD_S", 60.0)
    ended: list[float] = []

    async def stall(*, reads: bool) -> bool:
        ended.clear()
        loop = asyncio.get_running_loop()
        config = uvicorn.Config(Reader(), log_config=None, ws="none")
        state = SimpleNamespace(connections=set(), tasks=set(), default_headers=[])
        made = connection.Connection(config=config, server_state=state, app_state={})
        transport: Any = SimpleNamespace(
            abort=lambda: ended.append(loop.time()),
            get_extra_info=lambda *_: None,
            is_closing=lambda: False,
            close=lambda: None,
        )
        made.connection_made(transport)
        made.pause_writing()
        if reads:
            made.resume_writing()
        await asyncio.sleep(0.15)
        made.connection_lost(None)
        return bool(ended)

    assert asyncio.run(stall(reads=False))
    assert not asyncio.run(stall(reads=True))
