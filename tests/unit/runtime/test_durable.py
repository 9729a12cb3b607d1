import errno
import json
import os
import resource
from pathlib import Path

import pytest

from toto.runtime import durable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_bytes_makes_and_replaces(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "a", b"one")
    durable.write_bytes(tmp_path / "a", b"two, longer")
    assert (tmp_path / "a").read_bytes() == b"two, longer"
    assert names(tmp_path) == ["a"]


def test_write_json_is_read_back(tmp_path: Path) -> None:
    durable.write_json(tmp_path / "a.json", {"x": [1, 2.5, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2.5, None]}


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert durable.sha256_file(tmp_path / "abc") == expected


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    durable.write_bytes(tmp_path / "a", b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, call, full)
        with pytest.raises(
            durable.DiskFullError, match=r"a: the disk .* full \(3 bytes needed, \d"
        ):
            durable.write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(durable.os, "write", lambda fd, data: write(fd, data[:3]))
    durable.write_bytes(tmp_path / "a", b"0123456789")
    durable.append(tmp_path / "a", b"abcdefgh")
    assert (tmp_path / "a").read_bytes() == b"0123456789abcdefgh"


def test_the_kernel_stopping_a_write_leaves_nothing_and_names_the_file(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "log", b"x" * 90)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*big"):
            durable.write_bytes(tmp_path / "big", b"y" * 200)
        with pytest.raises(OSError, match=r"File too large: .*log"):
            durable.append(tmp_path / "log", b"z" * 50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["log"]
    assert (tmp_path / "log").read_bytes() == b"x" * 90


def test_space_is_asked_for_first(tmp_path: Path) -> None:
    durable.require_space(tmp_path, needed_bytes=1)
    with pytest.raises(durable.DiskFullError, match=f"{2**60} bytes needed"):
        durable.require_space(tmp_path, needed_bytes=2**60)


def test_write_new_refuses_an_existing_file(tmp_path: Path) -> None:
    durable.write_new(tmp_path / "a", b"one")
    with pytest.raises(FileExistsError, match="a'"):
        durable.write_new(tmp_path / "a", b"two")


def test_commit_folder_refuses_an_existing_name(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "final").mkdir()
    with pytest.raises(ValueError, match=r"final exists already; remove it"):
        durable.commit_folder(tmp_path / "new", tmp_path / "final")


def test_a_name_is_given_only_after_all_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new"
    (folder / "below").mkdir(parents=True)
    (folder / "one").write_bytes(b"1")
    (folder / "below" / "two").write_bytes(b"2")
    done: list[str] = []
    rename, fsync = os.rename, os.fsync

    def noted_fsync(descriptor: int) -> None:
        done.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def noted_rename(old: Path, new: Path) -> None:
        done.append("rename")
        rename(old, new)

    monkeypatch.setattr(durable.os, "fsync", noted_fsync)
    monkeypatch.setattr(durable.os, "rename", noted_rename)
    durable.commit_folder(folder, tmp_path / "final")
    at = done.index("rename")
    assert sorted(done[:at]) == ["fsync below", "fsync new", "fsync one", "fsync two"]
    assert done.index("fsync two") < done.index("fsync below") < done.index("fsync new")
    assert done[at + 1 :] == [f"fsync {tmp_path.name}"]


def test_a_crash_point_counts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(durable.os, "kill", lambda _pid, number: killed.append(number))
    monkeypatch.setenv("TOTO_CRASH_AT", "here:3")
    for _ in range(2):
        durable.crash_point("here")
        durable.crash_point("elsewhere")
    assert killed == []
    durable.crash_point("here")
    assert killed == [9]
