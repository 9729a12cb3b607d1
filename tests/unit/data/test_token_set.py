import base64
import hashlib
import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_shards
import numpy as np
import pytest
import torch

from toto.config import to_dict
from toto.data import token_set
from toto.data.sealed import seal, unseal
from toto.data.shards import ShardWriter, require_same, write_shard
from toto.data.token_set import TokenSet, write_index

LENGTHS = [[5, 1], [8], [3, 2, 4]]
FLAT = [length for of_shard in LENGTHS for length in of_shard]


@pytest.fixture
def tokens(tmp_path: Path) -> TokenSet:
    return made_shards.token_set(tmp_path / "made", LENGTHS, frames=True)


def test_clips_are_numbered_through_all_shards(tokens: TokenSet) -> None:
    assert tokens.lengths.tolist() == FLAT
    assert len(tokens.clips) == len(FLAT)
    for clip, length in enumerate(FLAT):
        grid, record = made_shards.clip(clip, length, digit=clip)
        assert torch.equal(tokens.window(clip, 0, length), grid.ids.long())
        assert torch.equal(tokens.pixels(clip, 0, length), made_shards.pixels(clip, length))
        assert tokens.clips[clip] == record
    assert torch.equal(tokens.window(4, 1, 1), made_shards.clip(4, 2)[0].ids[1:2].long())
    assert list(tokens.clips) == tokens.clips[:] == [tokens.clips[n - 6] for n in range(6)]
    assert "clips=6, frames=23" in repr(tokens)


def test_labels_and_histogram_are_those_of_all_shards(tokens: TokenSet) -> None:
    assert tokens.labels("digit").tolist() == list(range(6))
    with pytest.raises(ValueError, match=r"00000/clips.parquet: clips have no label 'x' \(they h"):
        tokens.labels("x")
    codes = torch.cat([tokens.window(clip, 0, n).flatten() for clip, n in enumerate(FLAT)])
    expected = torch.bincount(codes, minlength=made_shards.CODES).tolist()
    assert tokens.histogram().tolist() == expected


def test_names_crops_and_words_are_those_of_the_records(tokens: TokenSet, tmp_path: Path) -> None:
    assert tokens.names() == [clip.name for clip in tokens.clips]
    assert tokens.crops() == [clip.crop for clip in tokens.clips] == [(0.5, 0.25)] * 6
    with pytest.raises(ValueError, match=r"clip-0 has no class of its data set; .* \(digit\)"):
        tokens.words()
    for number, word in enumerate(("cow", "ant")):
        grid, record = made_shards.clip(number, 2)
        named = replace(record, source="set", clip=f"{word}.mp4", label=word)
        write_shard(
            tmp_path / f"named/{number:05d}", made_shards.DESCRIPTION, [(grid, named, None)]
        )
    write_index(tmp_path / "named")
    opened = TokenSet(tmp_path / "named")
    assert opened.words() == ["cow", "ant"]
    assert opened.names() == ["set/cow.mp4", "set/ant.mp4"] == [clip.name for clip in opened.clips]


@pytest.mark.parametrize(("clip", "start", "frames"), [(2, -1, 2), (2, 7, 2), (1, 0, 2)])
def test_rejects_a_window_that_leaves_its_clip(
    tokens: TokenSet, clip: int, start: int, frames: int
) -> None:
    for cut in (tokens.window, tokens.pixels):
        with pytest.raises(
            ValueError, match=rf"clip-{clip}: frames {start}\.\.{start + frames - 1} of"
        ):
            cut(clip, start, frames)


@pytest.mark.parametrize("clip", [-1, 6])
def test_rejects_a_clip_that_is_not_there(tokens: TokenSet, clip: int) -> None:
    with pytest.raises(ValueError, match=f"made has 6 clips, there is no {clip}"):
        tokens.window(clip, 0, 1)


def test_opening_reads_the_index_alone(tokens: TokenSet) -> None:
    for path in Path(tokens.path).glob("*/*"):
        path.chmod(0)
        path.rename(path.with_name("away"))
        break
    opened = TokenSet(tokens.path)
    assert opened.lengths.tolist() == FLAT
    assert opened.histogram().sum() == sum(FLAT) * 6
    assert opened.description == made_shards.DESCRIPTION


def test_few_shards_are_open_at_a_time(tokens: TokenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_set, "OPEN_SHARDS", 2)
    expected = [tokens.window(clip, 0, 1) for clip in (0, 2, 3)]
    assert list(tokens._open) == [1, 2]
    tokens.window(2, 0, 1)
    for turn in range(5):
        assert torch.equal(tokens.window((0, 2, 3)[turn % 3], 0, 1), expected[turn % 3])
        assert len(tokens._open) == 2


