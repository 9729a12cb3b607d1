"""Many visitors at once, full folders, passing time, passwords: the page stays within bounds."""

import asyncio
import base64
import contextlib
import json
import os
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_web_visitor import Answer, Served, Visitor, as_file, ask, multipart, request, served

from made_run_folders import save_run, strange
from toto.recipes import PRETRAIN

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="isolation is Linux's"),
]
pytest.importorskip("gradio", reason="the extra `app` is not installed")
CROWD = 1000 if os.environ.get("TOTO_FAULTS") else 250
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("crowd"), max_upload_bytes=4 << 20) as server:
        yield server


def test_a_crowd_at_once(server: Served) -> None:
    visitors = [Visitor(server.port) for _ in range(8)]
    visitors[0].run(4, "before")
    before_mib = server.peak_mib()
    asked = [written(visitors[n % 8], n) for n in range(CROWD)]
    statuses = asyncio.run(all_at_once(server.port, asked))
    time.sleep(1.0)
    grown_mib = server.peak_mib() - before_mib
    print(f"{Counter(statuses)}, {grown_mib:.0f} MiB more")
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 32
    assert grown_mib < 200
    assert server.alive()
    again = Visitor(server.port)
    assert again.run(4, "after")["output"]["data"] == ["after"]
    assert server.network() == []


def written(visitor: Visitor, number: int) -> bytes:
    """One of four kinds of request."""
    cookie = {"Cookie": visitor.cookie, "Connection": "close"}
    if number % 4 == 0:
        return request("GET", "/", headers=cookie)
    if number % 4 == 1:
        said = {"data": ["x"], "fn_index": 4, "session_hash": visitor.session}
        join = "/gradio_api/queue/join"
        headers = {**cookie, "Content-Type": "application/json"}
        return request("POST", join, headers=headers, body=json.dumps(said).encode())
    kind, body = multipart([("a.mp4", bytes(1 << 20))])
    upload = {**cookie, "Content-Type": kind}
    if number % 4 == 2:
        return request("POST", "/gradio_api/upload", headers=upload, body=body)
    return request("GET", "/theme.css", headers=cookie)


async def all_at_once(port: int, asked: list[bytes]) -> list[int | None]:
    opened = 0
    everybody = asyncio.Event()

    async def one(data: bytes) -> int | None:
        nonlocal opened
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened += 1
        if opened == len(asked):
            everybody.set()
        await everybody.wait()
        got = b""
        try:
            writer.write(data)
            await writer.drain()
        except ConnectionError:
            pass
        try:
            while part := await asyncio.wait_for(reader.read(1 << 16), 60):
                got += part
        except ConnectionError:
            pass
        writer.close()
        return Answer.of(got).status

    return await asyncio.gather(*(one(data) for data in asked))


def test_a_full_queue_says_so(server: Served) -> None:
    visitors = [Visitor(server.port) for _ in range(24)]
    statuses = [visitor.join(2).status for visitor in visitors]
    assert set(statuses) == {200, 503}
    # Sixteen wait, and one may be at work.
    assert statuses.count(200) in {16, 17}
    for visitor, status in zip(visitors, statuses, strict=True):
        if status != 200:
            continue
        stream = visitor.follow()
        next(stream)
        stream.close()
    freed = time.monotonic()
    while (server.notes / "count").read_text() != "ended":
        assert time.monotonic() - freed < 5
        time.sleep(0.05)
    assert Visitor(server.port).run(4, "free")["output"]["data"] == ["free"]


def test_open_streams_are_bounded(server: Served) -> None:
    """Each holds a place for as long as it is open, and no longer."""
    visitor = Visitor(server.port)
    beat = request(
        "GET", f"/gradio_api/heartbeat/{visitor.session}", headers={"Cookie": visitor.cookie}
    )
    with contextlib.ExitStack() as opened:
        statuses = []
        for _ in range(80):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            opened.enter_context(connection)
            connection.sendall(beat)
            statuses.append(Answer.of(connection.recv(1 << 12)).status)
        assert set(statuses) == {200, 503}
        assert 60 <= statuses.count(200) <= 64
    left = time.monotonic()
    while Answer.of(ask(server.port, request("GET", "/"))).status == 503:
        assert time.monotonic() - left < 2
    assert Visitor(server.port).run(4, "free")["output"]["data"] == ["free"]


