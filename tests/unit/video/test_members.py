"""Members of tar archives: what is read is what was written, and nothing unsafe or damaged is."""

import gzip
import hashlib
import io
import multiprocessing
import os
import random
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from made_datasets import JPEG, MP4, tar

from toto.video.members import (
    ArchiveError,
    ArchiveLimits,
    is_archive,
    list_members,
    member_of,
    read_member,
)

FILES = [
    ("a.jpg", JPEG),
    ("empty.txt", b""),
    ("deep/er/b.mp4", MP4 + bytes(1000)),
    ("n" * 150 + "/" + "m" * 90 + ".bin", bytes(range(256)) * 5),
    ("é.txt", "é".encode()),
]


def added(path: Path, *infos: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for info in infos:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def info(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **more: object
) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, size
    for key, value in more.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".TAR"])
def test_members_are_what_was_written(tmp_path: Path, form: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with tarfile.open(path, "w:gz" if "gz" in suffix else "w", format=form) as archive:
        folder = tarfile.TarInfo("deep/")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in FILES:
            item = tarfile.TarInfo(name)
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
    members = list_members(path)
    assert list(members) == [name for name, _ in FILES]
    assert [members[name].kind for name, _ in FILES] == ["image", None, "video", None, None]
    for name, data in random.Random(0).sample(FILES, len(FILES)):
        assert read_member(path, name) == data


def test_an_archive_of_gnu_tars_own_numbers_and_dots(tmp_path: Path) -> None:
    path = added(tmp_path / "a.tar", info("./x//y.bin", size=10), info("z", b"\0"))
    data = bytearray(path.read_bytes())
    data[124:136] = b"\x80" + (10).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    path.write_bytes(data)
    assert list(list_members(path)) == ["x/y.bin", "z"]
    assert read_member(path, "x/y.bin") == bytes(10)


@pytest.mark.parametrize(
    ("infos", "reason"),
    [
        ([info("./")], "has a member without a name"),
        ([info("a"), info("a")], "has member 'a' twice"),
        ([info("a/b"), info("./a//b")], "has member 'a/b' twice"),
        ([info("/etc/passwd")], "member '/etc/passwd' would lie outside of its folder"),
        ([info("a/../../b")], "would lie outside of its folder"),
        ([info("..", tarfile.DIRTYPE)], "would lie outside of its folder"),
        ([info("l", tarfile.SYMTYPE, linkname="/etc/passwd")], "is a symbolic link, not a regular"),
        ([info("l", tarfile.LNKTYPE, linkname="a")], "is a hard link, not a regular file"),
        ([info("d", tarfile.CHRTYPE)], "is a device, not a regular file"),
        ([info("d", tarfile.BLKTYPE)], "is a device, not a regular file"),
        ([info("p", tarfile.FIFOTYPE)], "is a pipe, not a regular file"),
        ([info("s", tarfile.GNUTYPE_SPARSE)], "is a sparse file, not a regular file"),
        ([info("q", b"Q")], "is of unknown type b'Q', not a regular file"),
        ([info("s", pax_headers={"GNU.sparse.major": "1"})], "has a sparse file"),
        ([info("s", pax_headers={"path": "../up"})], "would lie outside of its folder"),
        ([info("s", pax_headers={"size": "-5"})], "size cannot be read"),
        ([info("s", pax_headers={"size": "9" * 18})], "has more than 1099511627776 bytes"),
        ([info("s", pax_headers={"comment": "x" * (1 << 20)})], "has a header of 1048"),
    ],
)
def test_an_unsafe_archive_is_refused_whole(
    tmp_path: Path, infos: list[tarfile.TarInfo], reason: str
) -> None:
    path = added(tmp_path / "a.tar", info("good.jpg", size=9), *infos)
    for call in (lambda: list_members(path), lambda: read_member(path, "good.jpg")):
        with pytest.raises(ArchiveError) as refusal:
            call()
        assert reason in str(refusal.value)
        assert str(path) in str(refusal.value)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_every_cut_is_found(tmp_path: Path, suffix: str) -> None:
    whole = tar(tmp_path / f"a{suffix}", FILES, "w:gz" if "gz" in suffix else "w").read_bytes()
    end = len(whole)
    if suffix == ".tar":
        end = max(
            member.offset + member.size for member in list_members(tmp_path / "a.tar").values()
        )
        end = -(-end // 512) * 512 + 512  # cut within the zeros after the end mark, nothing is lost
    path = tmp_path / f"cut{suffix}"
    for length in {*range(0, end, 97), *range(0, end, 512), end - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(ArchiveError, match=r"is cut off|is not a tar|is damaged"):
            list_members(path)


def test_damage_of_headers_never_shortens_the_list(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", FILES)
    whole, members = path.read_bytes(), dict(list_members(path))
    first = {name: read_member(path, name) for name in members}
    draw = random.Random(0)
    found = 0
    for _ in range(300):
        data = bytearray(whole)
        data[draw.randrange(512)] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        os.utime(path, ns=(draw.randrange(1 << 40),) * 2)
        try:
            again = list_members(path)
        except ArchiveError:
            found += 1
        else:
            assert dict(again) == members  # only a bit that no reader looks at
            assert {name: read_member(path, name) for name in again} == first
    assert found > 280


def test_two_archives_in_one_file_are_refused(tmp_path: Path) -> None:
    one, other = tar(tmp_path / "a.tar", FILES[:1]), tar(tmp_path / "b.tar", FILES[2:3])
    path = tmp_path / "c.tar"
    path.write_bytes(one.read_bytes() + other.read_bytes())
    with pytest.raises(ArchiveError, match="goes on after its end mark; what follows is lost"):
        list_members(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not a tar archive"),
        (b"#EXTM3U\n" + b"x" * 1000, "is not a tar archive"),
        (JPEG * 20, "is not a tar archive"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=reason):
        list_members(path)
    (tmp_path / "a.tgz").write_bytes(data)
    with pytest.raises(ArchiveError, match=r"is damaged|is not a tar"):
        list_members(tmp_path / "a.tgz")


def test_a_bomb_is_stopped_by_its_ratio(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    size = 40 << 20
    with gzip.open(path, "wb") as file:
        file.write(info("zeros.mp4", size=size).tobuf())
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
        file.write(bytes(1024))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ArchiveError, match=r"unpacks to more than .* the limit for its size"):
        list_members(path)
    generous = ArchiveLimits(max_ratio=2000)
    assert list_members(path, generous)["zeros.mp4"].size == size


def test_limits_are_held(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", FILES)
    with pytest.raises(ArchiveError, match="has more than 4 members"):
        list_members(path, ArchiveLimits(max_members=4))
    with pytest.raises(ArchiveError, match=r"max_file_bytes is 4000|more than 4000 bytes"):
        list_members(path, ArchiveLimits(max_bytes=4000))
    few = ArchiveLimits(max_member_bytes=1000)
    assert len(list_members(path, few)) == len(FILES)
    assert read_member(path, "a.jpg", few) == JPEG
    with pytest.raises(ArchiveError, match=r"b\.mp4' has 1072 bytes, max_member_bytes is 1000"):
        read_member(path, "deep/er/b.mp4", few)


def test_a_member_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", FILES)
    with pytest.raises(ArchiveError, match=r"a\.tar has no member 'b'"):
        read_member(path, "b")
    with pytest.raises(ArchiveError, match=r"c\.tar: No such file"):
        list_members(tmp_path / "c.tar")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_changed_archive_is_read_anew(tmp_path: Path, suffix: str) -> None:
    mode = "w:gz" if "gz" in suffix else "w"
    path = tar(tmp_path / f"a{suffix}", [("a", b"one")], mode)
    assert read_member(path, "a") == b"one"
    path.unlink()
    tar(path, [("b", b"x"), ("a", b"another")], mode)
    assert read_member(path, "a") == b"another"


def test_no_pipe_or_device_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(ArchiveError, match="it is not a regular file"):
        list_members(tmp_path / "a.tar")
    (tmp_path / "b.tar").symlink_to("/dev/zero")
    with pytest.raises(ArchiveError, match="it is not a regular file"):
        list_members(tmp_path / "b.tar")


def _hashes(path: Path, names: Iterable[str]) -> list[str]:
    return [hashlib.sha256(read_member(path, name)).hexdigest() for name in names]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_readers_do_not_move_each_others_place(tmp_path: Path) -> None:
    draw = random.Random(0)
    files = [(f"{number}.bin", draw.randbytes(20_000)) for number in range(60)]
    path = tar(tmp_path / "a.tar.gz", files, "w:gz")
    names = [name for name, _ in files]
    expected = [hashlib.sha256(data).hexdigest() for _, data in files]
    assert _hashes(path, names[:1]) == expected[:1]  # this process now holds the archive open
    with multiprocessing.get_context("fork").Pool(2) as pool:
        both = [pool.apply_async(_hashes, (path, names)) for _ in range(2)]
        assert [result.get(60) for result in both] == [expected, expected]
    assert _hashes(path, names) == expected


@pytest.mark.parametrize(
    ("path", "archive", "member"),
    [
        ("x/a.tar#b/c.jpg", "x/a.tar", "b/c.jpg"),
        ("a.tar.gz#b.tar#c", "a.tar.gz", "b.tar#c"),
        ("a.TGZ#b", "a.TGZ", "b"),
        ("a.tar#", "a.tar", ""),
        ("a#b.mp4", "a#b.mp4", None),
        ("a.tar", "a.tar", None),
    ],
)
def test_the_path_of_an_entry_names_archive_and_member(
    path: str, archive: str, member: str | None
) -> None:
    assert member_of(Path("r"), path) == (Path("r") / archive, member)


def test_names_of_archives() -> None:
    assert [is_archive(name) for name in ("a.tar", "a.TAR.GZ", "a.tgz", "a.zip", "tar")] == [
        True,
        True,
        True,
        False,
        False,
    ]
