"""What an exported folder says, and what export refuses, each in one line."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_exports import MODEL, read
from safetensors.torch import load_file

from made_run_folders import CODES, add_checkpoint, save_run, strange
from toto.jobs.export import Export
from toto.jobs.import_model import ImportModel
from toto.models.mup import MuP
from toto.probe.backbone import open_backbone
from toto.runtime import durable
from toto.runtime.durable import DiskFullError
from toto.tokenizers import VQVAEConfig, save_tokenizer


def test_the_folder_holds_what_a_stranger_needs(exported: Path) -> None:
    names = sorted(path.relative_to(exported).as_posix() for path in exported.rglob("*"))
    assert names == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer",
        "tokenizer/tokenizer.json",
        "toto.json",
    ]
    config, generation = (read(exported / f"{n}.json") for n in ("config", "generation_config"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (
        16,
        17,
        None,
    )
    assert generation["suppress_tokens"] == [16, 17, 18]
    assert generation["max_new_tokens"] == 16
    record = read(exported / "toto.json")
    assert record["tokenizer"]["sha256"] == read(exported / "tokenizer/tokenizer.json")["digest"]
    file = exported / "model.safetensors"
    assert record["weights"] == {file.name: durable.sha256_file(file)}
    assert record["grid"] == [4, 4]


def test_the_card_says_what_was_measured_and_what_was_not(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlicense: unknown\n")
    digest = read(exported / "tokenizer" / "tokenizer.json")["digest"]
    for line in (
        "Nobody has stated a licence for these weights; ask who gave them to you.",
        "| 0 to 15 | codes of the tokenizer |",
        "| 16 | start of a video |",
        "| 17 | end of a sequence |",
        "| 18 | start of a sequence of still images |",
        f"- Tokenizer: `grey`, sha256 `{digest}`.",
        "| clips/pretrain | 10.0 % |",
        "| moving-digits/pretrain | 90.0 % |",
        f"| tokens_seen | {20 * 4 * 66:,} |",
        "| loss | 1.25 |",
        "| validation_loss | 1.5 |",
        "## What was not measured",
    ):
        assert f"{line}\n" in card, line
    assert "No loss on held-out videos" not in card
    assert "imported" not in card


def test_no_place_on_the_machine_is_told(run: Path, exported: Path) -> None:
    assert "/home/somebody" in (run / "config.json").read_text()
    for file in exported.rglob("*.*"):
        assert b"somebody" not in file.read_bytes(), file
        assert os.fsencode(run.parent) not in file.read_bytes(), file


def test_a_licence_is_stated_by_who_exports(run: Path, tmp_path: Path) -> None:
    Export(run_folder=run, license="cc-by-nc-4.0").run(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-4.0\n")
    assert "Who exported these weights states: cc-by-nc-4.0.\n" in card
    assert "Nobody has stated" not in card


def test_an_earlier_step_has_the_numbers_it_had_then(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    job = save_run(tmp_path / "other", strange(MODEL))
    early, late = strange(MODEL), strange(MODEL)
    add_checkpoint(run, job, early, 10)
    add_checkpoint(run, job, late, 20)
    for step, model in ((10, early), (None, late)):
        out = tmp_path / f"out-{step}"
        Export(run_folder=run, step=step).run(out)
        weights = load_file(out / "model.safetensors")
        assert torch.equal(weights["lm_head.weight"], model.head.weight)
    card = (tmp_path / "out-10" / "README.md").read_text()
    assert "| loss | 2.5 |\n" in card
    assert "| validation_loss | not measured |\n" in card
    assert "- No loss on held-out videos is known for these weights.\n" in card


def test_a_damaged_checkpoint_is_not_exported(run: Path, tmp_path: Path) -> None:
    job = save_run(tmp_path / "other", strange(MODEL))
    newer = strange(MODEL)
    add_checkpoint(run, job, newer, 30)
    file = next((run / "checkpoints" / "step-0000030").glob("model*"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"model.* is not what was written"):
        Export(run_folder=run, step=30).run(tmp_path / "out")
    assert Export(run_folder=run).run(tmp_path / "out")["step"] == 20
    assert (run / "checkpoints" / "step-0000030.damaged").is_dir()


def test_export_is_whole_or_not_at_all(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "commit_folder", _full)
    with pytest.raises(DiskFullError):
        Export(run_folder=run).run(tmp_path / "exports" / "out")
    assert list((tmp_path / "exports").iterdir()) == []


def test_what_a_killed_export_left_is_swept(run: Path, tmp_path: Path) -> None:
    left = tmp_path / "exports" / ".out.tmp-0123"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    Export(run_folder=run).run(tmp_path / "exports" / "out")
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["out"]


def _full(*_: Any, **__: Any) -> None:
    raise DiskFullError(28, "the disk is full")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 7}, r"no checkpoint of step 7 \(it has: 20\)"),
        ({"step": -1}, "step -1 must be 0 or more"),
        ({"shard_bytes": 0}, "shard_bytes 0 must be at least 1"),
        ({"license": "mit\nevil: yes"}, "license .* is not a plain name; use one such as"),
    ],
)
def test_export_refuses(run: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Export(run_folder=run, **options).run(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_export_refuses_a_folder_that_exists(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run exists already; remove it or choose another --out"):
        Export(run_folder=run).run(run)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ValueError, match="link exists already"):
        Export(run_folder=run).run(tmp_path / "link")


def test_export_refuses_a_model_that_reads_patches(tmp_path: Path) -> None:
    save_run(tmp_path / "run", replace(MODEL, patch_values=192).build())
    with pytest.raises(ValueError, match="reads patches of 192 values; transformers has no such"):
        Export(run_folder=tmp_path / "run").run(tmp_path / "out")


def test_export_refuses_what_is_no_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run folder"):
        Export(run_folder=tmp_path / "nowhere").run(tmp_path / "out")
    (run / "results" / "model.json").unlink()
    with pytest.raises(ValueError, match="run is not a pre-training run"):
        Export(run_folder=run).run(tmp_path / "out")


def test_export_refuses_a_checkpoint_of_another_run(run: Path, tmp_path: Path) -> None:
    save_run(tmp_path / "other", strange(MODEL), step=21)
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", run / "checkpoints")
    with pytest.raises(ValueError, match="belongs to config"):
        Export(run_folder=run).run(tmp_path / "out")


def test_muP_is_folded_and_said(tmp_path: Path) -> None:
    model = strange(replace(MODEL, mup=MuP(base_width=4)))
    save_run(tmp_path / "run", model)
    Export(run_folder=tmp_path / "run").run(tmp_path / "out")
    record = read(tmp_path / "out" / "toto.json")
    assert record["folded"]
    assert record["model"]["mup"]["base_width"] == 0
    assert "muP; its attention scale is folded" in (tmp_path / "out" / "README.md").read_text()
    weights = load_file(tmp_path / "out" / "model.safetensors")
    query = weights["model.layers.0.self_attn.q_proj.weight"]
    # sqrt(base head width / head width) = sqrt(2 / 8) = 1/2, which no rounding touches.
    assert torch.equal(query, model.blocks[0].attention.qkv.weight[:16] / 2)


def test_a_tokenizer_with_weights_travels(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "tokenizer")
    tokenizer = VQVAEConfig(
        vocab_size=CODES,
        code_width=4,
        width=16,
        residual_width=8,
        encoder_blocks=1,
        decoder_blocks=1,
    ).build()
    save_tokenizer(tokenizer, run / "tokenizer")
    (run / "tokenizer" / "notes.txt").write_text("private")
    Export(run_folder=run).run(tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer" / "notes.txt").exists()
    ImportModel(folder=tmp_path / "out").run(tmp_path / "again")
    assert open_backbone(tmp_path / "again").tokenizer.digest() == tokenizer.digest()


def test_a_foreign_tokenizer_stays_named(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "tokenizer")
    (run / "tokenizer").mkdir()
    said = {"name": "commavq", "origin": "somewhere", "digest": "5" * 64}
    (run / "tokenizer" / "foreign.json").write_text(json.dumps(said))
    Export(run_folder=run).run(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"- Tokenizer: `commavq`, sha256 `{'5' * 64}`.\n  It is not part of toto" in card
    ImportModel(folder=tmp_path / "out").run(tmp_path / "again")
    with pytest.raises(ValueError, match="its tokens were imported"):
        open_backbone(tmp_path / "again")
