"""No damage to a token shard is read as tokens: it is found, or it changed nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from toto.data.shards import ClipRecord, Description, Shard, write_shard
from toto.types import TokenGrid

pytestmark = pytest.mark.faults


def write(path: Path, seed: int) -> Shard:
    """A shard of one small clip; another seed gives other codes in files of the same size."""
    generator = torch.Generator().manual_seed(seed)
    description = Description(
        tokenizer="grey",
        tokenizer_digest="0" * 64,
        vocab_size=300,
        patch_px=8,
        grid=(2, 2),
        kind="video",
        precision="fp32",
        resize_filter="lanczos",
        decoder="none",
    )
    ids = torch.randint(300, (5, 2, 2), generator=generator, dtype=torch.int32)
    record = ClipRecord(
        source="clip",
        source_sha256=None,
        frame_indices=tuple(range(5)),
        times_s=tuple(index / 12 for index in range(5)),
        side_px=16,
        crop=(0.5, 0.5),
        labels={"digit": 7},
    )
    write_shard(path, description, [(TokenGrid(ids=ids, vocab_size=300), record)])
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


def test_every_changed_byte_of_the_sidecar_is_found(shard: Shard) -> None:
    """What may pass is another spelling of the same content: a line break for a blank."""
    file = shard.path / "tokens.json"
    data, passed = file.read_bytes(), 0
    for at in range(len(data)):
        # 0x2A turns a blank into a line break.
        for change in (1 << at % 8, 0x2A) if data[at] == ord(" ") else (1 << at % 8,):
            damaged = bytearray(data)
            damaged[at] ^= change
            file.write_bytes(damaged)
            try:
                opened = Shard(shard.path)
            except ValueError as error:
                assert "tokens.json" in str(error)  # noqa: PT017
                assert "damaged" in str(error)  # noqa: PT017
                continue
            passed += 1
            assert json.loads(damaged) == json.loads(data)
            assert (opened.description, opened.clips) == (shard.description, shard.clips)
    assert passed <= data.count(b" ") + 10  # ten: the last digits of times, beyond a double's


@pytest.mark.parametrize("name", ["tokens.u16", "tokens.json"])
def test_every_truncation_is_found(shard: Shard, name: str) -> None:
    file = shard.path / name
    data = file.read_bytes()
    whole = len(data.rstrip())  # the line break at the end of the JSON says nothing
    for size in range(whole if name == "tokens.json" else len(data)):
        file.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"damaged|bytes, its sidecar promises 40"):
            Shard(shard.path)


def test_bytes_too_many_are_found(shard: Shard) -> None:
    for extra in (1, 2, 8):
        (shard.path / "tokens.u16").write_bytes(bytes(40 + extra))
        with pytest.raises(ValueError, match=rf"has {40 + extra} bytes, its sidecar promises 40"):
            Shard(shard.path)


def test_text_behind_the_sidecar_is_found(shard: Shard) -> None:
    file = shard.path / "tokens.json"
    file.write_bytes(file.read_bytes() + b"{}")
    with pytest.raises(ValueError, match=r"tokens\.json is damaged"):
        Shard(shard.path)


def test_a_missing_file_is_found(shard: Shard) -> None:
    (shard.path / "tokens.u16").unlink()
    with pytest.raises(ValueError, match=r"tokens\.u16 has 0 bytes, its sidecar promises 40"):
        Shard(shard.path)
    (shard.path / "tokens.json").unlink()
    with pytest.raises(ValueError, match=r"is not a token shard \(no tokens\.json\)"):
        Shard(shard.path)


def test_a_file_beside_the_two_changes_nothing(shard: Shard) -> None:
    (shard.path / "notes.txt").write_text("a person's")
    assert Shard(shard.path).clips == shard.clips


@pytest.mark.parametrize("name", ["tokens.u16", "tokens.json"])
def test_a_file_of_another_shard_is_found(shard: Shard, tmp_path: Path, name: str) -> None:
    other = write(tmp_path / "other", seed=1)
    shutil.copy(other.path / name, shard.path / name)
    with pytest.raises(ValueError, match=r"tokens\.u16 is damaged: its sha256 is not the sidecar"):
        Shard(shard.path)


@pytest.mark.parametrize("content", ["", "null", "[]", "3", '"x"', "{}", '{"sidecar_sha256": 1}'])
def test_any_other_json_is_named(shard: Shard, content: str) -> None:
    (shard.path / "tokens.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokens\.json is damaged"):
        Shard(shard.path)


def test_the_size_is_checked_even_without_the_hash(shard: Shard) -> None:
    (shard.path / "tokens.u16").write_bytes(bytes(38))
    with pytest.raises(ValueError, match="has 38 bytes, its sidecar promises 40"):
        Shard(shard.path, verify=False)
