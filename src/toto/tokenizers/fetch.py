"""Fetches published weights, and trusts nothing that comes: not the length, not the content.

None of these files has a published hash. So the first one seen is pinned: its sha256 goes into
`pins.json` in the cache, and every later one must have it. A maintainer who has checked a file
records its hash in `PUBLISHED`, which then counts.
"""

import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from toto.runtime.durable import (
    DiskFullError,
    explain_disk_errors,
    make_folder,
    rename,
    require_space,
    sha256_file,
    write_json,
)

ATTEMPTS = 3
TIMEOUT_S = 30.0
"""Longest silence of a server."""
CHUNK_BYTES = 2**20
MOST_BYTES = 8 * 2**30
LOOPBACK = ("127.0.0.1", "localhost", "::1")
Opener = Callable[..., Any]
"""Takes a `urllib.request.Request` and `timeout`, gives the response."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFile:
    """One file and where it lies."""

    url: str
    name: str
    sha256: str | None = None
    """None where no maintainer has recorded one: then the first that is seen is pinned."""
    megabytes: int = 0
    """About how large it is; for progress bars only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What belongs together, and what `toto.tokenizers.convert` calls it."""

    kind: str
    files: tuple[PublishedFile, ...]


def _vqgan(share: str, megabytes: int) -> Published:
    url = f"https://heibox.uni-heidelberg.de/d/{share}/files/?p=%2Fckpts%2Flast.ckpt&dl=1"
    file = PublishedFile(url=url, name="last.ckpt", megabytes=megabytes)
    return Published(kind="vqgan", files=(file,))


PUBLISHED: dict[str, Published] = {
    "openai-dvae": Published(
        kind="openai-dvae",
        files=tuple(
            PublishedFile(
                url=f"https://cdn.openai.com/dall-e/{name}", name=name, megabytes=megabytes
            )
            for name, megabytes in (("encoder.pkl", 215), ("decoder.pkl", 175))
        ),
    ),
    "vqgan-f16-1024": _vqgan("8088892a516d4e3baf92", 958),
    "vqgan-f16-16384": _vqgan("a7530b09fed84f80a887", 980),
    "flava-codebook": Published(
        kind="flava-codebook",
        files=(
            PublishedFile(
                url="https://huggingface.co/facebook/flava-image-codebook/resolve/main/pytorch_model.bin",
                name="pytorch_model.bin",
                megabytes=215,
            ),
        ),
    ),
}
"""Name to files. These are other people's addresses, and links die: the VQGANs are shares of a
university's cloud, of which one was seen to be gone. `fetch` then says what to get elsewhere."""


