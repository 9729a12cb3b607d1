import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from toto.runtime.durable import DiskFullError
from toto.tokenizers.convert import KINDS
from toto.tokenizers.fetch import PUBLISHED, Published, PublishedFile, default_cache, fetch

CONTENT = bytes(range(256)) * 500
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Gives the next of the server's answers; the last one for good."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range"))
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def reply(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    answers: list[Answer]
    ranges: list[str | None]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.answers, made.ranges = [whole], []
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def whole(handler: Handler, content: bytes = CONTENT, **headers: str) -> None:
    """The file, or the rest of it if it is still the same."""
    first = handler.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
    if first and handler.headers.get("If-Range") == headers.get("ETag"):
        span = f"bytes {first}-{len(content) - 1}/{len(content)}"
        rest = content[int(first) :]
        handler.reply(206, rest, Content_Length=str(len(rest)), Content_Range=span, **headers)
    else:
        handler.reply(200, content, Content_Length=str(len(content)), **headers)


def cut(handler: Handler, **headers: str) -> None:
    handler.reply(200, CONTENT[:50_000], Content_Length=str(len(CONTENT)), **headers)


def page(handler: Handler) -> None:
    body = b"\n<!DOCTYPE html><html>The link does not exist</html>"
    handler.reply(200, body, Content_Length=str(len(body)), Content_Type="text/html")


def have(
    server: Server, cache: Path, *, sha256: str | None = None, path: str = "", **options: Any
) -> bytes:
    url = f"http://127.0.0.1:{server.server_port}/{path}"
    files = (PublishedFile(url=url, name="encoder.pkl", sha256=sha256),)
    published = {"small": Published(kind="dvae", files=files)}
    (found,) = fetch("small", cache, published=published, loopback=True, **options)
    assert found == cache / "small" / "encoder.pkl"
    return found.read_bytes()


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "small").iterdir())


def test_a_file_is_fetched_once_and_pinned(server: Server, tmp_path: Path) -> None:
    counts: list[int] = []
    assert have(server, tmp_path, advance=counts.append) == CONTENT
    assert sum(counts) == len(CONTENT)
    assert json.loads((tmp_path / "pins.json").read_text()) == {"small/encoder.pkl": SHA256}
    assert left(tmp_path) == ["encoder.pkl"]
    counts.clear()
    assert have(server, tmp_path, advance=counts.append) == CONTENT
    assert sum(counts) == len(CONTENT)
    assert server.ranges == [None]


def test_a_cut_download_is_taken_up_where_it_was_cut(server: Server, tmp_path: Path) -> None:
    counts: list[int] = []
    server.answers = [lambda h: cut(h, ETag='"1"'), lambda h: whole(h, ETag='"1"')]
    assert have(server, tmp_path, sha256=SHA256, advance=counts.append) == CONTENT
    assert server.ranges == [None, "bytes=50000-"]
    assert min(counts) >= 0
    assert sum(counts) == len(CONTENT)


@pytest.mark.parametrize(
    ("first", "second"),
    [({}, {}), ({"ETag": 'W/"1"'}, {"ETag": 'W/"1"'}), ({"ETag": '"1"'}, {"ETag": '"2"'})],
    ids=["untagged", "weak", "changed"],
)
def test_a_cut_download_begins_anew_where_it_may_be_another_file(
    server: Server, tmp_path: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    counts: list[int] = []
    other = CONTENT[::-1]
    server.answers = [lambda h: cut(h, **first), lambda h: whole(h, other, **second)]
    assert have(server, tmp_path, advance=counts.append) == other
    assert counts.count(-50_000) == 1
    assert sum(counts) == len(CONTENT)


def test_a_server_that_stumbles_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.answers = [lambda h: h.reply(503), whole]
    assert have(server, tmp_path) == CONTENT


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (page, r"a web page came instead: the link is dead or wants a login"),
        (lambda h: h.reply(404), "the server answered 404 Not Found"),
        (lambda h: h.reply(500), "the server answered 500 Internal Server Error"),
        (cut, "cut off after 50000 of 128000 bytes"),
        (lambda h: h.reply(200, CONTENT), r"does not say how long the file is \(status 200\)"),
        (lambda h: h.reply(206, b"", Content_Length="0"), r"how long the file is \(status 206\)"),
        (lambda h: h.reply(200, Content_Length=str(2**40)), f"{2**40} bytes are too many"),
    ],
)
def test_what_cannot_be_had_is_not_installed(
    server: Server, tmp_path: Path, answer: Answer, message: str
) -> None:
    server.answers = [answer]
    with pytest.raises(OSError, match=message) as failure:
        have(server, tmp_path)
    assert left(tmp_path) == []
    assert not (tmp_path / "pins.json").exists()
    said, path = str(failure.value), tmp_path / "small" / "encoder.pkl"
    assert f"get encoder.pkl from http://127.0.0.1:{server.server_port}/ another way" in said
    assert f"put it into {path.parent}" in said
    assert f"then run: toto tokenizer convert {path} --out DIR" in said
    assert "\n" not in said


