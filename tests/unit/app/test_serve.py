"""Where a page may be served, before any page is there."""

import socket
import sys
from pathlib import Path

import pytest

from toto.app.serve import PageServer, ServeConfig


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9"])
def test_this_machine_needs_no_password(host: str) -> None:
    config = ServeConfig(host=host)
    assert config.local
    assert config.password() is None
    assert config.hosts() >= {"127.0.0.1", "localhost", "::1"}


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "10.0.0.1", "2001:db8::1"])
def test_other_machines_need_a_password(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"host {host} can be reached from other machines: give"):
        ServeConfig(host=host)
    config = ServeConfig(host=host, password_file=tmp_path / "p", names=("Page.Example",))
    assert not config.local
    # A name of this machine is what another site's name is made to point at.
    assert config.hosts() == {"page.example", str(config.address)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"host": "page.example"}, "host 'page.example' is no address; give one such as 127.0.0.1"),
        ({"port": 65536}, "port 65536 is no port; they go from 0 to 65535"),
        ({"port": -1}, "port -1 is no port"),
        ({"max_upload_bytes": 0}, "max_upload_bytes must be above 0, got 0"),
        ({"keep_s": -1.0}, r"keep_s must be above 0, got -1\.0"),
        ({"max_waiting": 0}, "max_waiting must be above 0, got 0"),
        (
            {"host": "0.0.0.0", "password_file": Path("p")},
            "host 0.0.0.0 stands for all addresses: say in --names",
        ),
    ],
)
def test_configs_that_are_refused(fields: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServeConfig(**fields)


def test_the_first_line_of_a_file_is_the_password(tmp_path: Path) -> None:
    config = ServeConfig(password_file=tmp_path / "secret")
    with pytest.raises(ValueError, match=r"secret: .* No such file"):
        config.password()
    for short in ("", "short\nlong enough on the second line"):
        (tmp_path / "secret").write_text(short)
        with pytest.raises(ValueError, match="its first line is shorter than 12 letters; take a"):
            config.password()
    (tmp_path / "secret").write_text("correct horse battery\nmore")
    assert config.password() == "correct horse battery"


def test_a_port_that_is_taken_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the extra `app` is not installed")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1 port {port}: .* --port"):
            PageServer(ServeConfig(port=port))
    # A server that does not start leaves nothing behind.
    assert list(tmp_path.iterdir()) == []
    with PageServer(ServeConfig(port=0)) as server:
        assert server.url == f"http://127.0.0.1:{server.port}/"
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_without_its_extra_it_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(
        ValueError, match=r"the extra `app` installs: pip install 'toto-video\[app\]"
    ):
        PageServer(ServeConfig(port=0))
