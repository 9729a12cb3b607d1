"""From videos to a report through every stage, again, and through the public door."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from made_demo import demo_over

import toto
from toto.jobs.demo import RESULTS
from toto.models.sampling import SamplingConfig

STAGES = list(RESULTS.values())
SECTIONS = {
    "data",
    "tokenizer",
    "pretraining",
    "redundancy",
    "layers",
    "forecasts",
    "tracking",
    "cost",
    "setup",
}


def stages(folder: Path) -> list[str]:
    return [
        json.loads(line)["stage"] for line in (folder / "stages.jsonl").read_text().split("\n")[:-1]
    ]


def changed(folder: Path) -> dict[str, int]:
    """When each file of the stages was last written, save for what every visit writes."""
    files = [p for p in folder.glob("*/**/*") if p.is_file() and not p.name.startswith(".")]
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in files}


def test_every_stage_ran_once_and_said_what_it_took(finished: Path) -> None:
    assert stages(finished) == STAGES
    for line in (finished / "stages.jsonl").read_text().splitlines():
        cost = json.loads(line)
        assert cost["wall_s"] > 0
        assert cost["cpu_s"] > 0
        assert cost["peak_memory_bytes"] > 1 << 20


def test_the_report_has_all_sections_and_none_unfinished(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    sections = re.findall(r'<section id="([a-z]+)">(.*?)</section>', page, flags=re.DOTALL)
    assert {name for name, _ in sections} == SECTIONS
    for name, text in sections:
        assert "nothing recorded yet" not in text, name
        assert "toto " not in text or name == "setup", f"{name} asks for a command to be run"
    assert page.count("<video") >= 2
    assert page.count("<img") >= 4


def test_the_results_are_finite_and_of_the_right_shapes(finished: Path) -> None:
    def result(stage: str, name: str) -> dict:
        return json.loads((finished / stage / "results" / f"{name}.json").read_text())

    pretrain = result("pretrain", "pretrain")
    assert pretrain["steps"] == 6
    assert pretrain["tokens"] == 6 * 4 * 66
    assert len(pretrain["loss_per_frame"]) == len(pretrain["loss_per_frame_untrained"]) == 4
    assert (
        0 < pretrain["unigram_loss"] < pretrain["uniform_loss"] == pytest.approx(3.4657, abs=1e-4)
    )
    probe = result("probe", "probe")
    assert probe["layers"] == ["embedding", "block 1", "block 2"]
    for task in probe["tasks"].values():
        for kind in ("trained", "untrained"):
            for pooling in probe["poolings"]:
                accuracies = torch.tensor(task["test"][kind][pooling])
                assert accuracies.shape == (2, 3)
                assert ((accuracies >= 0) & (accuracies <= 1)).all()
    track = result("track", "track")
    assert set(track["scores"]) == {"trained", "untrained", "first mask kept"}
    assert len(track["clips"]) == 3
    generate = result("generate", "generate")
    assert {name: group["clips"] for name, group in generate["groups"].items()} == {
        "real clips": 1,
        "moving digits": 2,
    }
    for group in generate["groups"].values():
        for curves in group["curves"].values():
            assert [len(curve["mean"]) for curve in curves.values()] == [2, 2, 2, 2]
    assert len(generate["sources"]) == 3
    assert generate["sources"][0].endswith(".mp4")


def test_probe_scores_recompute_from_the_predictions(finished: Path) -> None:
    results = finished / "probe" / "results"
    probe = json.loads((results / "probe.json").read_text())
    found = json.loads((results / "predictions.json").read_text())
    for task, labels in found["labels"].items():
        for kind, by_task in found["predicted"].items():
            chosen = probe["tasks"][task]["chosen"][kind]
            for predicted, choice in zip(by_task[task], chosen, strict=True):
                right = [p == label for p, label in zip(predicted, labels, strict=True)]
                assert sum(right) / len(right) == pytest.approx(choice["test"])


def test_a_second_run_does_nothing_but_the_report(
    finished: Path, videos: Path, small_tokenizer: Path
) -> None:
    before, report = changed(finished), (finished / "report.html").stat().st_mtime_ns
    demo_over(videos, small_tokenizer).run(finished)
    assert changed(finished) == before
    assert stages(finished) == STAGES
    assert (finished / "report.html").stat().st_mtime_ns > report


def test_a_stage_whose_folder_was_removed_runs_again_and_no_other(
    finished: Path, videos: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "probe")
    before = changed(folder)
    # The stages before it are named by their paths, which are those of the copy.
    demo_over(videos, small_tokenizer).run(folder)
    after = changed(folder)
    assert stages(folder) == [*STAGES, "probe"]
    assert {name for name in after if after[name] != before.get(name)} == {
        name for name in after if name.startswith("probe/")
    }
    probes = [json.loads((f / "probe/results/probe.json").read_text()) for f in (finished, folder)]
    assert probes[0] == probes[1]


def test_a_demo_of_other_videos_is_refused(
    finished: Path, videos: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    shutil.copytree(videos, tmp_path / "others")
    with pytest.raises(ValueError, match=r"another config \(ingest\.dataset\.root"):
        demo_over(tmp_path / "others", small_tokenizer).run(finished)


def test_a_mistyped_folder_leaves_nothing_behind(small_tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no/such is not a folder; point to a folder with videos"):
        demo_over(tmp_path / "no/such", small_tokenizer).run(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_load_gives_features_of_every_layer(finished: Path) -> None:
    model = toto.load(finished / "pretrain")
    video = torch.randint(256, (4, 32, 32, 3), dtype=torch.uint8)
    features = model.features(video, range(model.depth + 1))
    assert model.depth == 2
    assert {layer: tuple(f.shape) for layer, f in features.items()} == dict.fromkeys(
        range(3), (4, 4, 4, 32)
    )
    again = toto.load(str(finished / "pretrain")).features(video, [1, 2])
    assert all(torch.equal(features[layer], again[layer]) for layer in (1, 2))
    assert all(f.isfinite().all() for f in features.values())
    assert not torch.equal(features[1], features[2])


def test_features_of_a_frame_do_not_see_later_frames(finished: Path) -> None:
    model = toto.load(finished / "pretrain")
    # Black and white: noise may read as one code throughout to an untrained tokenizer.
    video = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    other = video.clone()
    other[3] = 255
    assert not torch.equal(model.tokenizer.encode(video)[3], model.tokenizer.encode(other)[3])
    here, there = model.features(video, [2])[2], model.features(other, [2])[2]
    torch.testing.assert_close(here[:3], there[:3], rtol=0, atol=1e-6)
    assert not torch.equal(here[3], there[3])


def test_features_refuse_what_does_not_fit(finished: Path) -> None:
    model = toto.load(finished / "pretrain")
    with pytest.raises(ValueError, match="context"):
        model.features(torch.zeros(5, 32, 32, 3, dtype=torch.uint8), [0])
    with pytest.raises(ValueError, match="8"):
        model.features(torch.zeros(1, 32, 30, 3, dtype=torch.uint8), [0])
    with pytest.raises(ValueError, match="9"):
        model.features(torch.zeros(1, 32, 32, 3, dtype=torch.uint8), [9])


def test_generate_gives_the_new_frames_and_the_same_ones_for_the_same_seed(finished: Path) -> None:
    model = toto.load(finished / "pretrain")
    video = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    first = model.generate(video, 2, SamplingConfig(seed=1))
    assert first.shape == (2, 32, 32, 3)
    assert first.dtype == torch.uint8
    assert torch.equal(first, model.generate(video, 2, SamplingConfig(seed=1)))
    assert not torch.equal(first, model.generate(video, 2, SamplingConfig(seed=2)))
    assert torch.equal(model.generate(video, 1), model.generate(video, 1))
    # The model sees four frames at once.
    assert model.generate(video, 3).shape == (3, 32, 32, 3)


def test_the_tokenizer_of_a_run_is_the_one_that_was_given(
    finished: Path, small_tokenizer: Path
) -> None:
    given = toto.load_tokenizer(small_tokenizer)
    video = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    ids = given.encode(video)
    assert ids.shape == (2, 4, 4)
    assert given.decode(ids).shape == video.shape
    ours = toto.load(finished / "pretrain").tokenizer
    assert ours.digest() == given.digest()
    assert toto.load_tokenizer(finished / "shards" / "tokenizer").digest() == given.digest()
    assert torch.equal(ours.encode(video), ids)
    assert toto.load_tokenizer("grey").vocab_size == 16


def test_load_refuses_folders_that_are_no_runs(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a run folder"):
        toto.load(tmp_path)
    with pytest.raises(ValueError, match="no tokenizer"):
        toto.load(finished / "data")
    with pytest.raises(ValueError, match="not a pre-training run"):
        toto.load(_with_tokenizer(finished, tmp_path / "probe"))
    shutil.copytree(finished / "pretrain", tmp_path / "begun")
    shutil.rmtree(tmp_path / "begun" / "checkpoints")
    with pytest.raises(ValueError, match="no checkpoint yet"):
        toto.load(tmp_path / "begun")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        toto.nothing  # noqa: B018


def test_the_saved_configs_are_those_that_were_asked_for(
    finished: Path, videos: Path, small_tokenizer: Path
) -> None:
    asked = demo_over(videos, small_tokenizer)
    saved = json.loads((finished / "config.json").read_text())
    assert saved["kind"] == "Demo"
    assert list(saved["config"]) == [f.name for f in dataclasses.fields(asked)]
    own = json.loads((finished / "pretrain" / "config.json").read_text())
    assert own["config"]["shards"] == str(finished / "shards")


def _with_tokenizer(finished: Path, copy: Path) -> Path:
    shutil.copytree(finished / "probe", copy)
    shutil.copytree(finished / "shards" / "tokenizer", copy / "tokenizer")
    return copy
