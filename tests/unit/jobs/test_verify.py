import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from toto.data.records import ClipRecord, Description
from toto.data.shards import write_shard
from toto.data.token_set import TokenSet, shard_name, write_index
from toto.jobs.verify import Damage, Verified, Verify, compare_codes
from toto.types import TokenGrid

DESCRIPTION = Description(
    tokenizer="grey",
    tokenizer_digest="0" * 64,
    vocab_size=16,
    patch_px=8,
    grid=(2, 2),
    kind="video",
    precision="fp32",
    resize_filter="lanczos",
    decoder="none",
)


def encode(record: ClipRecord, description: Description) -> TokenGrid:
    """What the made clips are: codes that follow from their name."""
    generator = torch.Generator().manual_seed(int(record.clip))
    shape = (len(record.times_s), *description.grid)
    ids = torch.randint(16, shape, generator=generator, dtype=torch.int32)
    return TokenGrid(ids=ids, vocab_size=16)


def write(folder: Path, source: str, *, frames: bool) -> None:
    for shard in range(2):
        clips = []
        for clip in range(3):
            record = ClipRecord(
                source=source,
                clip=str(3 * shard + clip),
                source_sha256=None,
                frame_indices=(0, 1, 2),
                times_s=(0.0, 0.1, 0.2),
                side_px=16,
                crop=(0.5, 0.5),
            )
            pixels = torch.zeros(3, 16, 16, 3, dtype=torch.uint8) if frames else None
            clips.append((encode(record, DESCRIPTION), record, pixels))
        write_shard(folder / shard_name(shard), DESCRIPTION, clips)
    write_index(folder)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write(tmp_path / "shards/digits/train", "digits", frames=True)
    write(tmp_path / "shards/clips/pretrain", "clips", frames=False)
    (tmp_path / "shards/tokenizer").mkdir()
    return tmp_path / "shards"


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)


def test_whole_shards_have_no_damage(shards: Path) -> None:
    result = Verify(shards=str(shards)).run()
    assert result.good
    assert result.bytes == sum(path.stat().st_size for path in shards.glob("*/*/*/*"))
    *sets, last, again, certificate = result.lines()
    facts = "2 shards, 6 clips, 18 frames, grey"
    assert sets == [f"clips/pretrain: {facts}", f"digits/train: {facts}"]
    assert re.fullmatch(r"no damage; 0\.00 GB verified at \d+\.\d\d GB/s", last)
    assert again == (
        f"no clip was encoded again: {shards} is not a run folder (no config.json); give a folder "
        "that --out made"
    )
    assert certificate == f"certificate {result.certificate}"
    one = Verify(shards=str(shards / "digits/train")).run()
    assert list(one.sets) == [""]
    assert next(one.lines()) == f"{shards}/digits/train: {facts}"


def test_damage_is_named_down_to_the_clip(shards: Path) -> None:
    flip(shards / "clips/pretrain/00001/tokens.u16", 3 * 8)
    flip(shards / "digits/train/00000/frames.bin", -1)
    flip(shards / "digits/train/00001/clips.parquet", 200)
    result = Verify(shards=str(shards)).run()
    assert not result.good
    assert [(hit.set, hit.shard, hit.clips) for hit in result.damage] == [
        ("clips/pretrain", "00001", ("clips/4",)),
        ("digits/train", "00000", ("digits/2",)),
        ("digits/train", "00001", None),
    ]
    for damage, file in zip(
        result.damage, ("tokens.u16", "frames.bin", "clips.parquet"), strict=True
    ):
        assert f"{file} is damaged" in damage.reason
    *_, tokens, frames, records, last, _ = result.lines()
    assert tokens.startswith(f"DAMAGED clips/pretrain: {shards}/clips/pretrain/00001/tokens.u16 is")
    assert frames.endswith("; clips hit: digits/2")
    assert "clips hit" not in records
    assert last.startswith("3 damaged; 0.00 GB")


def test_of_many_damaged_clips_some_are_named() -> None:
    clips = tuple(f"k/{number}" for number in range(1012))
    damage = Damage(set="k", shard="00000", reason="cut", clips=clips)
    line, *_ = Verified(sets={}, bytes=0, seconds=1.0, damage=(damage,)).lines()
    assert line.startswith("DAMAGED k: cut; clips hit: k/0, k/1, ")
    assert line.endswith(", k/9 and 1,002 more")


@pytest.mark.parametrize("how", ["flipped", "gone", "stale"])
def test_a_set_without_its_index_is_damaged(shards: Path, how: str) -> None:
    index = shards / "clips/pretrain/index.json"
    if how == "flipped":
        flip(index, 10)
    elif how == "gone":
        index.unlink()
    else:
        (shards / "clips/pretrain/00001").rename(shards / "clips/pretrain/00002")
    result = Verify(shards=str(shards)).run()
    (damage,) = result.damage
    assert (damage.set, damage.shard, damage.clips) == ("clips/pretrain", None, None)
    expected = {"flipped": "is damaged", "gone": "is not a token set", "stale": "00001 is missing"}
    assert expected[how] in damage.reason
    assert list(result.sets) == ["digits/train"]


