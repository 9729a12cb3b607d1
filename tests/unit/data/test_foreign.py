"""Token files of others: what is read is what was stored, what is refused is named."""

import gzip
import hashlib
import io
import json
import re
import struct
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from made_foreign import (
    archive_bytes,
    array_bytes,
    commavq,
    line,
    minute,
    sentence,
)

from toto.data import foreign
from toto.data.foreign import FORMATS, ForeignClip, RefusedRecord

NO_ARRAY = "not an array of whole numbers as numpy.save writes it"
COMMAVQ, LVM = FORMATS["commavq"], FORMATS["lvm"]


def read(path: Path, name: str | None = None) -> list[ForeignClip | RefusedRecord]:
    kind = LVM if path.suffix == ".jsonl" else COMMAVQ
    return list(kind.records(path, name or path.name))


def refusal(path: Path) -> str:
    """The reason of the only record, which must be refused."""
    (record,) = read(path)
    assert isinstance(record, RefusedRecord)
    return record.reason


def good(records: list[ForeignClip | RefusedRecord]) -> list[ForeignClip]:
    assert all(isinstance(record, ForeignClip) for record in records), records
    return [record for record in records if isinstance(record, ForeignClip)]


@pytest.mark.parametrize("dtype", ["int16", ">i2", "uint8", "int64", "int32"])
@pytest.mark.parametrize("flat", [False, True])
def test_an_array_of_codes_is_read_as_it_is(tmp_path: Path, dtype: str, flat: bool) -> None:
    codes = minute(0) % 256
    stored = codes.reshape(6, 128) if flat else codes
    data = array_bytes(stored.astype(dtype))
    (tmp_path / "a.npy").write_bytes(data)
    (clip,) = good(read(tmp_path / "a.npy"))
    np.testing.assert_array_equal(clip.grid.ids.numpy(), codes)
    assert clip.grid.vocab_size == 1024
    assert (clip.source, clip.sha256) == ("a.npy", hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("fractions", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_gives_its_token_arrays_in_order(
    tmp_path: Path, fractions: bool, packed: bool
) -> None:
    names = ["b.token.npy", f"{'long-' * 40}a.token.npy", "c.token.npy"]
    members = {name: array_bytes(minute(number)) for number, name in enumerate(names)}
    members["b.pose.npy"] = b"not read"
    members["b.json"] = b"{}"
    data = archive_bytes(members, fractions=fractions)
    path = tmp_path / ("d.tar.gz" if packed else "d.tar")
    path.write_bytes(gzip.compress(data) if packed else data)
    clips = good(read(path, "below/d.tar"))
    assert [clip.source for clip in clips] == [f"below/d.tar#{name}" for name in names]
    for number, clip in enumerate(clips):
        np.testing.assert_array_equal(clip.grid.ids.numpy(), minute(number))


def test_lines_are_read_as_images(tmp_path: Path) -> None:
    path = tmp_path / "davis.jsonl"
    path.write_bytes(line(sentence(0)) + b"\n" + line(sentence(1, 16)))
    first, second = good(read(path))
    # An empty line is no record, and counts: editors number lines so.
    assert (first.source, second.source) == ("davis.jsonl#1", "davis.jsonl#3")
    np.testing.assert_array_equal(first.grid.ids.numpy(), sentence(0).reshape(3, 16, 16))
    assert second.grid.ids.shape == (16, 16, 16)
    assert second.sha256 == hashlib.sha256(line(sentence(1, 16))).hexdigest()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (minute(0) - 1024, r"codes -1024..-\d lie outside the 1024 of commavq"),
        (minute(0) + 1, r"codes \d..1024 lie outside the 1024"),
        (minute(0).astype("float32"), NO_ARRAY),
        (minute(0).reshape(6, 16, 8), r"an array of \(6, 16, 8\) is not frames of 8 x 16 tokens"),
        (minute(0).reshape(-1), "is not frames of 8 x 16"),
        (minute(0)[:0], "promises 0 bytes"),
        (np.asfortranarray(minute(0)), NO_ARRAY),
        (np.array(5), "is not frames of 8 x 16"),
        (np.zeros(3, dtype=[("a", "<i2")]), NO_ARRAY),
        (np.zeros((2, 8, 16), dtype=bool), NO_ARRAY),
    ],
)
def test_an_array_that_is_no_codes_is_refused(
    tmp_path: Path, array: np.ndarray, reason: str
) -> None:
    codes = array
    if "1024 lie" in reason:
        codes = array.copy()
        codes[0, 0, 0] = 1024
    (tmp_path / "a.npy").write_bytes(array_bytes(codes))
    assert re.search(reason, refusal(tmp_path / "a.npy"))


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    body = text.encode().ljust(118 if len(text) < 118 else len(text)) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(body)) + body