def test_folders_fill_up_and_empty_by_themselves(tmp_path: Path) -> None:
    settings = {"max_upload_bytes": 1 << 20, "max_stored_bytes": 2 << 20, "keep_s": 3.0}
    with served(tmp_path / "notes", **settings) as server:
        visitor = Visitor(server.port)
        path = Path(visitor.upload(bytes(1 << 20)))
        folder = path.parents[2]
        assert folder.stat().st_mode & 0o777 == 0o700
        visitor.upload(bytes(1 << 20))
        kind, body = multipart([("a.mp4", b"x")])
        full = visitor.ask("POST", "/gradio_api/upload", body, Content_Type=kind)
        assert full.status == 503
        assert visitor.fetch(str(path)).status == 200
        deadline = time.monotonic() + 12
        while path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert visitor.fetch(str(path)).status in {403, 404}
        visitor.upload(b"x")
        assert folder.exists()
    assert not folder.exists()


def test_a_password_stands_before_everything(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{PASSWORD}\nmore\n")
    with served(tmp_path / "notes", password_file=str(secret)) as server:

        def ask(target: str, said: str | None) -> tuple[int | None, float]:
            began = time.monotonic()
            coded = base64.b64encode((said or "").encode()).decode()
            headers = {} if said is None else {"Authorization": f"Basic {coded}"}
            data = request("GET", target, headers={**headers, "Connection": "close"})
            answer = Answer.of(asyncio.run(all_of(server.port, data)))
            assert (answer.status == 401) == ("www-authenticate" in answer.headers)
            return answer.status, time.monotonic() - began

        for target in ("/", "/theme.css", "/gradio_api/upload_progress"):
            assert ask(target, None)[0] == 401
        for wrong in (f"a:{PASSWORD[:-1]}", f"a:{PASSWORD}x", PASSWORD):
            status, took_s = ask("/", wrong)
            assert status == 401
            assert took_s > 0.9
        assert ask("/", f"anybody:{PASSWORD}")[0] == 200
        assert ask("/theme.css", f":{PASSWORD}")[0] == 200


async def all_of(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    got = await reader.read(-1)
    writer.close()
    return got


def test_every_event_of_the_real_page_is_careful(tmp_path: Path) -> None:
    """Nonsense for every event of `toto app`: no path and no trace in any answer."""
    run = tmp_path / "tiny-run"
    save_run(run, strange(PRETRAIN["tiny"]().model))
    result = {"parameters": 1000, "steps": 20, "tokens": 2000, "validation_loss": 1.5}
    (run / "results/pretrain.json").write_text(json.dumps(result))
    with served(tmp_path / "notes", str(run)) as server:
        visitor = Visitor(server.port)
        found = re.search(rb"window.gradio_config = (\{.*?\});</script>", visitor.page.body)
        assert found
        events = json.loads(found[1])["dependencies"]
        assert len(events) >= 5
        # What takes long gives back between two frames, so that it ends when its visitor leaves.
        assert [event["types"]["generator"] for event in events].count(True) >= 2
        own = as_file(visitor.upload(b"no clip"))
        refused = 0
        for event in events:
            for value in (None, -1e300, own):
                pressed = {"kind": value, "frame": value, "sample": value, "layer": value}
                values = [value] * len(event["inputs"])
                done = visitor.run(event["id"], *values, event_data=pressed)
                said = json.dumps(done)
                refused += not done["success"]
                assert "Traceback" not in said
                assert str(tmp_path) not in said
                assert "site-packages" not in said
        assert refused > len(events)
        assert server.network() == []
        assert server.alive()
