import json
import shutil
from pathlib import Path

import pytest
from example_run import write_example_run

from toto.report.collect import collect


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example_run(tmp_path_factory.mktemp("runs") / "demo-run")


@pytest.fixture
def run(example: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(example, tmp_path / "demo-run"))


def test_reads_every_stage(run: Path) -> None:
    report = collect(run)
    assert report.name == "demo-run"
    assert [c.stage for c in report.costs][:2] == ["ingest", "tokenizer"]
    assert report.ingest is not None
    assert [p.path for p in report.ingest.lost] == ["holiday.mp4", "empty.mov"]
    assert report.tokenizer is not None
    assert report.tokenizer.psnr_db_grey == 16.4
    assert report.tokenize is not None
    assert len(report.tokenize.histogram) == 512
    assert report.pretrain is not None
    assert len(report.pretrain.loss_per_frame) == 16
    assert report.pretrain_curves["validation_loss"].steps == (100, 200, 300, 400, 500, 600)
    assert report.probe is not None
    assert len(report.probe.tasks["motion"].test["trained"]["average"]) == 3
    assert report.mup is not None
    assert report.mup.mup.best["256"] is not None
    assert report.mup.mup.best["256"].log2_lr == -4
    assert report.finetune is not None
    assert report.finetune.test_accuracies["4"] == 0.683
    assert report.finetune_curves["selection_accuracy"].steps == tuple(range(50, 501, 50))
    assert report.track is not None
    assert report.track.scores["trained"].j_and_f == 0.571
    assert report.generate is not None
    assert [m.name for m in report.strips] == ["strip1.png", "strip2.png"]
    assert [m.name for m in report.forecasts] == ["forecast.mp4"]
    assert report.configs["probe"]["digest"] == "0f3a9c21d7be4410"
    assert report.environments["probe"]["packages"]["torch"] == "2.12.0"


def test_what_did_not_run_is_none(tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    report = collect(tmp_path)
    assert report.started == {"pretrain"}
    assert (report.ingest, report.tokenizer, report.pretrain, report.probe) == (None,) * 4
    assert (report.track, report.generate, report.reconstructions) == (None,) * 3
    assert (report.costs, report.strips, report.forecasts) == ((), (), ())
    assert report.pretrain_curves == {}


def test_strips_come_in_counting_order(run: Path) -> None:
    (run / "generate/strip10.png").write_bytes((run / "generate/strip1.png").read_bytes())
    assert [m.name for m in collect(run).strips] == ["strip1.png", "strip2.png", "strip10.png"]


def test_a_stage_may_write_more_than_the_page_shows(run: Path) -> None:
    path = run / "tokenizer/results/tokenizer.json"
    content = json.loads(path.read_text()) | {"new_measure": 1}
    del content["psnr_db_grey"]
    path.write_text(json.dumps(content))
    tokenizer = collect(run).tokenizer
    assert tokenizer is not None
    assert tokenizer.psnr_db_grey is None


@pytest.mark.parametrize("name", ["metrics.jsonl", "../stages.jsonl"])
def test_a_last_line_still_being_written_is_ignored(run: Path, name: str) -> None:
    before = collect(run)
    with (run / "pretrain" / name).open("a") as file:
        file.write('{"step": 602, "lo')
    assert collect(run) == before


def test_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run .none of data, tokenizer.*give a run"):
        collect(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("probe/results/probe.json", b'{"seeds": [0', r"probe\.json: not JSON"),
        ("data/results/ingest.json", b"[1, 2]", r"ingest\.json: expected a JSON object, got \[1"),
        (
            "data/results/ingest.json",
            b'{"sources": [3]}',
            r"ingest\.json: expected an object, got 3",
        ),
        ("data/results/ingest.json", b'{"sources": 3}', r"ingest\.json: sources: expected a list"),
        ("track/results/track.json", b'{"layer": 3}', r"track\.json: clips: missing"),
        ("pretrain/config.json", b"\xff\xfe", r"config\.json: not UTF-8"),
        ("pretrain/metrics.jsonl", b'{"step": 1}\n{"st\n', r"metrics\.jsonl, line 2: not JSON"),
        ("pretrain/metrics.jsonl", b'{"loss": 1.0}\n', r"metrics\.jsonl: a line has no whole step"),
        ("stages.jsonl", b'{"stage": "probe"}\n', r"stages\.jsonl: wall_s: missing"),
        ("track/overlay.png", b"<html>", r"overlay\.png: not a PNG file"),
        ("generate/forecast.mp4", b"<html>", r"forecast\.mp4: not a MP4 file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    run: Path, file: str, content: bytes, message: str
) -> None:
    (run / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{message}.*run its stage again"):
        collect(run)