def default_cache() -> Path:
    """Folder of fetched weights: $TOTO_CACHE, or ~/.cache/toto."""
    chosen = os.environ.get("TOTO_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "toto"


def fetch(
    name: str,
    cache: Path | None = None,
    *,
    advance: Callable[[int], object] = lambda count: None,
    published: dict[str, Published] = PUBLISHED,
    opener: Opener | None = None,
    loopback: bool = False,
) -> tuple[Path, ...]:
    """Have the files of published weights in the cache: fetched, or there already.

    A file gets its name only once it is whole and has the sha256 that is recorded or pinned.

    Args:
        name: a key of `published`.
        cache: where fetched files stay; None is `default_cache()`.
        advance: told how many more bytes are there; fewer than 0 when a file is begun anew.
        published: the table of what there is.
        opener: opens a request; None is urllib's, which follows redirects to https alone.
        loopback: whether http to this machine itself will do, for tests.

    Returns:
        The files, in the table's order.

    Raises:
        ValueError: if there is none of that name, or a file is not the one recorded or pinned.
        OSError: if a file cannot be had; the message says where to get and put it by hand.
    """
    if name not in published:
        raise ValueError(f"no published weights {name!r}; known are: {', '.join(published)}")
    cache = cache or default_cache()
    folder = cache / name
    make_folder(folder)
    open_ = opener or _opener(loopback)
    paths = tuple(folder / file.name for file in published[name].files)
    for file, path in zip(published[name].files, paths, strict=True):
        _require_safe(file.url, loopback)
        pins = _Pins(cache / "pins.json", f"{name}/{file.name}", file.sha256)
        if path.exists():
            with path.open("rb") as present:
                if _is_web_page(present.read(512)):
                    raise ValueError(f"{path} is a web page, not weights; delete it")
            pins.check(path, sha256_file(path), path.stat().st_size)
            advance(path.stat().st_size)
            continue
        temporary = path.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
        try:
            with temporary.open("xb") as out:
                received = _receive(file.url, out, open_, advance)
                os.fsync(out.fileno())
            pins.check(path, received.sha.hexdigest(), received.count)
            rename(temporary, path)
        except DiskFullError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise OSError(_by_hand(name, published[name], folder, file, error)) from error
        finally:
            temporary.unlink(missing_ok=True)
    return paths


@dataclass(slots=True)
class _Received:
    """What has come of a file so far, over all attempts."""

    out: BinaryIO
    sha: Any = field(default_factory=hashlib.sha256)
    count: int = 0
    total: int | None = None
    version: str | None = None
    """What the server calls this content; a later part must be of the same."""


@dataclass(frozen=True, slots=True)
class _Pins:
    """The sha256 that one file must have."""

    path: Path
    key: str
    recorded: str | None

    def check(self, path: Path, found: str, size_bytes: int) -> None:
        """Refuse any other file than the recorded or pinned one; pin the first."""
        pins = self._read()
        expected = self.recorded or pins.get(self.key)
        if expected is None:
            write_json(self.path, {**pins, self.key: found})
        elif found != expected:
            where = "recorded here" if self.recorded else f"pinned in {self.path}"
            raise ValueError(
                f"{path}: not the file that is {where}: sha256 {found} of {size_bytes} bytes, "
                f"expected {expected}; it was changed at its source or on the way"
            )

    def _read(self) -> dict[str, str]:
        try:
            pins = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ValueError(f"{self.path}: damaged ({error}); delete it to pin anew") from error
        if not isinstance(pins, dict):
            raise ValueError(f"{self.path}: damaged (not an object); delete it to pin anew")
        return pins


def _receive(url: str, out: BinaryIO, open_: Opener, advance: Callable[[int], object]) -> _Received:
    """Take a file from its server; a connection that breaks is taken up again where it broke."""
    received = _Received(out)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _attempt(url, received, open_, advance)
        except DiskFullError:
            raise
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 or attempt == ATTEMPTS:
                raise OSError(f"the server answered {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException):
            if attempt == ATTEMPTS:
                raise
        else:
            break
    return received


def _attempt(
    url: str, received: _Received, open_: Opener, advance: Callable[[int], object]
) -> None:
    headers = {"User-Agent": "toto", "Accept-Encoding": "identity"}
    if received.count and received.version:
        headers |= {"Range": f"bytes={received.count}-", "If-Range": received.version}
    with open_(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as response:
        span = f"bytes {received.count}-{(received.total or 0) - 1}/{received.total}"
        if response.status != 206 or response.headers.get("Content-Range") != span:
            _begin(received, response, advance)
        assert received.total is not None
        while chunk := response.read(CHUNK_BYTES):
            if received.count == 0 and _is_web_page(chunk):
                raise _DeadLinkError("a web page came instead: the link is dead or wants a login")
            with explain_disk_errors(Path(received.out.name), needed_bytes=received.total):
                received.out.write(chunk)
            received.sha.update(chunk)
            received.count += len(chunk)
            advance(len(chunk))
    if received.count != received.total:
        raise ConnectionError(f"cut off after {received.count} of {received.total} bytes")


def _begin(received: _Received, response: Any, advance: Callable[[int], object]) -> None:
    """Begin a file, or begin it anew where the server cannot take up the old one."""
    length = response.headers.get("Content-Length", "")
    if response.status != 200 or not re.fullmatch(r"\d{1,15}", length):
        raise OSError(f"the server does not say how long the file is (status {response.status})")
    received.total = int(length)
    if received.total > MOST_BYTES:
        raise OSError(f"{received.total} bytes are too many for weights")
    require_space(Path(received.out.name).parent, needed_bytes=received.total)
    tag = response.headers.get("ETag")
    # A weak tag may stand for other bytes.
    received.version = tag if tag and not tag.startswith("W/") else None
    advance(-received.count)
    received.out.seek(0)
    received.out.truncate()
    received.sha, received.count = hashlib.sha256(), 0


class _DeadLinkError(OSError):
    """What came is a page for people."""


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where it is safe to read from."""

    def __init__(self, loopback: bool) -> None:
        self._loopback = loopback

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _require_safe(newurl, self._loopback)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(loopback: bool) -> Opener:
    proxies = [urllib.request.ProxyHandler({})] if loopback else []
    return urllib.request.build_opener(*proxies, _HttpsRedirects(loopback)).open


def _require_safe(url: str, loopback: bool) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (
        loopback and parts.scheme == "http" and parts.hostname in LOOPBACK
    ):
        raise ValueError(f"{url}: weights are fetched over https alone")


def _is_web_page(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _by_hand(
    name: str, published: Published, folder: Path, failed: PublishedFile, error: Exception
) -> str:
    """Say in one line what to do where there is no network or no such file any more."""
    missing = [file for file in published.files if not (folder / file.name).exists()]
    wanted = " and ".join(f"{file.name} from {file.url}" for file in missing)
    paths = " ".join(str(folder / file.name) for file in published.files)
    return (
        f"{name}: {failed.name} could not be fetched ({error}); get {wanted} another way, put it "
        f"into {folder}, then run: toto tokenizer convert {paths} --out DIR"
    )
