"""Requests that a page must not fall for, each as the bytes that are sent."""

import json
from collections.abc import Iterator
from urllib.parse import quote

from made_web_visitor import Visitor, as_file, joined, mine, posted, raw

Attack = tuple[str, bytes]
FILE = "/gradio_api/file="
DATA = "/gradio_api/queue/data?session_hash="


def traversals(visitor: Visitor, own: str, canary: str) -> Iterator[Attack]:
    """Ways to spell a file that is not the visitor's."""
    up = "../" * 12
    folder, name = own.rpartition("/")[0], canary.lstrip("/")
    targets = {
        "absolute": f"{FILE}{canary}",
        "passwd": f"{FILE}/etc/passwd",
        "environ": f"{FILE}/proc/self/environ",
        "memory": f"{FILE}/proc/self/maps",
        "descriptor": f"{FILE}/proc/self/fd/0",
        "relative": f"{FILE}{up}{name}",
        "relative to the page": f"{FILE}canary.txt",
        "home": f"{FILE}~/canary.txt",
        "dots in own": f"{FILE}{folder}/{up}{name}",
        "dots encoded": f"{FILE}{folder}/{quote(up, safe='').replace('.', '%2e')}{name}",
        "dots twice encoded": f"{FILE}{folder}/{quote(quote(up, safe=''))}{name}",
        "slashes encoded": f"{FILE}{folder}/{up.replace('/', '%2f')}{name}",
        "half encoded": f"{FILE}{folder}/{'.%2e/' * 12}{name}",
        "backslashes": f"{FILE}{folder}\\{up}{name}".replace("/", "\\"),
        "backslashes encoded": f"{FILE}{folder}/{'..%5c' * 12}{name}",
        "doubled dots": f"{FILE}{folder}/{'....//' * 12}{name}",
        "overlong": f"{FILE}{folder}/{'%c0%ae%c0%ae/' * 12}{name}",
        "wide dots": f"{FILE}{folder}/{'%ef%bc%8e%ef%bc%8e/' * 12}{name}",
        "parameters": f"{FILE}{folder}/..;/{name}",
        "end of text": f"{FILE}{canary}%00.png",
        "end of text in own": f"{FILE}{own}%00{canary}",
        "new line": f"{FILE}{canary}%0d%0aX-Evil:%20yes",
        "folder of all": f"{FILE}{folder.rpartition('/')[0]}",
        "own folder": f"{FILE}{folder}/",
        "own folder itself": f"{FILE}{folder}/.",
        "folder above": f"{FILE}{folder}/..",
        "below own": f"{FILE}{own}/canary.txt",
        "lock": f"{FILE}{folder.rpartition('/files')[0]}/.lock",
        "letters": f"/GRADIO_API/FILE={canary}",
        "letters of own": f"{FILE}{own.upper()}",
        "old route": f"/file={canary}",
        "older route": f"/file/{canary}",
        "deprecated route": f"/gradio_api/file/{canary}",
        "file scheme": f"{FILE}file://{canary}",
        "file scheme of a host": f"{FILE}file://localhost{canary}",
        "share": f"{FILE}\\\\127.0.0.1\\share\\canary.txt",
        "drive": f"{FILE}C:\\Windows\\win.ini",
        "drive encoded": f"{FILE}C%3A%5CWindows%5Cwin.ini",
        "two slashes": f"{FILE}/{canary}",
        "route with two slashes": f"//gradio_api//file={canary}",
        "route with dots": f"/static/../gradio_api/file={canary}",
        "static": f"/static/{up}{name}",
        "static encoded": f"/static/{'%2e%2e%2f' * 12}{name}",
        "static twice encoded": f"/static/{'%252e%252e%252f' * 12}{name}",
        "static absolute": f"/static/{canary}",
        "assets": f"/assets/{up}{name}",
        "assets encoded": f"/assets/{'..%2f' * 12}{name}",
        "assets backslash": f"/assets/{'..%5c' * 12}{name}",
        "scripts": f"/svelte/{up}{name}",
        "component": f"/gradio_api/custom_component/1/client/component/{'..%2f' * 12}{name}",
        "stream": f"/gradio_api/stream/{visitor.session}/1/1/playlist-file",
        "playlist": f"/gradio_api/stream/{visitor.session}/1/1/playlist.m3u8",
        "absolute target": f"http://127.0.0.1{FILE}{canary}",
        "fragment": f"{FILE}{canary}#.png",
    }
    for what, target in targets.items():
        yield f"traversal: {what}", mine(visitor, "GET", target)
    yield "traversal: head", mine(visitor, "HEAD", f"{FILE}{canary}")
    yield "traversal: range", mine(visitor, "GET", f"{FILE}{canary}", Range="bytes=0-9")


