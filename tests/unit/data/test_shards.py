import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_shards
import numpy as np
import pytest
import torch

from toto.data.records import ClipRecord
from toto.data.sealed import seal, unseal
from toto.data.shard_files import damaged_clips
from toto.data.shards import Shard, ShardWriter, require_same, sweep, write_shard
from toto.runtime.durable import DiskFullError
from toto.types import TokenGrid

LENGTHS = [5, 1, 8]


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return made_shards.shard(tmp_path / "made", LENGTHS)


def test_what_was_written_is_read(shard: Shard) -> None:
    assert shard.description == made_shards.DESCRIPTION
    assert shard.lengths.tolist() == LENGTHS
    for number, length in enumerate(LENGTHS):
        grid, record = made_shards.clip(number, length, digit=number)
        assert shard.clips[number] == record
        window = shard.window(number, 0, length)
        assert window.dtype == torch.int64
        assert torch.equal(window, grid.ids.long())


def test_the_file_is_little_endian_u16_in_order(shard: Shard) -> None:
    grids = [made_shards.clip(number, length)[0].ids for number, length in enumerate(LENGTHS)]
    expected = torch.cat(grids).flatten().tolist()
    data = (shard.path / "tokens.u16").read_bytes()
    assert [data[i] + 256 * data[i + 1] for i in range(0, len(data), 2)] == expected


def test_codes_use_all_16_bits(tmp_path: Path) -> None:
    description = replace(made_shards.DESCRIPTION, vocab_size=65536, grid=(1, 3))
    ids = torch.tensor([[[0, 32768, 65535]]], dtype=torch.int32)
    record = made_shards.clip(0, 1)[1]
    written = write_shard(
        tmp_path / "wide", description, [(TokenGrid(ids=ids, vocab_size=65536), record)]
    )
    assert written == 1
    assert torch.equal(Shard(tmp_path / "wide").window(0, 0, 1), ids.long())


def test_a_window_is_a_cut_of_its_clip(shard: Shard) -> None:
    whole = shard.window(2, 0, 8)
    for start in range(6):
        assert torch.equal(shard.window(2, start, 3), whole[start : start + 3])


@pytest.mark.parametrize(("start", "frames"), [(-1, 2), (4, 2), (0, 6)])
def test_rejects_a_window_that_leaves_its_clip(shard: Shard, start: int, frames: int) -> None:
    with pytest.raises(ValueError, match=rf"clip-0: frames {start}\.\.{start + frames - 1} of 5"):
        shard.window(0, start, frames)


def test_labels_are_read_by_name(shard: Shard) -> None:
    assert shard.labels("digit").tolist() == [0, 1, 2]
    with pytest.raises(
        ValueError, match=r"made/clips.parquet: clips have no label 'motion' \(they have: digit"
    ):
        shard.labels("motion")


def test_says_when_clips_have_no_labels_at_all(tmp_path: Path) -> None:
    write_shard(tmp_path / "bare", made_shards.DESCRIPTION, [made_shards.clip(0, 2)])
    with pytest.raises(ValueError, match=r"no label 'digit' \(they have: none\)"):
        Shard(tmp_path / "bare").labels("digit")


def test_histogram_counts_every_code(shard: Shard) -> None:
    counts = shard.histogram()
    assert len(counts) == made_shards.CODES
    tokens = torch.cat([shard.window(clip, 0, n) for clip, n in enumerate(LENGTHS)]).flatten()
    assert counts.tolist() == [int((tokens == code).sum()) for code in range(made_shards.CODES)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenizer", "dvae"),
        ("tokenizer_digest", "1" * 64),
        ("vocab_size", made_shards.CODES + 1),
        ("patch_px", 4),
        ("grid", (3, 2)),
        ("precision", "bf16"),
        ("resize_filter", "bicubic"),
    ],
)
def test_refuses_to_mix_shards_of_another_meaning(tmp_path: Path, name: str, value: Any) -> None:
    one = made_shards.shard(tmp_path / "one", [3])
    description = replace(made_shards.DESCRIPTION, **{name: value})
    grid, record = made_shards.clip(1, 3)
    ids = grid.ids.reshape(3, *description.grid)
    other = TokenGrid(ids=ids, vocab_size=description.vocab_size)
    write_shard(tmp_path / "two", description, [(other, record)])
    with pytest.raises(
        ValueError, match=rf"one and \S*two cannot be mixed: {name} is .* and .*{str(value)[-5:-1]}"
    ):
        require_same([one, Shard(tmp_path / "two")])


