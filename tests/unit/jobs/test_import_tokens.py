"""Token files of others become token sets: all of them, once, the same however often begun."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from made_foreign import array_bytes, commavq, line, minute, sentence

from toto.data.token_set import TokenSet
from toto.jobs.import_tokens import ImportTokens
from toto.jobs.pretrain import Source
from toto.recipes import pretrain as recipes
from toto.tokenizers import load_tokenizer


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """Two archives of commaVQ, one damaged array, and one archive to hold out."""
    root = tmp_path / "commavq"
    root.mkdir()
    commavq(root / "data-0000.tar.gz", 3)
    commavq(root / "data-0001.tar.gz", 2, first=3)
    (root / "data-0002.npy").write_bytes(array_bytes(minute(9) + 1024))
    commavq(root / "data-0000b.tar.gz", 1, first=40)
    return root


def job(root: Path, **fields: object) -> ImportTokens:
    settings = {"held_out": ("data-0000b.tar.gz",), "shard_frames": 12} | fields
    return ImportTokens(format="commavq", root=root, **settings)


def tree(folder: Path) -> dict[str, str]:
    """Hashes of all that an import writes of its sources."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] in ("commavq", "parts", "results")
    }


def test_minutes_become_token_sets(archives: Path, tmp_path: Path) -> None:
    result = job(archives).run(tmp_path / "out")
    tokens = TokenSet(tmp_path / "out/commavq/pretrain")
    # 12 frames a shard: two minutes of 6 frames, and no shard has records of two files.
    names = sorted(path.name for path in (tmp_path / "out/commavq/pretrain").iterdir())
    assert names == ["00000", "00001", "00002", "index.json"]
    assert tokens.lengths.tolist() == [6] * 5
    for number in range(5):
        np.testing.assert_array_equal(tokens.window(number, 0, 6).numpy(), minute(number))
    record = tokens.clips[3]
    assert record.name == "commavq/data-0001.tar.gz#seg3.token.npy"
    assert record.source_sha256 == hashlib.sha256(array_bytes(minute(3))).hexdigest()
    assert record.times_s == (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
    held_out = TokenSet(tmp_path / "out/commavq/held-out")
    np.testing.assert_array_equal(held_out.window(0, 0, 6).numpy(), minute(40))
    counted = {source["name"]: source for source in result["sources"]}
    assert counted["commavq/pretrain"]["files"] == 3
    assert counted["commavq/pretrain"]["records"] == 5
    assert counted["commavq/pretrain"]["refused_records"] == 1
    assert counted["commavq/pretrain"]["tokens"] == 5 * 6 * 128
    assert counted["commavq/held-out"]["tokens"] == 6 * 128


def test_each_file_has_a_row_and_a_refused_one_its_reason(archives: Path, tmp_path: Path) -> None:
    files = job(archives).run(tmp_path / "out")["files"]
    assert [(row["path"], row["status"]) for row in files] == [
        ("data-0000.tar.gz", "ok"),
        ("data-0000b.tar.gz", "ok"),
        ("data-0001.tar.gz", "ok"),
        ("data-0002.npy", "refused"),
    ]
    bad = files[3]
    assert bad["reason"].startswith("1 refused: data-0002.npy: codes 1025..")
    assert bad["reason"].endswith("lie outside the 1024 of commavq")
    data = (archives / "data-0002.npy").read_bytes()
    assert (bad["sha256"], bad["file_bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))


def test_lines_become_a_token_set_whose_times_count_frames(tmp_path: Path) -> None:
    bad = b'{"tokens": "*"}\n'
    (tmp_path / "davis.jsonl").write_bytes(line(sentence(0)) + bad * 150 + line(sentence(1)))
    result = ImportTokens(format="lvm", root=tmp_path / "davis.jsonl").run(tmp_path / "out")
    tokens = TokenSet(tmp_path / "out/lvm/pretrain")
    assert tokens.lengths.tolist() == [3, 3]
    np.testing.assert_array_equal(tokens.window(1, 1, 2).numpy().reshape(2, 256), sentence(1)[1:])
    assert tokens.clips[1].times_s == (0.0, 1.0, 2.0)
    assert tokens.description.decoder == "none: imported tokens, frames counted, not in seconds"
    (row,) = result["files"]
    assert row["refused_records"] == 150
    # A file of nothing but bad lines must not fill the result.
    assert len(row["refused"]) == 100
    assert row["refused"][0]["source"] == "davis.jsonl#2"


def test_a_model_trains_on_them(tmp_path: Path) -> None:
    root = tmp_path / "minutes"
    root.mkdir()
    commavq(root / "a.tar.gz", 2, frames=20)
    commavq(root / "b.tar.gz", 1, frames=20, first=2)
    job(root, held_out=("b.tar.gz",)).run(tmp_path / "shards")
    tiny = recipes.tiny()
    training = replace(
        tiny,
        shards=tmp_path / "shards",
        model=replace(tiny.model, vocab_size=1024 + 3, context=4 * 8 * 16 + 2),
        mixture=(Source(name="commavq/pretrain", weight=1.0),),
        held_out=("commavq/held-out",),
        steps=2,
        warmup=0,
    )
    result = training.run(tmp_path / "run")
    assert result["validation_loss"] == pytest.approx(np.log(1027), rel=0.05)
    # The run says whose tokens it read, and nobody can take it for a tokenizer of ours.
    assert [path.name for path in (tmp_path / "run/tokenizer").iterdir()] == ["foreign.json"]
    with pytest.raises(ValueError, match="imported and their tokenizer is not part of toto; such"):
        load_tokenizer(tmp_path / "run/tokenizer")


def test_the_tokenizer_stands_for_itself(archives: Path, tmp_path: Path) -> None:
    job(archives).run(tmp_path / "out")
    foreign = json.loads((tmp_path / "out/tokenizer/foreign.json").read_text())
    tokens = TokenSet(tmp_path / "out/commavq/pretrain")
    assert foreign["name"] == tokens.description.tokenizer == "commavq"
    assert foreign["digest"] == tokens.description.tokenizer_digest


def test_a_killed_import_goes_on_to_the_same_bytes(archives: Path, tmp_path: Path) -> None:
    job(archives).run(tmp_path / "clean")
    code = (
        "import sys; from pathlib import Path\n"
        "from toto.jobs.import_tokens import ImportTokens\n"
        "ImportTokens(format='commavq', root=Path(sys.argv[1]), shard_frames=12,\n"
        "    held_out=('data-0000b.tar.gz',)).run(Path(sys.argv[2]))\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(archives), str(tmp_path / "killed")],
        env={**os.environ, "TOTO_CRASH_AT": "shard.before_rename:2"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -9
    # The first shard is whole, the second was not.
    left = sorted(path.name[:10] for path in (tmp_path / "killed/commavq/pretrain").iterdir())
    assert left == [".00001.tmp", "00000"]
    job(archives).run(tmp_path / "killed")
    assert tree(tmp_path / "killed") == tree(tmp_path / "clean")


def test_files_that_changed_meanwhile_are_refused(archives: Path, tmp_path: Path) -> None:
    job(archives).run(tmp_path / "out")
    (tmp_path / "out/results/import.json").unlink()
    (archives / "data-0000.npy").write_bytes(array_bytes(minute(8)))
    with pytest.raises(ValueError, match=r"data-0000\.npy has come, gone or changed since"):
        job(archives).run(tmp_path / "out")


def test_what_cannot_be_imported_is_refused(archives: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no token format 'llava'; .* reads: commavq, lvm"):
        ImportTokens(format="llava", root=archives)
    with pytest.raises(ValueError, match="shard_frames 0 must be at least 1"):
        job(archives, shard_frames=0)
    with pytest.raises(ValueError, match=r"has no b\.npy, which --held-out names"):
        job(archives, held_out=("b.npy",)).run(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"no file gives a token; the first, data-0002\.npy: 1 re"):
        job(archives / "data-0002.npy", held_out=()).run(tmp_path / "out")