SHAPE = "{'descr': '<i2', 'fortran_order': False, 'shape': %s, }"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", NO_ARRAY),
        (b"PK\x03\x04" + b"\0" * 200, NO_ARRAY),
        (header(SHAPE % "(2, 8, 16)", b"\x02\x00") + b"\0" * 512, NO_ARRAY),
        # A terabyte is promised, and no byte of it is asked for.
        (header(SHAPE % "(4000000000, 8, 16)") + b"\0" * 256, "promises 1024000000000 bytes"),
        (header(SHAPE % "(2, 8, 16)") + b"\0" * 511, "promises 512 bytes of numbers, 511 are"),
        (header(SHAPE % "(2, 8, 16)") + b"\0" * 513, "promises 512 bytes of numbers, 513 are"),
        (header(SHAPE % "(-2, 8, 16)") + b"\0" * 512, NO_ARRAY),
        (header(SHAPE % f"(0, {10**30})"), "promises 0 bytes of numbers"),
        (header(SHAPE % f"({'1, ' * 80}1)") + b"\0" * 2, NO_ARRAY),
        (header("(" * 900), NO_ARRAY),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (1, 8, 16), }"), NO_ARRAY),
        (header("__import__('os').abort()"), NO_ARRAY),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    assert reason in refusal(tmp_path / "a.npy")


def test_a_pickle_in_an_array_is_not_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(tmp_path / "opened"), "w")

    file = io.BytesIO()
    np.save(file, np.array([Trap()], dtype=object), allow_pickle=True)
    (tmp_path / "a.npy").write_bytes(file.getvalue())
    assert refusal(tmp_path / "a.npy").startswith(NO_ARRAY)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "not a line of"),
        (b"[" * 100_000, "not a line of"),
        (b"\xff\xfe", "not a line of"),
        (b'{"ids": "AAAA"}', "not a line of {\"tokens\": base64}: 'tokens'"),
        (b'{"tokens": 5}', "not a line of"),
        (b'{"tokens": "*"}', "not a line of"),
        (b'{"tokens": ""}', "0 bytes are not whole images of 256 codes of 32 bits"),
        (line(sentence(0).reshape(-1)[:-1]), "3068 bytes are not whole images"),
        (line(sentence(0).astype("<i8")), "seem to have 64 bits"),
        (line(sentence(0) + 8192), "lie outside the 8192 of lvm"),
        (line(sentence(0) - 8192), "lie outside the 8192 of lvm"),
    ],
)
def test_a_line_that_is_no_codes_is_refused_alone(tmp_path: Path, text: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(sentence(0)) + text.rstrip(b"\n") + b"\n" + line(sentence(1)))
    before, bad, after = read(path)
    assert isinstance(bad, RefusedRecord)
    assert bad.source == "a.jsonl#2"
    assert reason in bad.reason
    np.testing.assert_array_equal(good([before])[0].grid.ids.numpy().reshape(3, 256), sentence(0))
    np.testing.assert_array_equal(good([after])[0].grid.ids.numpy().reshape(3, 256), sentence(1))


def test_a_long_line_is_skipped_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "LINE_BYTES", 2**16)
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        for _ in range(256):
            file.write(b"x" * 2**16)
        file.write(b"\n" + line(sentence(1)))
    tracemalloc.start()
    long, after = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(long, RefusedRecord)
    assert long.reason == "longer than 65536 bytes"
    assert good([after])[0].source == "a.jsonl#2"
    assert peak < 2**21


def broken(path: Path, *, after: int) -> str:
    """The last record of an archive that breaks off behind `after` arrays."""
    *clips, last = read(path)
    assert len(good(clips)) == after
    assert isinstance(last, RefusedRecord)
    assert last.source == path.name
    assert f"broken after {after} arrays" in last.reason
    return last.reason


def test_an_archive_cut_anywhere_says_so(tmp_path: Path) -> None:
    whole = commavq(tmp_path / "whole.tar.gz", 3).read_bytes()
    for share in (0.3, 0.6, 0.99):
        path = tmp_path / "cut.tar.gz"
        path.write_bytes(whole[: int(share * len(whole))])
        last = read(path)[-1]
        assert isinstance(last, RefusedRecord)
        assert "broken after" in last.reason
    # tarfile would take both for the end of the archive.
    plain = gzip.decompress(whole)
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        offsets = [member.offset for member in archive.getmembers()]
    (tmp_path / "cut.tar").write_bytes(plain[: offsets[3]])
    assert "cut short" in broken(tmp_path / "cut.tar", after=1)
    damaged = bytearray(plain)
    damaged[offsets[6] + 3] ^= 1
    (tmp_path / "damaged.tar").write_bytes(damaged)
    assert "bad checksum" in broken(tmp_path / "damaged.tar", after=2)


def test_a_flipped_bit_in_a_packed_archive_is_found(tmp_path: Path) -> None:
    path = commavq(tmp_path / "a.tar.gz", 2)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    assert "CRC" in broken(path, after=2)


