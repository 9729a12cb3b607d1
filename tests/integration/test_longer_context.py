"""Going on from a run with longer sequences and another RoPE base, as two recipes do."""

import json
import sys
from pathlib import Path

import pytest

from toto.cli import main


def run(*words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["toto", *map(str, words)])
        main()


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_it_begins_where_the_shorter_sequences_ended(grey_shards: Path, tmp_path: Path) -> None:
    words = ["--precision", "fp32", "--shards", grey_shards, "--steps", "20"]
    short, long, fresh = (tmp_path / name for name in ("short", "long", "fresh"))
    run("pretrain", "tiny", *words, "--layout.frames", "2", "--model.context", "34",
        "--out", short)  # fmt: skip
    longer = [*words, "--layout.frames", "4", "--model.context", "66", "--model.rope-base", "50000"]
    run("pretrain", "tiny", *longer, "--branch", f"{short}@20", "--out", long)
    run("pretrain", "tiny", *longer, "--out", fresh)
    assert len(losses(long)) == 20
    # The first batch of the longer run is new to both; only one has seen any before.
    assert losses(long)[0] < losses(fresh)[0] - 0.3
    described = json.loads((long / "results" / "model.json").read_text())
    assert (described["model"]["rope_base"], described["layout"]["frames"]) == (50_000.0, 4)


def test_another_architecture_is_refused(
    grey_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--precision", "fp32", "--shards", grey_shards, "--steps", "6"]
    run("pretrain", "tiny", *words, "--out", tmp_path / "llama")
    with pytest.raises(SystemExit):
        run("pretrain", "tiny-gpt2", *words, "--branch", f"{tmp_path / 'llama'}@6",
            "--out", tmp_path / "gpt2")  # fmt: skip
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("toto: ")]
    assert len(lines) == 1
    assert "branch" in lines[0]
