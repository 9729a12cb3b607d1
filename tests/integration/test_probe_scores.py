"""`toto probe` of our models and of other encoders, under one protocol, in the ledger."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from made_encoders import DEPTH, saved
from made_labelled import CLASSES, SPLITS, probes, tiny, write_labelled, write_lost, write_run
from toto.cli import main
from toto.jobs.ledger import Ledger, as_text
from toto.jobs.probe import Probe
from toto.probe.fit import FitConfig
from toto.runtime import checkpoint
from toto.tasks.classification import Task
from toto.tokenizers.base import digest_of

SEEDS = (2, 3)
"""Not the 1 that the fixture's own weights are drawn with."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled shards that keep frames, a run and two encoders."""
    made = tmp_path_factory.mktemp("probed")
    write_labelled(made / "shards" / "made")
    write_run(made / "run")
    saved(made / "vit", "vit")
    saved(made / "vjepa2", "vjepa2")
    return made


def job(folder: Path, **changes: Any) -> Probe:
    probe = Probe(
        run_folder=folder / "run",
        shards=str(folder / "shards" / "made"),
        tasks=(Task(name="shade", classes=CLASSES),),
        fit=FitConfig(epochs=2, batch=7, heads=2),
        seeds=SEEDS,
        precision="fp32",
    )
    return replace(probe, **changes)


def score(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / "results" / f"score-{name}.json").read_text())


@pytest.mark.parametrize("encoder", [None, "vit", "vjepa2"])
def test_every_encoder_runs_under_the_same_protocol(
    encoder: str | None, folder: Path, tmp_path: Path
) -> None:
    probe = job(folder, encoder=folder / encoder if encoder else None)
    result = probe.run(tmp_path)
    trained, untrained = (score(tmp_path, f"shade-{kind}") for kind in ("trained", "untrained"))
    chosen = result["tasks"]["shade"]["chosen"]["trained"]
    assert trained["values"] == pytest.approx([one["test"] for one in chosen], abs=1e-6)
    layers = len(result["layers"])
    assert layers == (DEPTH + 1 if encoder else 3)
    assert trained["selection"]["among"] == {"layers": layers, "poolings": 2}
    assert trained["selection"]["split"]["name"] == "made/selection"
    assert trained["reported"]["samples"] == trained["evaluated"] == SPLITS["test"]
    weights = [*trained["model"]["weights_sha256"], *untrained["model"]["weights_sha256"]]
    assert len(weights) == len(set(weights)) == 1 + len(SEEDS)
    entries = Ledger(folders=(tmp_path,)).run()
    assert [entry.troubles for entry in entries] == [(), ()]
    # What is compared with the others: their scores may stand in one table.
    other = json.dumps(trained["protocol"], sort_keys=True)
    assert encoder is None or other == _protocol_of(folder, tmp_path / "ours")


def _protocol_of(folder: Path, out: Path) -> str:
    job(folder).run(out)
    return json.dumps(score(out, "shade-trained")["protocol"], sort_keys=True)


def test_a_missing_clip_lowers_the_score_and_shows(folder: Path, tmp_path: Path) -> None:
    write_labelled(tmp_path / "shards" / "made")
    whole = job(folder)
    whole.run(tmp_path / "whole")
    lost = {"gone.mp4": ("missing", "test"), "broken.mp4": ("quarantined", "test")}
    write_lost(tmp_path / "shards", lost)
    replace(whole, shards=str(tmp_path / "shards" / "made")).run(tmp_path / "less")
    before, after = (score(tmp_path / out, "shade-trained") for out in ("whole", "less"))
    asked = SPLITS["test"]
    assert [value * asked for value in before["values"]] == pytest.approx(
        [value * (asked + 2) for value in after["values"]]
    )
    assert before["values"][0] > after["values"][0] > 0
    assert (after["missing"], after["undecodable"]) == (["made/gone.mp4"], ["made/broken.mp4"])
    text = "\n".join(as_text(Ledger(folders=(tmp_path / "less",)).run()))
    assert "shade-trained: 1 missing: made/gone.mp4" in text
    assert "shade-trained: 1 undecodable: made/broken.mp4" in text


@pytest.mark.parametrize("protocol", ["whole", "stop-gradient"])
def test_a_fine_tuning_stands_in_the_ledger(protocol: str, folder: Path, tmp_path: Path) -> None:
    make = tiny if protocol == "whole" else probes
    result = make(folder / "run", folder / "shards" / "made", epochs=1).run(tmp_path)
    (entry,) = Ledger(folders=(tmp_path,)).run()
    assert entry.troubles == ()
    assert entry.score is not None
    assert entry.score.value == pytest.approx(result["test_accuracy"])
    assert entry.score.protocol.name == f"finetune-{protocol}"
    newest = max((tmp_path / "checkpoints").glob("step-???????"))
    weights = checkpoint.load(newest, config_digest=None)["model"]
    assert entry.score.model.weights_sha256 == (digest_of("", weights),)
    tried = entry.score.selection.tried if entry.score.selection else 1
    assert tried == result["choices"]


def test_refuses_to_choose_on_what_it_reports(folder: Path, tmp_path: Path) -> None:
    shards = write_labelled(tmp_path / "shards" / "made")
    for file in sorted((shards / "selection").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    (shards / "selection").rmdir()
    (shards / "test").rename(shards / "selection")
    (shards / "test").symlink_to("selection")
    with pytest.raises(ValueError, match=r"chooses and shares 7 samples with the reported one"):
        job(folder, shards=str(shards)).run(tmp_path / "out")


def test_the_verb_takes_an_encoder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    arguments = ["toto", "probe", "--encoder", str(folder / "nothing"), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit):
        main()
    assert "nothing has no config.json; give a folder that transformers saved" in (
        capsys.readouterr().err
    )