def test_a_shard_is_hashed_once_and_when_it_has_changed(
    tokens: TokenSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_set, "OPEN_SHARDS", 1)
    opened: list[str] = []

    class Counted(token_set.Shard):
        def __init__(self, path: Path, **options: Any) -> None:
            opened.append(path.name)
            super().__init__(path, **options)

    monkeypatch.setattr(token_set, "Shard", Counted)
    for clip in (0, 2, 0, 2):
        tokens.window(clip, 0, 1)
    assert opened == ["00000", "00001"]
    file = Path(tokens.path, "00000/tokens.u16")
    file.write_bytes(file.read_bytes())  # the same again, but who can tell
    tokens.window(0, 0, 1)
    assert opened == ["00000", "00001", "00000"]
    tokens.window(2, 0, 1)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"00000/tokens\.u16 is damaged: its sha256 is not"):
        tokens.window(0, 0, 1)


def test_verify_hashes_again_what_is_open(tokens: TokenSet) -> None:
    tokens.window(0, 0, 1)
    assert tokens.verify(0) == sum(
        path.stat().st_size for path in Path(tokens.path, "00000").iterdir()
    )
    file = Path(tokens.path, "00000/frames.bin")
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert tokens.damaged_clips(0) == {1: made_shards.clip(1, 1, digit=1)[1]}
    with pytest.raises(ValueError, match=r"00000/frames\.bin is damaged: its sha256 is not"):
        tokens.verify(0)