def test_mixes_shards_that_differ_in_origin_only(tmp_path: Path) -> None:
    one = made_shards.shard(tmp_path / "one", [3])
    two = made_shards.shard(tmp_path / "two", [3], kind="images", decoder="another", device="cuda")
    assert require_same([one, two]) == one.description


def test_refuses_a_folder_that_exists(shard: Shard) -> None:
    before = (shard.path / "tokens.u16").read_bytes()
    with pytest.raises(ValueError, match="made exists already; remove it or choose another --out"):
        made_shards.shard(shard.path, [2])
    assert (shard.path / "tokens.u16").read_bytes() == before


def test_refuses_to_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none: there is no clip to write"):
        write_shard(tmp_path / "none", made_shards.DESCRIPTION, [])
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_vocabulary_of_more_than_16_bits(tmp_path: Path) -> None:
    description = replace(made_shards.DESCRIPTION, vocab_size=65537)
    with pytest.raises(ValueError, match="65537 codes do not fit the shards' 16 bits"):
        write_shard(tmp_path / "wide", description, [made_shards.clip(0, 2)])


def _other_grid() -> tuple[TokenGrid, ClipRecord]:
    grid, record = made_shards.clip(1, 2)
    return TokenGrid(ids=grid.ids.transpose(1, 2), vocab_size=grid.vocab_size), record


def _other_vocabulary() -> tuple[TokenGrid, ClipRecord]:
    grid, record = made_shards.clip(1, 2)
    return TokenGrid(ids=grid.ids, vocab_size=grid.vocab_size + 1), record


def _fewer_times() -> tuple[TokenGrid, ClipRecord]:
    grid, record = made_shards.clip(1, 2)
    return grid, replace(record, times_s=record.times_s[:1])


def _fewer_indices() -> tuple[TokenGrid, ClipRecord]:
    grid, record = made_shards.clip(1, 2)
    return grid, replace(record, frame_indices=())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (_other_grid, r"clip-1: .*\(2, 3, 2\).* does not fit a shard of 50 codes on a grid of"),
        (_other_vocabulary, r"clip-1: .*vocab_size=51\) does not fit a shard of 50 codes"),
        (_fewer_times, "clip-1: 2 frames of tokens, 1 times, 2 indices"),
        (_fewer_indices, "clip-1: 2 frames of tokens, 2 times, 0 indices"),
    ],
)
def test_refuses_a_clip_that_does_not_fit(tmp_path: Path, bad: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "bad", made_shards.DESCRIPTION, [made_shards.clip(0, 2), bad()])
    assert list(tmp_path.iterdir()) == []


def test_a_clip_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    def clips() -> Iterator[Any]:
        yield made_shards.clip(0, 2)
        raise RuntimeError("the decoder died")

    with pytest.raises(RuntimeError, match="the decoder died"):
        write_shard(tmp_path / "half", made_shards.DESCRIPTION, clips())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "rename", "write"])
def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(DiskFullError, match=r"full: the disk or the quota is full|full\.tmp-"):
            made_shards.shard(tmp_path / "full", [2])
    assert list(tmp_path.iterdir()) == []
    made_shards.shard(tmp_path / "full", [2])  # and there is nothing in the way afterwards


