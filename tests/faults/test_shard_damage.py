"""No damage to a token shard is read as tokens: all of it is found."""

import hashlib
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from toto.data.records import ClipRecord, Description
from toto.data.sealed import seal, unseal
from toto.data.shards import Shard, write_shard
from toto.types import TokenGrid

pytestmark = pytest.mark.faults


def write(path: Path, seed: int) -> Shard:
    """A shard of one small clip; another seed gives other codes in files of the same size."""
    generator = torch.Generator().manual_seed(seed)
    description = Description(
        tokenizer="grey",
        tokenizer_digest="0" * 64,
        vocab_size=40,
        patch_px=8,
        grid=(2, 2),
        kind="video",
        precision="fp32",
        resize_filter="lanczos",
        decoder="none",
    )
    ids = torch.randint(40, (5, 2, 2), generator=generator, dtype=torch.int32)
    record = ClipRecord(
        source="clip",
        source_sha256=None,
        frame_indices=tuple(range(5)),
        times_s=tuple(index / 12 for index in range(5)),
        side_px=16,
        crop=(0.5, 0.5),
        labels={"digit": 7},
    )
    write_shard(path, description, [(TokenGrid(ids=ids, vocab_size=40), record)])
    return Shard(path)


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return write(tmp_path / "good", seed=0)


def test_every_changed_bit_of_the_tokens_is_found(shard: Shard) -> None:
    file = shard.path / "tokens.u16"
    data = file.read_bytes()
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"tokens\.u16 is damaged: its sha256 is not the"):
                Shard(shard.path)


@pytest.mark.parametrize("name", ["shard.json", "clips.parquet"])
def test_a_changed_byte_beside_the_tokens_is_found(shard: Shard, name: str) -> None:
    file = shard.path / name
    data = file.read_bytes()
    for at in range(0, len(data), 5):
        # 0x2A turns a blank into a line break: the same JSON, and yet not what was written.
        for change in (1 << at % 8, 0x2A) if data[at] == ord(" ") else (1 << at % 8,):
            damaged = bytearray(data)
            damaged[at] ^= change
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=rf"{name} is damaged|{name} has schema"):
                Shard(shard.path)


@pytest.mark.parametrize("name", ["tokens.u16", "shard.json", "clips.parquet"])
def test_a_truncation_is_found(shard: Shard, name: str) -> None:
    file = shard.path / name
    data = file.read_bytes()
    for size in {*range(0, len(data), 9), len(data) - 1}:
        file.write_bytes(data[:size])
        with pytest.raises(ValueError, match=rf"{name} (is damaged|has \d+ bytes, its sidecar)"):
            Shard(shard.path)


def test_bytes_too_many_are_found(shard: Shard) -> None:
    for extra in (1, 2, 8):
        (shard.path / "tokens.u16").write_bytes(bytes(40 + extra))
        with pytest.raises(ValueError, match=rf"has {40 + extra} bytes, its sidecar promises 40"):
            Shard(shard.path)


def test_text_behind_the_sidecar_is_found(shard: Shard) -> None:
    file = shard.path / "shard.json"
    data = file.read_bytes()
    for text in (b"{}", b"\n", b"\0"):
        file.write_bytes(data + text)
        with pytest.raises(ValueError, match=r"shard\.json is damaged"):
            Shard(shard.path)


def test_a_missing_file_is_found(shard: Shard) -> None:
    for name, expected in (("tokens.u16", "40"), ("clips.parquet", r"\d+")):
        aside = (shard.path / name).rename(shard.path.with_name("aside"))
        with pytest.raises(
            ValueError, match=rf"{name} has 0 bytes, its sidecar promises {expected}"
        ):
            Shard(shard.path)
        aside.rename(shard.path / name)
    (shard.path / "shard.json").unlink()
    with pytest.raises(ValueError, match=r"is not a token shard \(no shard\.json\)"):
        Shard(shard.path)


@pytest.mark.parametrize("name", ["notes.txt", "frames.bin", ".hidden"])
def test_a_file_too_many_is_found(shard: Shard, name: str) -> None:
    (shard.path / name).write_text("a person's")
    with pytest.raises(ValueError, match=rf"good/{name} is no file of this shard; remove it"):
        Shard(shard.path)


@pytest.mark.parametrize("name", ["tokens.u16", "shard.json"])
def test_a_file_of_another_shard_is_found(shard: Shard, tmp_path: Path, name: str) -> None:
    other = write(tmp_path / "other", seed=1)
    shutil.copy(other.path / name, shard.path / name)
    with pytest.raises(ValueError, match=r"tokens\.u16 is damaged: its sha256 is not the sidecar"):
        Shard(shard.path)


@pytest.mark.parametrize(
    "content", ["", "null", "[]", "3", '"x"', "{}", '{"seal": 1}', "[" * 100_000]
)
def test_any_other_json_is_named(shard: Shard, content: str) -> None:
    (shard.path / "shard.json").write_text(content)
    with pytest.raises(ValueError, match=r"shard\.json is damaged"):
        Shard(shard.path)


@pytest.mark.parametrize("name", ["shard.json", "clips.parquet"])
def test_what_is_sealed_and_senseless_is_refused(shard: Shard, name: str) -> None:
    """Whoever can compute a hash can seal anything: what is sealed is still looked at."""
    file = shard.path / "shard.json"
    facts = unseal(file.read_bytes(), where="", schema=2)
    if name == "shard.json":
        changes = [{"clips": 0}, {"frames": 0}, {"files": {}}, {"frames": 6}, {"more": 1}]
        changes.append({"files": {**facts["files"], "../escaped": facts["files"]["tokens.u16"]}})
        contents = [(shard.path / "clips.parquet").read_bytes()] * len(changes)
    else:
        changes, contents = [], []
        for data in (b"", b"PAR1PAR1", b"x" * 100, _parquet({"frames": [5]})):
            new = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            changes.append({"files": {**facts["files"], "clips.parquet": new}})
            contents.append(data)
    for change, content in zip(changes, contents, strict=True):
        file.write_bytes(seal({**facts, **change}))
        (shard.path / "clips.parquet").write_bytes(content)
        with pytest.raises(ValueError, match=str(shard.path)):
            Shard(shard.path)


def _parquet(columns: dict[str, list[int]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def test_the_size_is_checked_even_without_the_hash(shard: Shard) -> None:
    (shard.path / "tokens.u16").write_bytes(bytes(38))
    with pytest.raises(ValueError, match="has 38 bytes, its sidecar promises 40"):
        Shard(shard.path, verify=False)