def test_without_a_network_it_says_what_to_do(tmp_path: Path) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    with pytest.raises(
        OSError,
        match=r"openai-dvae: encoder.pkl could not be fetched \(Network is unreachable\); get "
        r"encoder.pkl from https://cdn.openai.com/dall-e/encoder.pkl and "
        r"decoder.pkl from https://cdn.openai.com/dall-e/decoder.pkl another way, put it into "
        r"\S+, then run: toto tokenizer convert \S+encoder.pkl \S+decoder.pkl --out DIR",
    ):
        fetch("openai-dvae", tmp_path, opener=unreachable)


@pytest.mark.parametrize("recorded", [True, False])
def test_another_file_than_the_first_is_refused(
    server: Server, tmp_path: Path, recorded: bool
) -> None:
    if not recorded:
        have(server, tmp_path)
        (tmp_path / "small" / "encoder.pkl").unlink()
    server.answers = [lambda h: whole(h, b"another file")]
    where = "recorded here" if recorded else r"pinned in \S+pins.json"
    with pytest.raises(
        ValueError,
        match=rf"not the file that is {where}: sha256 \w{{64}} of 12 bytes, expected {SHA256}; "
        "it was changed at its source or on the way",
    ):
        have(server, tmp_path, sha256=SHA256 if recorded else None)
    assert left(tmp_path) == []


def test_a_file_that_was_put_there_by_hand_is_pinned_too(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "small" / "encoder.pkl"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert have(server, tmp_path) == CONTENT
    assert json.loads((tmp_path / "pins.json").read_text()) == {"small/encoder.pkl": SHA256}
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(ValueError, match="not the file that is pinned in"):
        have(server, tmp_path)
    path.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="is a web page, not weights; delete it"):
        have(server, tmp_path)
    assert server.ranges == []


def test_redirects_lead_to_safe_places_only(server: Server, tmp_path: Path) -> None:
    there = f"http://127.0.0.1:{server.server_port}/there"
    server.answers = [lambda h: h.reply(302, Location=there, Content_Length="0"), whole]
    assert have(server, tmp_path / "good") == CONTENT
    for bad in ("http://example.org/x", "ftp://127.0.0.1/x", "http://127.0.0.1.example.org/x"):
        server.answers = [lambda h, bad=bad: h.reply(302, Location=bad, Content_Length="0")]
        with pytest.raises(ValueError, match=f"{bad}: weights are fetched over https alone"):
            have(server, tmp_path / "bad")
    assert left(tmp_path / "bad") == []


@pytest.mark.parametrize("url", ["http://127.0.0.1/x", "file:///etc/passwd", "ftp://a/b"])
def test_refuses_addresses_without_https(tmp_path: Path, url: str) -> None:
    file = PublishedFile(url=url, name="x")
    with pytest.raises(ValueError, match="weights are fetched over https alone"):
        fetch("x", tmp_path, published={"x": Published(kind="dvae", files=(file,))})


@pytest.mark.parametrize("content", ["{", "[]"])
def test_damaged_pins_are_named(server: Server, tmp_path: Path, content: str) -> None:
    (tmp_path / "pins.json").write_text(content)
    with pytest.raises(ValueError, match=r"pins.json: damaged \(.*\); delete it to pin anew"):
        have(server, tmp_path)
    assert left(tmp_path) == []


def test_a_full_disk_is_said_to_be_full(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, *, needed_bytes: int) -> None:
        raise DiskFullError(f"{needed_bytes} bytes needed")

    monkeypatch.setattr("toto.tokenizers.fetch.require_space", full)
    with pytest.raises(DiskFullError, match="128000 bytes needed"):
        have(server, tmp_path)
    assert left(tmp_path) == []
    assert server.ranges == [None]


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no published weights 'dalle'; known are: openai-dvae, "):
        fetch("dalle", tmp_path)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOTO_CACHE", "somewhere/else")
    assert default_cache() == Path("somewhere/else")
    monkeypatch.delenv("TOTO_CACHE")
    monkeypatch.setenv("HOME", "at-home")
    assert default_cache() == Path("at-home/.cache/toto")


def test_the_table_is_sound() -> None:
    for published in PUBLISHED.values():
        assert published.kind in KINDS
        for file in published.files:
            assert file.url.startswith("https://")
            assert file.name == Path(file.name).name
            assert file.megabytes > 0