def paths_in_messages(visitor: Visitor, other: str, canary: str, port: int) -> Iterator[Attack]:
    """Files and addresses in what is sent to the events of the page."""
    address = f"http://127.0.0.1:{port}/canary"
    bad = {
        "path": as_file(canary),
        "path of another": as_file(other),
        "path without its kind": {"path": canary},
        "path alone": canary,
        "path in a list": [as_file(canary)],
        "path deep": {"a": [{"b": [as_file(canary)]}]},
        "path for a key": {canary: 1},
        "relative path": as_file("../../" * 9 + canary.lstrip("/")),
        "dots": as_file(other.rpartition("/")[0] + "/../" * 12 + canary),
        "home": as_file("~/canary.txt"),
        "descriptor": as_file("/proc/self/fd/0"),
        "environ": as_file("/proc/self/environ"),
        "address": as_file(address),
        "address in capitals": as_file(address.replace("http", "HTTP")),
        "address after spaces": as_file(f" \t{address}"),
        "address of a cloud": as_file("http://169.254.169.254/latest/meta-data/"),
        "address of this machine": as_file("http://[::1]:80/"),
        "address as a number": as_file("http://2130706433/"),
        "address for a text": address,
        "secure address": as_file(address.replace("http:", "https:")),
        "file address": as_file(f"file://{canary}"),
        "file address without slashes": as_file(f"file:{canary}"),
        "gopher": as_file(f"gopher://127.0.0.1:{port}/_x"),
        "ftp": as_file(f"ftp://127.0.0.1:{port}/x"),
        "share": as_file(f"\\\\127.0.0.1@{port}\\x"),
        "no scheme": as_file(f"//127.0.0.1:{port}/x"),
        "proxy": as_file(f"/gradio_api/proxy={address}"),
        "stream": as_file(canary, is_stream=True),
        "data and address": as_file(address, url=address),
    }
    for what, value in bad.items():
        yield f"message: {what}", joined(visitor, {"data": [value], "fn_index": 1})
        if isinstance(value, dict):
            said = {"data": ["x"], "fn_index": 4, "event_data": value}
            yield f"event data: {what}", joined(visitor, said)


def routes(visitor: Visitor, canary: str, port: int) -> Iterator[Attack]:
    """What Gradio offers and the page does not need."""
    address = f"http://127.0.0.1:{port}/canary"
    for target in (
        *(f"/gradio_api/proxy={address}", f"/proxy={address}", f"{FILE}{address}"),
        *(f"{FILE}{quote(address, safe='')}", f"{FILE}http:/127.0.0.1:{port}/canary"),
        *(f"{FILE}https://127.0.0.1:{port}/x", f"{FILE}//127.0.0.1:{port}/x"),
        *("/config", "/config/", "/gradio_api/info", "/gradio_api/openapi.json", "/openapi.json"),
        *("/docs", "/redoc", "/monitoring", "/monitoring/summary", "/monitoring/x", "/login_check"),
        *("/gradio_api/user", "/gradio_api/token", "/gradio_api/app_id", "/gradio_api/dev/reload"),
        *("/gradio_api/queue/status", "/gradio_api/mcp/", "/gradio_api/mcp/sse", "/logout"),
        *("/gradio_api/runs", "/gradio_api/vibe-code", "/gradio_api/run-history/buckets"),
        *(f"/gradio_api/deep_link?session_hash={visitor.session}", "/gradio_api/call/echo/1"),
        *("/.env", "/.git/config", "/server-status", "/wp-login.php", "/admin", "/index.html"),
        *("/gradio_api", "/gradio_api/", "/gradio_api/../config", "/pwa_icon/1", "/static", "/%2e"),
        *("/gradio_api/heartbeat/", "/gradio_api/heartbeat/a/b", "/gradio_api/heartbeat/%2e%2e"),
    ):
        yield f"route: {target}", mine(visitor, "GET", target)
    for target in (
        *("/gradio_api/run/contents", "/gradio_api/api/contents", "/gradio_api/call/contents"),
        *("/gradio_api/call/v2/contents", "/gradio_api/run/predict/", "/gradio_api/vibe-edit"),
        *("/gradio_api/vibe-code", "/gradio_api/undo-vibe-edit", "/gradio_api/component_server"),
        *("/gradio_api/process_recording", "/gradio_api/stream/1", "/gradio_api/stream/1/close"),
        *("/login", "/gradio_api/run-history/connect", "/gradio_api/profiling/clear", "/upload"),
        *("/gradio_api/queue/join/", "/gradio_api/upload/"),
    ):
        said = {"data": [as_file(canary)], "fn_index": 1, "code": "import os", "hash": "x"}
        body = json.dumps({**said, "session_hash": visitor.session}).encode()
        yield f"route: POST {target}", mine(visitor, "POST", target, body)


