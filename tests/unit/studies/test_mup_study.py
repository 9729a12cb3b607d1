"""`toto study mup`, small: what it leaves, and that it goes on where it was stopped."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from toto.data.layout import LayoutConfig
from toto.data.records import ClipRecord, Description
from toto.data.shards import write_shard
from toto.data.token_set import shard_name, write_index
from toto.jobs import study
from toto.jobs.study import MupStudy
from toto.models import LlamaConfig
from toto.models.mup import MuP
from toto.report.study_plots import transfer_table
from toto.types import TokenGrid

STUDY = MupStudy(
    model=LlamaConfig(
        vocab_size=12, width=8, depth=1, heads=2, mlp_width=8, context=6, mup=MuP(base_width=8)
    ),
    widths=(8, 16),
    log2_lrs=(-6, -4),
    seeds=2,
    steps=6,
    warmup=1,
    batch=4,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("study") / "mup"
    return out, STUDY.run(out)


def test_every_cell_is_in_the_result(finished: tuple[Path, dict[str, Any]]) -> None:
    out, result = finished
    assert json.loads((out / "results" / "study_mup.json").read_text()) == result
    assert len(result["cells"]) == 2 * 2 * 3
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in line.items() if k != "step"} for line in lines] == result["cells"]
    assert result["mup"]["mean_loss"]["8"] == result["standard"]["mean_loss"]["8"]
    assert result["mup"]["mean_loss"]["16"] != result["standard"]["mean_loss"]["16"]
    assert (out / "mup.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "mup.md").read_text() == transfer_table(result)


def test_the_table_names_each_width_once(finished: tuple[Path, dict[str, Any]]) -> None:
    rows = [line for line in transfer_table(finished[1]).splitlines() if line.startswith("| W")]
    assert [row.split("|")[2].strip() for row in rows] == ["8", "16"] * 2
    assert all("2^-6 (at the edge)" in row or "2^-4 (at the edge)" in row for row in rows)


def test_a_stopped_study_goes_on(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    real = study.train_cell

    def counted(*args: Any, **kwargs: Any) -> float | None:
        trained.append(kwargs["seed"])
        if len(trained) == 6:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(study, "train_cell", counted)
    with pytest.raises(KeyboardInterrupt):
        STUDY.run(tmp_path / "mup")
    assert STUDY.run(tmp_path / "mup") == finished[1]
    assert len(trained) == 12 + 1
    assert STUDY.run(tmp_path / "mup") == finished[1]
    assert len(trained) == 12 + 1


def test_a_lost_training_is_a_gap_in_picture_and_table(tmp_path: Path) -> None:
    found = replace(STUDY, log2_lrs=(-4, 127), seeds=1).run(tmp_path)
    assert {cell["loss"] for cell in found["cells"] if cell["log2_lr"] == 127} == {None}
    assert found["mup"]["best"]["8"]["log2_lr"] == -4
    assert "2^-4 (at the edge)" in (tmp_path / "mup.md").read_text()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """One token set, `made/train`, of 9 codes in frames of 2 x 2."""
    description = Description(
        tokenizer="grey",
        tokenizer_digest="0" * 64,
        vocab_size=9,
        patch_px=8,
        grid=(2, 2),
        kind="video",
        precision="fp32",
        resize_filter="lanczos",
        decoder="none",
    )
    clips = [
        (
            TokenGrid(ids=torch.randint(9, (4, 2, 2), dtype=torch.int32), vocab_size=9),
            ClipRecord(
                source=f"clip-{number}",
                source_sha256=None,
                frame_indices=(0, 4, 8, 12),
                times_s=(0.0, 0.1, 0.2, 0.3),
                side_px=16,
                crop=(0.5, 0.5),
                labels={},
            ),
        )
        for number in range(12)
    ]
    write_shard(tmp_path / "shards" / "made" / "train" / shard_name(0), description, clips)
    write_index(tmp_path / "shards" / "made" / "train")
    return tmp_path / "shards"


def test_stored_tokens_are_read(shards: Path, tmp_path: Path) -> None:
    stored = replace(
        STUDY,
        shards=str(shards),
        layout=LayoutConfig(frames=2),
        model=replace(STUDY.model, context=10),
        seeds=1,
    )
    found = stored.run(tmp_path / "all")
    assert found["data"] == str(shards)
    assert all(cell["loss"] > 0 for cell in found["cells"])
    named = replace(stored, sources=("made/train",)).run(tmp_path / "named")
    assert named["cells"] == found["cells"]
    with pytest.raises(ValueError, match="a sequence has 18 tokens, the model's context 10"):
        replace(stored, layout=LayoutConfig(frames=4)).run(tmp_path / "long")
    with pytest.raises(ValueError, match="has no token set 'other'"):
        replace(stored, sources=("other",)).run(tmp_path / "other")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(STUDY, seeds=0), "seeds 0 must be at least 1"),
        (lambda: replace(STUDY, steps=0), "steps 0 must be at least 1"),
        (lambda: replace(STUDY, widths=(16, 8)), r"widths \(16, 8\) must rise"),
        (lambda: replace(STUDY, log2_lrs=()), r"log2_lrs \(\) must rise"),
        (lambda: replace(STUDY, widths=(8, 11)), "width 11 does not divide into 2 heads"),
        (lambda: replace(STUDY, warmup=6), "warmup 6 must be less than steps 6"),
        (
            lambda: replace(STUDY, model=replace(STUDY.model, mup=MuP())),
            "base_width 0: muP is off; set --model.mup.base-width",
        ),
        (
            lambda: replace(
                STUDY,
                model=replace(STUDY.model, vocab_size=4, patch_values=12, predicts="patches"),
            ),
            "patch_values 12: the study trains on ids",
        ),
        (lambda: replace(STUDY, shards="nowhere").run(Path("unused")), "nowhere has no token sets"),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
    assert not Path("unused").exists()
