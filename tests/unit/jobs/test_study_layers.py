"""`toto study layers`, small: what it leaves, what it refuses, and what it never takes twice."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from made_labelled import LLAMA, write_labelled, write_run
from made_run_folders import save_run
from toto.data.token_set import TokenSet
from toto.jobs import study_layers
from toto.jobs.atlas_clips import atlas_clips
from toto.jobs.score_files import read_entry
from toto.jobs.study_layers import LayerStudy
from toto.probe.bank import BankConfig
from toto.probe.heads import HEADS
from toto.report.atlas_plots import atlas_table
from toto.video.manifest import Row, write_manifest

BANK = BankConfig(
    heads=("average", "attention"), attention_heads=2, rates=(1e-2, 3e-2), epochs=2, batch=8
)


def study(tmp_path: Path, **changes: Any) -> LayerStudy:
    job = LayerStudy(
        run_folder=tmp_path / "run",
        shards=str(tmp_path / "shards"),
        selection="selection",
        label="shade",
        bank=BANK,
        seeds=(0, 1),
        precision="fp32",
    )
    return replace(job, **changes)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    write_run(tmp_path / "run")
    write_labelled(tmp_path / "shards")
    return tmp_path


def test_what_a_study_leaves(made: Path) -> None:
    job = study(made, bank=replace(BANK, heads=tuple(HEADS)))
    result = job.run(made / "out")
    assert json.loads((made / "out/results/study_layers.json").read_text()) == result
    assert result["heads_tried"] == 3 * len(HEADS) * 2
    assert result["clips"] == {"train": 14, "selection": 9, "test": 7}
    for kind in ("trained", "untrained"):
        for head in HEADS:
            shape = [len(seed) for seed in result["curves"][kind][head]["test"]]
            assert shape == [3, 3]
    assert (made / "out/layers.png").read_bytes().startswith(b"\x89PNG")
    assert (made / "out/layers.md").read_text() == atlas_table(result)
    assert job.run(made / "out") == result


def test_the_chosen_score_recomputes_from_the_answers(made: Path) -> None:
    result = study(made).run(made / "out")
    for kind in ("trained", "untrained"):
        entry = read_entry(made / f"out/results/score-shade-{kind}.json")
        assert entry.troubles == ()
        assert entry.score is not None
        assert entry.score.values == pytest.approx([one["test"] for one in result["chosen"][kind]])
        assert entry.score.selection is not None
        assert entry.score.selection.tried == result["heads_tried"]
        assert len(entry.score.model.weights_sha256) == (1 if kind == "trained" else 2)


def test_a_lost_clip_counts_as_wrong_in_score_and_curves(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    write_labelled(tmp_path / "all/shards")
    job = study(tmp_path, shards=str(tmp_path / "all/shards"))
    whole = job.run(tmp_path / "whole")["curves"]["trained"]["attention"]["test"]
    lost = Row(
        source="shards",
        path="gone.mp4",
        clip="gone.mp4",
        sha256=None,
        status="missing",
        stage="open",
        reason="not there",
        split="test",
    )
    write_manifest(tmp_path / "all/manifest.parquet", [lost])
    result = job.run(tmp_path / "less")
    fewer = [[value * 7 / 8 for value in seed] for seed in whole]
    assert result["curves"]["trained"]["attention"]["test"] == [pytest.approx(s) for s in fewer]
    entry = read_entry(tmp_path / "less/results/score-shade-trained.json")
    assert entry.score is not None
    assert entry.score.missing == ("shards/gone.mp4",)
    chosen = [one["test"] for one in result["chosen"]["trained"]]
    assert entry.score.values == pytest.approx(chosen)


def test_fewer_clips_of_each_class_can_teach(made: Path) -> None:
    result = study(made, selection="", train_clips_per_class=2, selection_share=0.2).run(made / "o")
    assert result["clips"]["train"] == 2 * 3
    assert result["clips"]["selection"] == 3


def test_part_of_the_training_set_chooses_where_no_set_does(made: Path) -> None:
    result = study(made, selection="", selection_share=0.3).run(made / "out")
    assert result["clips"]["train"] + result["clips"]["selection"] == 14
    assert result["clips"]["test"] == 7


def test_features_are_kept_and_found_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = study(made, cache=made / "cache")
    first = job.run(made / "out")
    monkeypatch.setattr(study_layers, "extract", None)
    assert job.run(made / "again") == first


def test_features_of_other_weights_are_never_taken(made: Path) -> None:
    """The same folder, the same clips, a model of the same shape."""
    job = study(made, cache=made / "cache")
    job.run(made / "out")
    entries = set((made / "cache").iterdir())
    (made / "run").rename(made / "old")
    write_run(made / "run")  # the very same weights
    job.run(made / "same")
    assert set((made / "cache").iterdir()) == entries
    (made / "run").rename(made / "older")
    torch.manual_seed(2)
    save_run(made / "run", LLAMA.build())
    job.run(made / "other")
    fresh = set((made / "cache").iterdir()) - entries
    assert len(fresh) == 3  # train, selection and test of the run; the untrained are as before


def test_clips_of_sixteen_frames_are_read_whole(tmp_path: Path) -> None:
    save_run(tmp_path / "run", replace(LLAMA, context=16 * 16 + 2).build(), frames=16)
    write_labelled(tmp_path / "shards", length=16)
    assert study(tmp_path).run(tmp_path / "out")["frames"] == 16


def test_sequences_of_images_begin_as_in_pre_training(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    results = []
    for kind in ("video", "images"):
        write_labelled(tmp_path / kind, kind=kind, length=1, frames=False)
        job = study(tmp_path, shards=str(tmp_path / kind), cache=tmp_path / "cache")
        job.run(tmp_path / f"out-{kind}")
        results.append(len(list((tmp_path / "cache").iterdir())))
    assert results[1] == 2 * results[0]  # the features of one are not those of the other


def sets(folder: Path) -> dict[str, TokenSet]:
    return {name: TokenSet(folder / name) for name in ("train", "test")}


def test_a_class_that_nothing_teaches_is_refused(tmp_path: Path) -> None:
    write_labelled(tmp_path)
    both = {"train": TokenSet(tmp_path / "train"), "test": TokenSet(tmp_path / "test")}
    strange = both["test"].labels("shade") + 1
    both["test"].labels = lambda _: strange  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"test has shade '3', which is none of the 3 classes"):
        atlas_clips(both, label="shade", frames=None, share=0.2, seed=0, most=None)


def test_too_many_frames_and_no_class_are_refused(tmp_path: Path) -> None:
    write_labelled(tmp_path)
    with pytest.raises(ValueError, match="--frames 5: a clip has only 4"):
        atlas_clips(sets(tmp_path), label="shade", frames=5, share=0.2, seed=0, most=None)
    with pytest.raises(
        ValueError, match=r"no class of its data set; name a label that it carries \(shade\)"
    ):
        atlas_clips(sets(tmp_path), label="", frames=None, share=0.2, seed=0, most=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (0,)}, r"seeds \(0,\): the spread of the scores needs 2, each once"),
        ({"train_clips_per_class": 0}, "train_clips_per_class 0 must be at least 1"),
        ({"selection_share": 1.0}, "selection_share 1.0 must lie between 0 and 1"),
        ({"selection": "test"}, "selection 'test' and test 'test' must be different sets"),
    ],
)
def test_a_study_refuses_what_it_cannot_mean(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(Path("nowhere"), **changes)