def hostile(typeflag: bytes, size: int, content: bytes = b"") -> bytes:
    """A header that promises `size` bytes, and what follows it."""
    info = tarfile.TarInfo("a.token.npy")
    info.type, info.size = typeflag, size
    return info.tobuf(tarfile.GNU_FORMAT) + content


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (hostile(b"0", 2**40), "has 1099511627776 bytes, 16777216 at most"),
        (hostile(b"0", -512), "a member of -512 bytes"),
        (hostile(b"x", 2**40), "headers of more than 4096 bytes"),
        (hostile(b"L", 2**40), "headers of more than 4096 bytes"),
        (hostile(b"g", 2**40), "headers of more than 4096 bytes"),
        (hostile(b"x", -(2**30)), "a member of -1073741824 bytes"),
        (hostile(b"x", 512, b"\0" * 512) * 9, "headers of more than 4096 bytes"),
        (hostile(b"2", 0), "neither a file nor a folder"),
        (hostile(b"1", 0), "neither a file nor a folder"),
        (hostile(b"6", 0), "neither a file nor a folder"),
        (hostile(b"3", 0), "neither a file nor a folder"),
        (b"\1" * 512, "broken after 0 arrays"),
        (b"", "cut short"),
    ],
)
def test_a_hostile_archive_takes_no_memory(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.tar.gz"
    # Megabytes of zeros wait behind the header.
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(data)
        for _ in range(24 if data else 0):
            file.write(b"\0" * 2**20)
    tracemalloc.start()
    said = broken(path, after=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reason in said
    assert peak < 2**22


def test_a_packed_archive_without_end_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "ARCHIVE_BYTES", 2**20)
    members = {f"{number}.txt": b"\0" * 2**18 for number in range(8)}
    (tmp_path / "many.tar").write_bytes(archive_bytes(members))
    assert "more than 1048576 bytes in one archive" in broken(tmp_path / "many.tar", after=0)
    padded = archive_bytes({"a.token.npy": array_bytes(minute(0))}) + b"\0" * 2**21
    (tmp_path / "padded.tar").write_bytes(padded)
    assert "more bytes follow its end" in broken(tmp_path / "padded.tar", after=1)


def test_bytes_behind_the_end_of_an_archive_are_named(tmp_path: Path) -> None:
    data = archive_bytes({"a.token.npy": array_bytes(minute(0))})
    (tmp_path / "two.tar").write_bytes(data + data)
    assert "more bytes follow its end" in broken(tmp_path / "two.tar", after=1)


def test_an_archive_without_arrays_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(archive_bytes({"a.txt": b"", "a.pose.npy": b""}))
    assert refusal(tmp_path / "a.tar") == "an archive without token arrays (.npy)"


def test_damage_of_any_kind_is_a_refusal_and_never_an_exception(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {f"{'n' * 120 * (i % 2)}{i}.npy": array_bytes(minute(i)) for i in range(3)}
    files = {
        "a.npy": array_bytes(minute(0)),
        "a.tar": archive_bytes(arrays, fractions=True),
        "a.tar.gz": commavq(tmp_path / "whole.tar.gz", 2).read_bytes(),
        "a.jsonl": line(sentence(0)) * 3,
    }
    refused = 0
    for number in range(200):
        name = sorted(files)[number % 4]
        data = bytearray(files[name])
        # Most of the trouble is in headers, which stand at multiples of 512.
        place = int(random.integers(len(data)))
        if name == "a.tar" and number % 8:
            place = place // 512 * 512 + int(random.integers(512)) % 160
        place = min(place, len(data) - 1)
        match number % 5:
            case 0:
                del data[place:]
            case 1:
                data[place] ^= 1 << int(random.integers(8))
            case 2:
                data[place : place + 40] = random.bytes(20)
            case 3:
                data[place:place] = random.bytes(30)
            case _:
                data[place : place + 40] = b"\0" * 40
        (tmp_path / name).write_bytes(data)
        refused += any(isinstance(record, RefusedRecord) for record in read(tmp_path / name))
    assert refused > 100


def test_files_are_found_by_name_in_order(tmp_path: Path) -> None:
    for name in ("b/2.npy", "b/10.npy", "a.tar.gz", "c.pose.npy", "d.txt", "e.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.npy").mkdir()
    assert [name for _, name in COMMAVQ.files(tmp_path)] == ["a.tar.gz", "b/10.npy", "b/2.npy"]
    assert LVM.files(tmp_path / "e.jsonl") == [(tmp_path / "e.jsonl", "e.jsonl")]
    with pytest.raises(ValueError, match=r"has no lvm files \(their names end in \.jsonl\)"):
        LVM.files(tmp_path / "b")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        LVM.files(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", FORMATS.values(), ids=list(FORMATS))
def test_a_description_says_that_the_weights_are_unknown(kind: foreign.ForeignFormat) -> None:
    description = kind.description()
    assert description.tokenizer == kind.name
    assert description.tokenizer_digest == hashlib.sha256(kind.origin.encode()).hexdigest()
    assert "not checked" in kind.origin
    assert description.precision == "unknown"
    assert json.dumps(description.decoder)


def test_the_frames_of_commavq_are_256_by_128_px() -> None:
    assert COMMAVQ.description().frame_px == (128, 256)
    assert COMMAVQ.description().decoder == "none: imported tokens, frames 20 a second"
    assert LVM.description().decoder == "none: imported tokens, frames counted, not in seconds"
