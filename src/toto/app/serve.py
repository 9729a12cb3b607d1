"""A page on this machine, for those it is meant for and nobody else.

Gradio draws the page and runs its events. What reaches it, and how much, is decided before it: by
the connection, the door, the bodies' limits and the visitors' own files, in this order. It makes no
request of its own, to anywhere.

Use:
    with PageServer(ServeConfig()) as server:
        say(server.url)
        server.run(lambda: build_page(run))
"""

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from toto.app.asgi import Asgi
from toto.app.bodies import Bodies
from toto.app.door import UPLOAD, Door
from toto.app.store import Store
from toto.app.visitors import Visitors

if TYPE_CHECKING:
    from gradio import Blocks

_log = logging.getLogger(__name__)
LEAST_PASSWORD = 12
"""Letters of a password; guesses take a second each."""
REQUEST_BYTES = 1 << 20
"""Of a request that uploads nothing."""
MULTIPART_BYTES = 64 << 10
"""What the form around an upload may take."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Where a page is served, and what its visitors may cost the machine."""

    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs a password."""
    port: int = 7860
    """0 takes a free one."""
    password_file: Path | None = None
    """File whose first line visitors must know; any name goes with it. Without TLS before it, who
    listens to the network learns it: a tunnel (`ssh -L`) to a page on 127.0.0.1 is safer."""
    names: tuple[str, ...] = ()
    """Further hosts under which browsers may ask for the page, without a port."""
    max_upload_bytes: int = 64 << 20
    max_stored_bytes: int = 2 << 30
    """Of all that visitors sent and the page made for them; more is taken when some has gone."""
    keep_s: float = 3600.0
    """How long such files stay after they were last written."""
    max_waiting: int = 16
    """Requests that wait for the model; more are told to come again."""
    max_requests: int = 64
    """Answered at a time; an open page takes two all the time, and six at most."""
    max_sessions: int = 32
    """Open pages whose clips are kept in memory; the oldest are dropped."""
    body_s: float = 20.0
    """Time for the body of a request."""
    body_bytes_per_s: float = 100e3
    """A body that comes at least so fast may take longer."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "port" and isinstance(value, int | float) and value <= 0:
                raise ValueError(f"{field.name} must be above 0, got {value}")
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port {self.port} is no port; they go from 0 to 65535")
        if not self.local and self.password_file is None:
            raise ValueError(
                f"host {self.host} can be reached from other machines: give --password-file FILE, "
                "or leave --host at 127.0.0.1"
            )
        if self.address.is_unspecified and not self.names:
            raise ValueError(
                f"host {self.host} stands for all addresses: say in --names under which hosts "
                "browsers will ask for the page"
            )

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        """The host as a number.

        Raises:
            ValueError: if it is none.
        """
        try:
            return ipaddress.ip_address("127.0.0.1" if self.host == "localhost" else self.host)
        except ValueError:
            raise ValueError(
                f"host {self.host!r} is no address; give one such as 127.0.0.1"
            ) from None

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.address.is_loopback

    def hosts(self) -> frozenset[str]:
        """Say which hosts a browser may ask for, all in small letters."""
        own = _LOOPBACK if self.local else ()
        return frozenset(name.lower() for name in (*own, *self.names, str(self.address)))

    def password(self) -> str | None:
        """Read the password.

        Raises:
            ValueError: if the file cannot be read, or its first line is short.
        """
        if self.password_file is None:
            return None
        try:
            lines = self.password_file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--password-file {self.password_file}: {error}") from error
        if not lines or len(lines[0]) < LEAST_PASSWORD:
            raise ValueError(
                f"--password-file {self.password_file}: its first line is shorter than "
                f"{LEAST_PASSWORD} letters; take a longer password"
            )
        return lines[0]


