import errno
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_shards
import numpy as np
import pytest
import torch

from toto.data import shards
from toto.data.shards import ClipRecord, Shard, require_same, write_shard
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


def test_windows_are_all_that_fit(shard: Shard) -> None:
    expected = [[clip, start] for clip in (0, 2) for start in range(LENGTHS[clip] - 3)]
    assert shard.windows(4).tolist() == expected
    assert len(shard.windows(1)) == sum(LENGTHS)
    assert shard.windows(9).shape == (0, 2)


@pytest.mark.parametrize(("start", "frames"), [(-1, 2), (4, 2), (0, 6)])
def test_rejects_a_window_that_leaves_its_clip(shard: Shard, start: int, frames: int) -> None:
    with pytest.raises(ValueError, match=rf"clip-0: frames {start}\.\.{start + frames - 1} of 5"):
        shard.window(0, start, frames)


def test_labels_are_read_by_name(shard: Shard) -> None:
    assert shard.labels("digit").tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"made: clips have no label 'motion' \(they have: digit"):
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
    two = made_shards.shard(tmp_path / "two", [3], kind="images", decoder="another")
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
    with pytest.raises(ValueError, match=r"is not a token shard \(no tokens.json\); `toto tokeniz"):
        Shard(tmp_path)


def test_tells_a_shard_of_another_version(shard: Shard) -> None:
    file = shard.path / "tokens.json"
    sidecar = json.loads(file.read_text())
    sidecar["schema"] = 2
    sidecar["sidecar_sha256"] = shards._seal(sidecar)
    file.write_text(json.dumps(sidecar))
    with pytest.raises(ValueError, match=r"tokens.json has schema 2, this toto reads 1"):
        Shard(shard.path)


def test_reads_from_disk_and_not_into_memory(shard: Shard) -> None:
    assert isinstance(shard._tokens.base, np.memmap)
    assert "clips=3, frames=14" in repr(shard)
