"""The numbers of `toto show` against a built model and arithmetic; what `toto doctor` finds."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from toto.config import digest, to_dict
from toto.jobs.doctor import Doctor
from toto.jobs.show import as_json, describe
from toto.recipes import PRETRAIN

Usage = namedtuple("Usage", "total used free")


def test_show_counts_what_is_built() -> None:
    job = PRETRAIN["tiny"]()
    facts, model = dict(describe(job)), job.model.build()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert facts["parameters"].startswith(f"{parameters:,} (")
    table = model.embedding.weight.numel()
    assert facts["of these, embedding and head"] == f"{2 * table:,}"
    assert facts["tokens a step"] == f"{job.batch * 258:,} ({job.batch} sequences)"
    assert facts["tokens in all"].startswith(f"{job.steps * job.batch * 258:,} (")
    assert facts["vocabulary"] == "19 ids, untied head"
    assert facts["config digest"] == digest(job)


def test_show_of_the_paper_sizes() -> None:
    facts = dict(describe(PRETRAIN["base"]()))
    assert facts["parameters"] == "125,852,928 (125.9 M)"
    assert facts["shape"] == "width 768, depth 12, heads 12, MLP 3072"
    assert facts["tokens a step"].startswith("1,049,088 (256 sequences)")
    # 6 FLOPs a weight outside the embedding, and 6 x depth x width x context of causal attention.
    weights = 12 * (4 * 768**2 + 3 * 768 * 3072) + 8195 * 768
    flops = 6 * weights + 6 * 12 * 768 * 4098
    assert facts["FLOPs a token"].startswith(f"{flops / 1e9:.3f} G for training")
    assert facts["memory of the training state"].startswith(f"{16 * 125_852_928 / 1e9:.2f} GB")


def test_show_follows_a_changed_field() -> None:
    job = replace(PRETRAIN["tiny"](), steps=40)
    assert dict(describe(job))["steps"] == "40"
    assert (
        dict(describe(job))["config digest"] != dict(describe(PRETRAIN["tiny"]()))["config digest"]
    )
    assert json.loads(as_json(job)) == json.loads(json.dumps(to_dict(job)))


def test_doctor_names_versions_device_decoder_and_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9e9, 0, 9e9))
    facts, troubles = Doctor(folder=tmp_path / "not" / "yet").run()
    names = dict(facts)
    for name in ("toto", "python", "packages", "device", "precision auto", "decoder child"):
        assert names[name]
    assert "torch 2." in names["packages"]
    assert names["free disk"] == f"9.0 GB at {tmp_path}"
    assert troubles == []


def test_doctor_says_when_the_disk_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9e9, 8e9, 1e9))
    _, troubles = Doctor(folder=tmp_path).run()
    assert troubles == [f"only 1.0 GB are free at {tmp_path}; the demo wants 2 GB"]


def test_doctor_finds_torchvision_and_ends_with_status_1(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('never imported')\n")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "toto", "doctor"],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    trouble = [line for line in done.stdout.splitlines() if line.startswith("TROUBLE: torchvision")]
    assert len(trouble) == 1
    assert trouble[0].endswith("pip uninstall torchvision")