def test_threads_may_read_together(tokens: TokenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_set, "OPEN_SHARDS", 1)
    expected = [tokens.window(clip, 0, 1) for clip in range(6)]
    wrong: list[int] = []

    def read(first: int) -> None:
        for turn in range(60):
            clip = (first + turn) % 6
            if not torch.equal(tokens.window(clip, 0, 1), expected[clip]):
                wrong.append(clip)

    threads = [threading.Thread(target=read, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_index_written_again_is_the_same(tokens: TokenSet) -> None:
    file = Path(tokens.path, "index.json")
    before = file.read_bytes()
    file.unlink()
    write_index(Path(tokens.path))
    assert file.read_bytes() == before
    write_index(Path(tokens.path))
    assert file.read_bytes() == before
    assert sorted(os.listdir(tokens.path)) == ["00000", "00001", "00002", "index.json"]


def test_an_index_can_be_pinned(tokens: TokenSet) -> None:
    sha256 = hashlib.sha256(Path(tokens.path, "index.json").read_bytes()).hexdigest()
    pinned = TokenSet(f"{tokens.path}#sha256={sha256}")
    assert pinned.path == tokens.path
    with pytest.raises(ValueError, match=r"index\.json is not the pinned one: its sha256 is not 0"):
        TokenSet(f"{tokens.path}#sha256={'0' * 64}")


def test_devices_may_differ_within_a_set(tmp_path: Path) -> None:
    for number, device in enumerate(["cuda", "cpu", "cuda"]):
        description = replace(made_shards.DESCRIPTION, device=device)
        write_shard(tmp_path / f"{number:05d}", description, [made_shards.clip(number, 2)])
    write_index(tmp_path)
    tokens = TokenSet(tmp_path)
    assert tokens.description == replace(made_shards.DESCRIPTION, device="cpu, cuda")
    assert tokens.window(1, 0, 2).shape == (2, *made_shards.GRID)


@pytest.mark.parametrize("change", [{"decoder": "another"}, {"precision": "bf16"}, "frames"])
def test_refuses_shards_that_were_made_otherwise(tmp_path: Path, change: Any) -> None:
    for number in range(2):
        other = change if number and change != "frames" else {}
        frames = made_shards.pixels(0, 2) if number and change == "frames" else None
        with ShardWriter(
            tmp_path / f"{number:05d}", replace(made_shards.DESCRIPTION, **other)
        ) as writer:
            writer.add(*made_shards.clip(0, 2), frames)
            writer.commit()
    with pytest.raises(ValueError, match=r"00000 and \S*00001 are of one set and differ in how"):
        write_index(tmp_path)


def test_numbers_may_be_left_out(tokens: TokenSet) -> None:
    """A shard none of whose clips could be read is never written."""
    folder = Path(tokens.path)
    (folder / "00002").rename(folder / "123456")
    with pytest.raises(ValueError, match="made/00002 is missing; tokenise again"):
        TokenSet(folder)
    write_index(folder)
    opened = TokenSet(folder)
    assert [opened.name_of(shard) for shard in range(3)] == ["00000", "00001", "123456"]
    for clip in range(6):
        assert torch.equal(opened.window(clip, 0, 1), made_shards.clip(clip, 1)[0].ids.long())


def test_refuses_a_shard_that_is_missing_or_not_in_the_index(tokens: TokenSet) -> None:
    folder = Path(tokens.path)
    shutil.copytree(folder / "00002", folder / "00003")
    with pytest.raises(ValueError, match=r"made/00003 is no shard of .*index\.json; remove it or"):
        TokenSet(folder)
    for name in (".00003.tmp-1", "notes.txt", "3", "000003", "\u0661\u0661\u0661\u0661\u0661"):
        (folder / "00003").rename(folder / name)
        for call in (write_index, TokenSet):
            with pytest.raises(ValueError, match=r"made/\S+ is (no shard of|missing)"):
                call(folder)
        (folder / name).rename(folder / "00003")
    shutil.rmtree(folder / "00003")
    shutil.rmtree(folder / "00002")
    with pytest.raises(ValueError, match="made/00002 is missing; tokenise again"):
        TokenSet(folder)


def test_refuses_what_is_no_set(tmp_path: Path, tokens: TokenSet) -> None:
    with pytest.raises(ValueError, match="nowhere has no shards; `toto tokenize` makes them"):
        write_index(tmp_path / "nowhere")
    for folder in (tmp_path / "nowhere", Path(tokens.path, "00000")):
        with pytest.raises(ValueError, match=r"is not a token set \(no index\.json\); `toto token"):
            TokenSet(folder)


def test_a_set_without_frames_says_how_to_keep_them(tmp_path: Path) -> None:
    tokens = made_shards.token_set(tmp_path / "bare", [[2]])
    assert not tokens.keeps_frames
    with pytest.raises(ValueError, match=r"bare keeps no frames.*again with --keep-frames"):
        TokenSet(tokens.path, frames=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 9}, r"index\.json has schema 9, this toto reads 1"),
        ({"clips": [2, 1]}, r"index\.json describes no shards"),
        ({"clips": [2, 1, 4]}, r"index\.json describes no shards"),
        ({"numbers": [0, 1]}, r"index\.json describes no shards"),
        ({"numbers": [0, 1, 1]}, r"index\.json describes no shards"),
        ({"numbers": [], "shards": [], "clips": []}, r"index\.json describes no shards"),
        ({"keeps_frames": 1}, r"index\.json: keeps_frames: expected bool, got 1"),
        ({"shards": ["0" * 64] * 3}, r"00000 is another shard than the index says"),
        ({"description": {**to_dict(made_shards.DESCRIPTION), "decoder": "x"}}, "00000 has other"),
        ({"more": 1}, r"index\.json: more: IndexFacts has no such field"),
        ({"lengths": "a"}, r"index\.json holds no packed numbers: .*multiple of 4"),
        (
            {"lengths": base64.b64encode(np.array(FLAT[::-1], "<u4").tobytes()).decode()},
            "00000 has other clips than the index says",
        ),
    ],
)
def test_refuses_an_index_that_cannot_be_true(
    tokens: TokenSet, change: dict[str, Any], message: str
) -> None:
    """Whoever can compute a hash can seal anything: what is sealed is still looked at."""
    file = Path(tokens.path, "index.json")
    facts = unseal(file.read_bytes(), where="", schema=1)
    file.write_bytes(seal({**facts, **change}))
    with pytest.raises(ValueError, match=message):
        TokenSet(tokens.path).window(0, 0, 1)


def test_sets_that_mean_the_same_can_be_mixed(tokens: TokenSet, tmp_path: Path) -> None:
    images = made_shards.token_set(tmp_path / "images", [[1, 1]], kind="images", device="cuda")
    assert require_same([tokens, images]) == tokens.description
    other = made_shards.token_set(tmp_path / "other", [[2]], precision="bf16")
    with pytest.raises(ValueError, match=r"made and \S*other cannot be mixed: precision is fp32"):
        require_same([tokens, other])


def test_a_sealed_file_is_json_that_other_tools_read(tokens: TokenSet) -> None:
    facts = json.loads(Path(tokens.path, "index.json").read_bytes())
    assert facts["description"] == to_dict(tokens.description)
    assert np.frombuffer(base64.b64decode(facts["lengths"]), "<u4").tolist() == FLAT