def strangers(visitor: Visitor, port: int) -> Iterator[Attack]:
    """Requests that another site lets a browser make, and names that lead here."""
    here = f"127.0.0.1:{port}"
    said = json.dumps({"data": ["x"], "fn_index": 4, "session_hash": visitor.session}).encode()
    for origin in (
        *("http://evil.example", "https://evil.example", "null", "http://127.0.0.1", "file://"),
        *(
            f"http://127.0.0.1.evil.example:{port}",
            f"http://evil.example#{here}",
            f"http://{here}/",
        ),
        *(f"http://localhost:{port}", f"http://user@{here}", f"http://127.0.0.1:{port}0", ""),
        *(f"http://evil.example http://{here}", f"HTTP://{here}@evil.example", "http://[::1]"),
    ):
        for kind in ("application/json", "text/plain"):
            sent = {"Host": here, "Origin": origin, "Cookie": visitor.cookie, "Content-Type": kind}
            yield f"origin: {origin}, {kind}", raw("POST", "/gradio_api/queue/join", sent, said)
    yield "origin: page", raw("GET", "/", {"Host": here, "Origin": "http://evil.example"})
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x"}
    for origin in ("http://evil.example", f"http://{here}"):
        sent = {"Host": here, "Origin": origin, **asked}
        yield f"preflight: {origin}", raw("OPTIONS", "/gradio_api/queue/join", sent)
    for kind in ("cross-site", "same-site"):
        for where, target in (("script", "/"), ("image", "/static/img/x.png"), ("iframe", "/")):
            sent = {"Host": here, "Sec-Fetch-Site": kind, "Sec-Fetch-Dest": where}
            yield f"{kind} {where}", raw("GET", target, {**sent, "Cookie": visitor.cookie})
        sent = {"Host": here, "Sec-Fetch-Site": kind, "Sec-Fetch-Dest": "document"}
        target = f"/gradio_api/heartbeat/{visitor.session}"
        yield f"{kind} heartbeat", raw("GET", target, {**sent, "Cookie": visitor.cookie})
    for host in (
        *(
            "evil.example",
            f"evil.example:{port}",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
        ),
        *(
            "127.0.0.1.nip.io",
            "0.0.0.0",
            "2130706433",
            "0x7f.1",
            "127.1",
            "127.0.0.2",
            "localhost.",
        ),
        *("[::ffff:127.0.0.1]", "user@127.0.0.1", "127.0.0.1@evil.example", "127.0.0.1/evil"),
        *("127.0.0.1:99999", "127.0.0.1:x", "127.0.0.1#", "127.0.0.1, evil.example", "[::1", " "),
        *("127.0.0.1\tevil", "evil.example:80:127.0.0.1", "127.0.0.1\\evil.example", "::1", "*"),
    ):
        yield f"host: {host}", raw("GET", "/", {"Host": host, "Cookie": visitor.cookie})
    yield "host: none", b"GET / HTTP/1.0\r\n\r\n"
    yield "host: missing", b"GET / HTTP/1.1\r\n\r\n"
    yield "host: two", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n"
    yield "host: in the target", b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"


def sessions(visitor: Visitor, victim: Visitor, files: dict[str, str]) -> Iterator[Attack]:
    """What belongs to somebody else, and cookies that were never given out."""
    theirs = victim.session
    yield "session: stream of another", mine(visitor, "GET", f"{DATA}{theirs}")
    yield "session: stream of nobody", mine(visitor, "GET", f"{DATA}nobody1")
    yield (
        "session: two streams",
        mine(visitor, "GET", f"{DATA}{visitor.session}&session_hash={theirs}"),
    )
    yield "session: stream without a name", mine(visitor, "GET", "/gradio_api/queue/data")
    yield "session: heartbeat of another", mine(visitor, "GET", f"/gradio_api/heartbeat/{theirs}")
    yield "session: join as another", joined(visitor, {"data": ["x"], "fn_index": 4}, theirs)
    said = {"session_hash": theirs, "fn_index": 2, "event_id": "0" * 32}
    yield "session: cancel of another", posted(visitor, "/gradio_api/cancel", said)
    for what, path in files.items():
        yield f"file of another: {what}", mine(visitor, "GET", f"{FILE}{path}")
        message = {"data": [as_file(path)], "fn_index": 1}
        yield f"file of another, used: {what}", joined(visitor, message)
    name, _, value = visitor.cookie.partition("=")
    who, _, seal = value.partition("-")
    whose = victim.cookie.partition("=")[2].partition("-")[0]
    for what, cookie in {
        "none": "",
        "empty": f"{name}=",
        "without a seal": f"{name}={who}",
        "sealed for another": f"{name}={whose}-{seal}",
        "seal cut": f"{name}={who}-{seal[:-1]}",
        "long": f"{name}={'a' * 9000}-{'b' * 9000}",
        "odd": f'{name}="\\000\\377;{who}-{seal}',
        "of another port": f"toto-1={value}",
        "many": "; ".join(f"a{n}=b" for n in range(900)),
        "letters": f"{name}=\xff\xfe-\xff",
    }.items():
        sent = {"Host": "127.0.0.1", "Cookie": cookie}
        own = f"{FILE}{files['upload']}"
        yield f"cookie: {what}", raw("GET", own, sent)