def test_an_address_is_verified_too(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra `scale` is not installed")
    monkeypatch.setenv("TOTO_CACHE", str(tmp_path / "cache"))
    flip(shards / "clips/pretrain/00001/tokens.u16", 0)
    files = fsspec.filesystem("memory")
    files.put(str(shards), "/verify/shards", recursive=True)
    result = Verify(shards="memory://verify/shards").run()
    (damage,) = result.damage
    assert (damage.shard, damage.clips) == ("00001", ("clips/3",))
    assert "memory://verify/shards/clips/pretrain/00001 was fetched twice" in damage.reason
    files.rm("/verify", recursive=True)


def test_nothing_to_verify_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no token sets; `toto tokenize` makes them"):
        Verify(shards=str(tmp_path)).run()


def opened(shards: Path) -> list[TokenSet]:
    return [TokenSet(path.parent) for path in sorted(shards.glob("*/*/index.json"))]


def test_codes_that_come_out_again_do_not_differ(shards: Path) -> None:
    result = compare_codes(opened(shards), encode, sample=5, seed=0)
    assert (result["clips"], result["codes"]) == (5, 5 * 3 * 4)
    assert result["mismatch_rate"] == 0
    assert result["differing"] == result["lost"] == []


def test_every_code_that_differs_is_counted(shards: Path) -> None:
    def other(record: ClipRecord, description: Description) -> TokenGrid:
        ids = encode(record, description).ids
        if record.source == "digits":
            ids.view(-1)[: int(record.clip)] ^= 1
        return TokenGrid(ids=ids, vocab_size=16)

    result = compare_codes(opened(shards), other, sample=100, seed=0)
    assert result["clips"] == 12
    assert result["mismatch_rate"] == (1 + 2 + 3 + 4 + 5) / (12 * 12)
    assert [hit["clip"] for hit in result["differing"]] == [f"digits/{n}" for n in range(1, 6)]
    assert [hit["codes"] for hit in result["differing"]] == [1, 2, 3, 4, 5]


def test_the_sample_is_a_draw_of_its_seed(shards: Path) -> None:
    def seen(seed: int) -> list[str]:
        names: list[str] = []

        def note(record: ClipRecord, description: Description) -> TokenGrid:
            names.append(record.name)
            return encode(record, description)

        compare_codes(opened(shards), note, sample=4, seed=seed)
        return names

    draws = [seen(seed) for seed in range(20)]
    assert seen(3) == draws[3]
    assert all(len(set(names)) == 4 for names in draws)
    assert {name for names in draws for name in names} == {
        f"{source}/{clip}" for source in ("clips", "digits") for clip in range(6)
    }


def test_a_clip_that_cannot_be_read_again_is_lost_and_not_equal(shards: Path) -> None:
    def failing(record: ClipRecord, description: Description) -> Any:
        grid = encode(record, description)
        if record.source == "clips":
            raise ValueError("the file has changed")
        return TokenGrid(ids=grid.ids[:2], vocab_size=16) if record.clip == "0" else grid

    result = compare_codes(opened(shards), failing, sample=12, seed=0)
    assert result["clips"] == 5
    assert [hit["reason"] for hit in result["lost"]] == [
        *["the file has changed"] * 6,
        "(2, 2, 2) codes, stored (3, 2, 2)",
    ]
    nothing = compare_codes(opened(shards)[:1], failing, sample=12, seed=0)
    assert nothing["mismatch_rate"] is None


def test_sets_of_the_same_content_have_the_same_certificate(shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    first = Verify(shards=str(shards), sample=0).run().certificate
    assert Verify(shards=str(copy), sample=0).run().certificate == first
    shutil.rmtree(copy / "clips/pretrain/00001")
    write_index(copy / "clips/pretrain")
    assert Verify(shards=str(copy), sample=0).run().certificate != first


def test_codes_that_differ_are_no_good_beyond_the_tolerance() -> None:
    again = {"clips": 2, "codes": 100, "mismatch_rate": 0.01, "differing": [], "lost": []}
    found = Verified(sets={}, bytes=0, seconds=1.0, damage=(), again=again)
    assert not found.good
    assert dataclasses.replace(found, most_different=0.01).good
    assert "1.0000 % of 100 codes differ" in "".join(found.lines())


@pytest.mark.parametrize("fields", [{"sample": -1}, {"most_different": 1.5}])
def test_rejects(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"sample .* must be at least 0, most_different .* in"):
        Verify(shards="x", **fields)