class PageServer:
    """One page behind one port. It listens from the start, and answers once `run` is called.

    Raises:
        ValueError: if Gradio is missing, the port cannot be had or the password is no good.
    """

    def __init__(self, config: ServeConfig) -> None:
        try:
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"the page needs {error.name}, which the extra `app` installs: "
                "pip install 'toto-video[app]'"
            ) from error
        self.config = config
        self._password = config.password()
        self._socket = _listening(config)
        self._store = Store(max_bytes=config.max_stored_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()
        self._store.close()

    @property
    def port(self) -> int:
        """The port that was asked for, or the free one that was found."""
        return self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """Where the page is."""
        address = self.config.address
        return f"http://{f'[{address}]' if address.version == 6 else address}:{self.port}/"

    def run(self, build: "Callable[[], Blocks]") -> None:
        """Build the page, and serve it until Ctrl-C or SIGTERM.

        Args:
            build: makes the page. It is called here, since Gradio reads where its files go when
                components are made.
        """
        import uvicorn

        from toto.app.connection import Connection

        with _surroundings(self._store), contextlib.suppress(KeyboardInterrupt):
            settings = uvicorn.Config(
                self._application(build()),
                http=Connection,
                loop="asyncio",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=2,
                h11_max_incomplete_event_size=32 << 10,
            )
            uvicorn.Server(settings).run(sockets=[self._socket])

    def _application(self, blocks: "Blocks") -> Asgi:
        """Put the page behind everything that guards it."""
        import gradio
        from fastapi import FastAPI

        config = self.config
        blocks.queue(max_size=config.max_waiting, default_concurrency_limit=1, api_open=False)
        blocks.state_session_capacity = config.max_sessions
        # Only then does Gradio check the paths in requests, and mounting does not say it.
        blocks.has_launched = True
        outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=self._sweeping())
        gradio.mount_gradio_app(
            outer,
            blocks,
            path="/",
            server_name=config.host,
            server_port=self.port,
            footer_links=[],
            run_history=False,
            allowed_paths=[],
            show_error=False,
            max_file_size=config.max_upload_bytes,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
        )
        self._visitors = Visitors(
            outer, store=self._store, cookie=f"toto-{self.port}", events=blocks.fns
        )
        bodies = Bodies(
            self._visitors,
            most_bytes=self._most_bytes,
            patience_s=config.body_s,
            least_bytes_per_s=config.body_bytes_per_s,
        )
        return Door(
            bodies,
            names=config.hosts(),
            password=self._password,
            most_requests=config.max_requests,
        )

    def _most_bytes(self, path: str) -> int:
        upload = self.config.max_upload_bytes + MULTIPART_BYTES
        return upload if path == UPLOAD else REQUEST_BYTES

    def _sweeping(self) -> "Callable[[Any], contextlib.AbstractAsyncContextManager[None]]":
        every_s = min(60.0, self.config.keep_s / 4)

        async def sweep() -> None:
            while True:
                await asyncio.sleep(every_s)
                await asyncio.to_thread(self._visitors.ownership.sweep, self.config.keep_s)

        @contextlib.asynccontextmanager
        async def lifespan(_: Any) -> AsyncIterator[None]:
            task = asyncio.create_task(sweep())
            yield
            task.cancel()

        return lifespan


def _listening(config: ServeConfig) -> socket.socket:
    try:
        return socket.create_server(
            (str(config.address), config.port),
            family=socket.AF_INET6 if config.address.version == 6 else socket.AF_INET,
            backlog=1024,
        )
    except OSError as error:
        raise ValueError(
            f"cannot listen on {config.host} port {config.port}: {error.strerror}; give another "
            "--port, or 0 for a free one"
        ) from error


@contextlib.contextmanager
def _surroundings(store: Store) -> Iterator[None]:
    """Settle what Gradio takes from its environment, and end on SIGTERM as on Ctrl-C."""
    kept, scratch = dict(os.environ), tempfile.tempdir
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        _log.warning("%s is ignored: the page's settings are options of `toto app`", name)
        del os.environ[name]
    os.environ |= {
        "GRADIO_TEMP_DIR": str(store.files),
        "GRADIO_EXAMPLES_CACHE": str(store.files),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # It goes over all that it remembers of events after each of them.
        "GRADIO_ANALYTICS_MAX_EVENTS": "100",
    }
    tempfile.tempdir = str(store.scratch)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        tempfile.tempdir = scratch
        os.environ.clear()
        os.environ.update(kept)
