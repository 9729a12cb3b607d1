import dataclasses
import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from example_run import write_example_run

from toto.report.collect import Report, collect
from toto.report.page import page, write_report

HEADINGS = [
    "The data",
    "From pictures to codes",
    "Pre-training",
    "Loss by frame",
    "Learning rate over widths",
    "Accuracy per layer",
    "Fine-tuning",
    "Forecasts",
    "Tracking",
    "Time and memory",
    "Configuration and versions",
]
OPTIONAL = ("Learning rate over widths", "Fine-tuning")
"""Headings of what the demo does not run."""
HOSTILE = "<script>alert(1)</script>\"'>.mp4"


class Reader(HTMLParser):
    """Notes which tags and attributes the page has, and that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example_run(tmp_path_factory.mktemp("runs") / "demo-run")


@pytest.fixture(scope="module")
def report(example: Path) -> Report:
    return collect(example)


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    return page(report)


@pytest.fixture
def run(example: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(example, tmp_path / "demo-run"))


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def edit(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_all_sections_stand_in_order(text: str) -> None:
    assert re.findall("<h2>(.*?)</h2>", text) == HEADINGS
    assert "not run" not in text
    reader = read(text)
    assert reader.tags.count("svg") == 17
    assert reader.tags.count("img") == 5
    assert reader.tags.count("video") == 1
    assert reader.tags.count("figcaption") == reader.tags.count("figure")


def test_says_the_key_numbers_and_that_the_run_is_small(text: str) -> None:
    text = html.unescape(text)
    for words in ("2.87 M", "2.46 M", "61.0 %", "38.0 %", "10.0 %", "6 min 28 s", "480 codes"):
        assert words in text
    assert "This is a small run." in text
    assert "no number here is comparable" in text


def test_a_failed_comparison_is_said_as_plainly_as_a_won_one(text: str) -> None:
    assert text.count("✓ better than untrained and than chance") == 2
    assert text.count("✗ not better than untrained") == 2
    assert "within what seeds alone change" in text


def test_a_stage_that_did_not_run_is_one_quiet_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    text = page(collect(tmp_path))
    read(text)
    sections = re.findall('<h2>(.*?)</h2><p class="quiet">(.*?)</p></section>', text)
    assert dict(sections) == {
        "The data": "started, not finished: <code>toto ingest …</code>",
        "From pictures to codes": "not run: <code>toto tokenizer …</code>",
        "Pre-training": "not run: <code>toto pretrain …</code>",
        "Loss by frame": "not run: <code>toto pretrain …</code>",
        "Accuracy per layer": "not run: <code>toto probe …</code>",
        "Forecasts": "not run: <code>toto generate …</code>",
        "Tracking": "not run: <code>toto track …</code>",
        "Time and memory": "nothing recorded yet",
        "Configuration and versions": "nothing recorded yet",
    }
    assert [title for title, _ in sections] == [t for t in HEADINGS if t not in OPTIONAL]
    assert "has yet to learn" in text
    assert "was not tested in this run" in text


@pytest.mark.parametrize("stage", ["ingest", "tokenize", "track"])
def test_one_stage_can_be_missing_alone(report: Report, stage: str) -> None:
    few_figures = dataclasses.replace(report, pretrain=None, probe=None, generate=None)
    before = page(few_figures).count("started, not finished")
    text = page(dataclasses.replace(few_figures, **{stage: None}))
    read(text)
    assert text.count("started, not finished") == before + 1
    assert f"started, not finished: <code>toto {stage} …</code>" in text


def section(text: str, anchor: str) -> str:
    """The words of one section."""
    found = re.search(f'<section id="{anchor}">(.*?)</section>', text)
    assert found
    return html.unescape(re.sub("<svg.*?</svg>|<[^>]*>", "", found[1]))


def test_a_fine_tuning_says_its_score_and_what_it_is_of(run: Path) -> None:
    words = section(page(collect(run)), "finetuning")
    assert (
        "68.3 % with 10x3 views of each clip, 65.2 % with one, read at layer 4; chance 10.0 %"
        in (words)
    )
    assert "while probes behind its layers learned the labels" in words
    assert "could not be read, and count as wrong: 1." in words
    # A whole model has one head; nobody logged a line; one view.
    whole = {"protocol": "whole", "test_accuracies": {"6": 0.5}, "views": "1x1", "lost": []}
    edit(run / "finetune/results/finetune.json", {**whole, "init": "untrained", "layer": 6})
    (run / "finetune/metrics.jsonl").unlink()
    text = page(collect(run))
    words = section(text, "finetuning")
    assert "All weights learned from labels." in words
    assert "it began with fresh weights" in words
    assert "10 classes: 68.3 %; chance 10.0 %." in words
    assert "finetune-layers" not in text
    assert "could not be read" not in words


def test_forecasts_are_told_beside_what_costs_nothing(run: Path) -> None:
    words = section(page(collect(run)), "forecasts")
    assert "continues them by 8 in 3 ways" in words
    assert "It sees 8 frames at once; when they are full, the newest 4 are read again" in words
    assert "Real clips: 6 clips of 4 videos" in words
    assert "✓ better than repeating the last frame at 6 of 8 frames, worse at 1, by PSNR" in words
    assert "By PSNR the forecast is better from frame 3 on." in words
    assert (
        "Moving digits: 1 clip✗ at no frame better than repeating the last frame, by PSNR" in words
    )
    assert "measuremethodframe 1frame 2frame 4frame 8PSNRforecast18.6 ± 1.1" in words
    assert "PSNRdeviation among futures0.30.30.30.3SSIM" in words
    # One clip has no spread, and its measure has not all methods.
    assert "PSNRforecast15.015.015.015.0" in words
    assert "Each of the 6 clips, mean over frames and futures" in words
    assert "clip-2.mp4PSNR20.6020.9019.4023.40clip-2.mp4SSIM2.62" in words
    assert "frechet(demo 0f3a9c21, layer 3; 4 of 192 components)" in words
    assert "It is no FVD" in words
    edit(
        run / "generate/results/generate.json",
        {"futures": 1, "window_frames": 16, "set_distances": []},
    )
    words = section(page(collect(run)), "forecasts")
    assert "continues them by 8, code by code" in words
    assert "It sees" not in words
    assert "It is no FVD" not in words


def test_a_fine_tuning_under_way_is_one_quiet_line(run: Path) -> None:
    (run / "finetune/results/finetune.json").unlink()
    assert section(page(collect(run)), "finetuning").endswith(
        "started, not finished: toto finetune …"
    )


def test_the_rates_over_widths_are_told_with_and_without_mup(run: Path) -> None:
    words = section(page(collect(run)), "mup")
    assert "With muP: the best rate stays over 8x the width." in words
    assert "parametrisation): the best rate moves by a factor of 8 over 8x the width." in words
    study = json.loads((run / "mup/results/study_mup.json").read_text())
    lost = study["standard"]
    lost["best"]["256"], lost["lost_by_keeping"]["256"], lost["moved"] = None, None, None
    lost["best"]["128"]["at_edge"] = True
    edit(run / "mup/results/study_mup.json", {"standard": lost, "seeds": 1})
    words = section(page(collect(run)), "mup")
    assert "learning rates, 1 seed a rate" in words
    assert "no rate was finite for some width over 8x the width" in words
    assert "2-6 (at the edge)" in words
    assert "none was finite" in words


def test_what_strangers_named_stays_text(run: Path) -> None:
    problem = {"path": HOSTILE, "stage": HOSTILE, "reason": HOSTILE}
    source = {"name": HOSTILE, "clips": 1, "lost": 1, "frames": 1, "duration_s": 1.0}
    problems = {"sources": [source], "lost": [problem] * 9, "damaged": [problem]}
    edit(run / "data/results/ingest.json", problems)
    scores = {"source": HOSTILE, "j": 0.5, "f": 0.5, "j_and_f": 0.5}
    edit(run / "track/results/track.json", {"clips": [scores], "protocol": {HOSTILE: HOSTILE}})
    forecasts = json.loads((run / "generate/results/generate.json").read_text())
    forecasts["groups"][HOSTILE] = forecasts["groups"].pop("real clips")
    forecasts["groups"][HOSTILE]["of_clips"][0]["source"] = HOSTILE
    forecasts["groups"][HOSTILE]["verdicts"]["psnr_db"]["sentence"] = HOSTILE
    forecasts["set_distances"][0]["name"] = HOSTILE
    forecasts["measures"]["psnr_db"]["label"] = HOSTILE
    sources = {"sources": [HOSTILE, {"clip": HOSTILE}]}
    edit(run / "generate/results/generate.json", forecasts | sources)
    edit(run / "data/config.json", {"config": {HOSTILE: HOSTILE}})
    edit(run / "data/env.json", {HOSTILE: HOSTILE})
    probe = json.loads((run / "probe/results/probe.json").read_text())
    tasks = {HOSTILE: probe["tasks"]["digit"]}
    layers = [HOSTILE, *probe["layers"][1:]]
    edit(run / "probe/results/probe.json", {"tasks": tasks, "layers": layers})
    hostile = run.rename(run.with_name("<b onload=x>"))

    text = page(collect(hostile))
    assert "<script" not in text
    assert "<b onload" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&gt;.mp4") > 30
    assert "script" not in read(text).tags


def test_the_page_asks_nothing_of_the_outside(text: str) -> None:
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    reader = read(text)
    assert not {"script", "link", "iframe", "object", "base"} & set(reader.tags)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "xlink:href", "poster"}:
            assert value.startswith(("data:image/png;", "data:video/mp4;", "#"))
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
            "media-src data:") in reader.attributes  # fmt: skip


def test_ids_are_unique_and_every_reference_has_its_target(text: str) -> None:
    ids = [value for name, value in read(text).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    asked = re.findall(r'href="#([^"]+)"', text) + re.findall(r"url\(#([^)]+)\)", text)
    assert set(asked) <= set(ids)


def test_colours_follow_the_page_in_light_and_dark(text: str) -> None:
    drawings = re.findall("<svg.*?</svg>", text)
    assert len(drawings) == 17
    for drawing in drawings:
        assert re.search(r"var\(--(trained|limit)\)", drawing)
        assert not re.findall(r"(?:fill|stroke): #", drawing)
        assert "font-family" not in drawing


def test_the_same_run_gives_the_same_bytes(report: Report, text: str) -> None:
    assert page(report) == text


def test_a_large_video_is_named_and_not_embedded(report: Report) -> None:
    large = dataclasses.replace(report.forecasts[0], data=bytes(1_500_000))
    named = dataclasses.replace(report, forecasts=(large,), pretrain=None, probe=None)
    text = page(named)
    assert "<video" not in text
    assert "forecast.mp4 (1.5 MB) is too large to embed" in text


def test_one_seed_and_unknown_numbers_are_drawn(run: Path) -> None:
    probe = json.loads((run / "probe/results/probe.json").read_text())
    for task in probe["tasks"].values():
        for by_pooling in task["test"].values():
            for pooling in by_pooling:
                by_pooling[pooling] = by_pooling[pooling][:1]
        task["verdict"] |= {"trained_sd": None, "untrained_sd": None, "margin_in_sd": None}
    edit(run / "probe/results/probe.json", probe | {"seeds": [0]})
    edit(run / "pretrain/results/pretrain.json", {"unigram_loss": None, "tokens_per_s": None})
    forecasts = json.loads((run / "generate/results/generate.json").read_text())
    curves = forecasts["groups"]["moving digits"]["curves"]["psnr_db"]
    curves["another way"] = {"mean": [19.0, None, *[17.0] * 6]}
    edit(run / "generate/results/generate.json", {**forecasts, "temperature": None})
    edit(run / "shards/results/tokenize.json", {"histogram": [0] * 512})
    text = page(collect(run))
    read(text)
    assert "Margin:" not in text
    assert "No token was written." in text


def test_writes_the_page_whole_or_not_at_all(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "report.html"
    report = dataclasses.replace(report, tokenizer=None, pretrain=None, probe=None, generate=None)
    assert write_report(report, path) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")

    def fail(old: str, new: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.replace", fail)
    before = path.read_bytes()
    with pytest.raises(OSError, match="Input/output error"):
        write_report(dataclasses.replace(report, name="other"), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_needs_no_torch() -> None:
    code = (
        "import pkgutil, sys, importlib, toto.report as room\n"
        "names = [m.name for m in pkgutil.iter_modules(room.__path__)]\n"
        "for name in names: importlib.import_module(f'toto.report.{name}')\n"
        "assert {'collect', 'figures', 'page'} <= set(names), names\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