def test_tells_a_folder_that_is_no_shard(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a token shard \(no shard.json\); `toto tokeniz"):
        Shard(tmp_path)


def test_tells_a_shard_of_another_version(shard: Shard) -> None:
    file = shard.path / "shard.json"
    facts = unseal(file.read_bytes(), where="", schema=2)
    file.write_bytes(seal({**facts, "schema": 3}))
    with pytest.raises(ValueError, match=r"shard.json has schema 3, this toto reads 2"):
        Shard(shard.path)


def test_reads_from_disk_and_not_into_memory(shard: Shard) -> None:
    below: Any = shard.tokens
    while not isinstance(below, np.memmap):
        assert not below.flags.owndata
        below = below.base
    assert "clips=3, frames=14" in repr(shard)


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    grid, record = made_shards.clip(0, 3)
    records = [
        replace(
            record,
            source="kinetics",
            path="train/abc.mp4",
            clip="abc_0010",
            frame_indices=(7, 3, 2**40),
            times_s=(0.1, 1 / 3, 1e9 + 0.001),
            crop=(1 / 3, 0.0),
            labels={"z": -5, "a": 2**40},
            label="pouring beer \N{DOG FACE}",
        ),
        replace(record, labels={}, label=None, source_sha256=None),
    ]
    write_shard(tmp_path / "made", made_shards.DESCRIPTION, [(grid, r) for r in records])
    clips = Shard(tmp_path / "made").clips
    assert list(clips) == records == [clips[0], clips[-1]] == clips[:]
    assert clips[0].name == "kinetics/abc_0010"
    with pytest.raises(IndexError):
        clips[2]


def test_the_same_clips_give_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the folder, the moment and the order that labels were put in."""
    for name, labels in (("one", {"a": 1, "b": 2}), ("two", {"b": 2, "a": 1})):
        grid, record = made_shards.clip(0, 3, **labels)
        clips = [(grid, record, made_shards.pixels(0, 3))]
        write_shard(tmp_path / name, made_shards.DESCRIPTION, clips)
    files = ["clips.parquet", "frames.bin", "shard.json", "tokens.u16"]
    for name in ("one", "two"):
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def written(folder: Path, number: int = 0) -> ShardWriter:
    """A writer that has its clip and is about to commit."""
    writer = ShardWriter(folder, made_shards.DESCRIPTION)
    writer.add(*made_shards.clip(number, 3))
    return writer


def test_two_workers_may_write_the_same_shard(tmp_path: Path) -> None:
    with written(tmp_path / "made") as one, written(tmp_path / "made") as other:
        one.commit(exists_ok=True)
        before = (tmp_path / "made" / "shard.json").stat()
        other.commit(exists_ok=True)
    with written(tmp_path / "made") as late:
        late.commit(exists_ok=True)
    assert (tmp_path / "made" / "shard.json").stat() == before
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_the_renaming_itself_may_come_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with written(tmp_path / "made") as one, written(tmp_path / "made") as other:
        one.commit(exists_ok=True)
        monkeypatch.setattr(os.path, "lexists", lambda _: False)
        other.commit(exists_ok=True)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_shard_that_is_there_is_refused_unless_that_is_expected(tmp_path: Path) -> None:
    with written(tmp_path / "made") as one, written(tmp_path / "made") as other:
        one.commit()
        with pytest.raises(ValueError, match="made exists already; remove it or choose another na"):
            other.commit()


def test_two_workers_may_not_write_different_shards(tmp_path: Path) -> None:
    with written(tmp_path / "made") as one, written(tmp_path / "made", number=1) as other:
        one.commit(exists_ok=True)
        with pytest.raises(ValueError, match="made exists already and is not what these clips giv"):
            other.commit(exists_ok=True)


def test_a_damaged_shard_is_not_taken_for_the_same(tmp_path: Path) -> None:
    with written(tmp_path / "made") as one, written(tmp_path / "made") as other:
        one.commit(exists_ok=True)
        _flip(tmp_path / "made" / "tokens.u16", 3)
        with pytest.raises(ValueError, match=r"tokens\.u16 is damaged"):
            other.commit(exists_ok=True)


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    shard = made_shards.shard(tmp_path / "00000", [2])
    with written(tmp_path / "00001") as writer:
        left = next(path for path in tmp_path.iterdir() if path.name.startswith(".00001.tmp-"))
        file = tmp_path / f".index.json.{'0' * 32}.tmp"
        file.write_text("")
        others = [tmp_path / name for name in (".notes", ".00001.tmp-x", "a.tmp-" + "0" * 32)]
        for path in others:
            path.mkdir()
        assert sweep(tmp_path.parent) == [f"{tmp_path.name}/{p.name}" for p in (left, file)]
        assert writer.clips == 1
    assert sorted(tmp_path.iterdir()) == sorted([shard.path, *others])
    assert sweep(tmp_path / "nowhere") == []


def test_damaged_clips_are_named(tmp_path: Path) -> None:
    tokens = made_shards.token_set(tmp_path / "set", [LENGTHS], frames=True)
    folder = tmp_path / "set" / "00000"
    assert tokens.shards == 1
    assert damaged_clips(folder) == {}
    second = tokens.clips[1]
    _flip(folder / "tokens.u16", 5 * 12)  # clip 0 has 5 frames of 2 x 3 codes of 2 bytes
    assert damaged_clips(folder) == {1: second}
    _flip(folder / "frames.bin", 0)
    assert list(damaged_clips(folder)) == [0, 1]
    os.truncate(folder / "tokens.u16", 14 * 12 - 1)
    assert list(damaged_clips(folder)) == [0, 1, 2]
    (folder / "tokens.u16").unlink()
    assert list(damaged_clips(folder)) == [0, 1, 2]
    _flip(folder / "clips.parquet", 100)
    with pytest.raises(ValueError, match=r"clips\.parquet is damaged"):
        damaged_clips(folder)


def _flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 16
    file.write_bytes(data)
