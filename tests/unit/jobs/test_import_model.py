"""What import makes of an exported folder, and what it refuses, each in one line."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_exports import read
from safetensors.torch import load_file, save_file

from made_run_folders import CODES
from toto import load
from toto.jobs import import_model
from toto.jobs.export import Export
from toto.jobs.import_model import ImportModel
from toto.runtime import durable
from toto.tokenizers import VQVAEConfig, save_tokenizer

SMALL_VQVAE = VQVAEConfig(
    vocab_size=CODES, code_width=4, width=16, residual_width=8, encoder_blocks=1, decoder_blocks=1
)


def edit(file: Path, **changes: Any) -> None:
    """Change fields of a JSON file; `...` removes one, `a__b` is field b of a."""
    value = read(file)
    for name, new in changes.items():
        *way, last = name.split("__")
        place = value
        for step in way:
            place = place[step]
        if new is ...:
            del place[last]
        else:
            place[last] = new
    file.write_text(json.dumps(value))


def refused(folder: Path, match: str, **options: Any) -> None:
    """The import says why in one line, and leaves nothing behind."""
    out = folder.parent / "imported"
    with pytest.raises(ValueError, match=match) as error:
        ImportModel(folder=folder, **options).run(out)
    assert "\n" not in str(error.value)
    assert not out.exists()


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors, and let toto.json agree: its hashes guard nobody from its writer."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    edit(folder / "toto.json", weights={file.name: durable.sha256_file(file)})


def test_an_import_opens_as_a_run_does(exported: Path, tmp_path: Path) -> None:
    result = ImportModel(folder=exported).run(tmp_path / "again")
    assert result["step"] == 20
    assert result["sha256"] == read(exported / "toto.json")["weights"]
    toto = load(tmp_path / "again")
    frames = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    assert toto.features(frames, [1])[1].shape == (2, 4, 4, 16)
    assert toto.generate(frames, 1).shape == (1, 32, 32, 3)
    assert ImportModel(folder=exported).run(tmp_path / "again") == result


def test_what_is_exported_again_says_that_it_was_imported(exported: Path, tmp_path: Path) -> None:
    ImportModel(folder=exported).run(tmp_path / "again")
    Export(run_folder=tmp_path / "again").run(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "what follows came with it and was not measured again." in card
    assert "| validation_loss | 1.5 |\n" in card
    before, after = (read(folder / "toto.json") for folder in (exported, tmp_path / "out"))
    assert {k for k in before if before[k] != after[k]} == {"imported"}


def test_numbers_of_other_weights_are_dropped(exported: Path, tmp_path: Path) -> None:
    tensors = load_file(exported / "model.safetensors")
    tensors["lm_head.weight"] *= 2
    save_file(tensors, exported / "model.safetensors", {"format": "pt"})
    refused(exported, "model.safetensors is not what toto.json says was exported; .*--weights-chan")
    result = ImportModel(folder=exported, weights_changed=True).run(tmp_path / "again")
    assert (result["step"], result["record"]["training"]) == (0, None)
    Export(run_folder=tmp_path / "again").run(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not known: the weights were changed outside toto." in card
    assert "1.5" not in card.partition("## Training")[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "config.json: model_type 'mistral' is not 'llama'"),
        ({"model_type": ...}, "model_type is missing; it must be 'llama'"),
        ({"attention_bias": True}, "attention_bias True is not False, as toto's decoder has it"),
        ({"attention_bias": 0}, "attention_bias 0 is not False"),
        ({"mlp_bias": True}, "mlp_bias True is not False"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not 'silu'"),
        ({"num_key_value_heads": 1}, "num_key_value_heads 1 is not 2, as toto's decoder has it"),
        ({"head_dim": 4}, "head_dim 4 is not 8"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling .* is not a field that toto knows"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            "rope_parameters .*yarn.* is not .*default",
        ),
        ({"rope_theta": 5e5}, "rope_theta 500000.0 is not 10000.0"),
        ({"quantization_config": {"bits": 4}}, "quantization_config .* is not a field that toto"),
        ({"auto_map": {"AutoModel": "m.M"}}, "auto_map .* is not a field that toto knows"),
        ({"hidden_size": 32}, "hidden_size 32 is not 16"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000 is not 2"),
        ({"rms_norm_eps": ...}, "rms_norm_eps is missing; it must be 1e-05"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings True is not False"),
    ],
)
def test_another_config_is_refused_by_name(
    exported: Path, changes: dict[str, Any], message: str
) -> None:
    edit(exported / "config.json", **changes)
    refused(exported, message)


def test_what_transformers_adds_to_a_config_passes(exported: Path, tmp_path: Path) -> None:
    added = {"transformers_version": "5.23.0", "pretraining_tp": 1, "rope_theta": ...}
    edit(exported / "config.json", torch_dtype="float32", rope_scaling=None, **added)
    assert ImportModel(folder=exported).run(tmp_path / "again")["step"] == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "toto.json: schema 2 is not 1, which this toto reads"),
        ({"schema": ...}, "toto.json: schema: missing from a saved Record"),
        ({"extra": 1}, "toto.json: extra: Record has no such field"),
        ({"step": -1}, "step -1 must lie in 0.."),
        ({"grid": [0, 4]}, "grid 0 x 4 and vocabulary 19"),
        ({"grid": [4]}, "grid: expected 2 values"),
        ({"grid": [400, 400]}, "4 frames of 400 x 400 codes do not fit a context of 66"),
        ({"layout__frames": 10**12}, "frames of 4 x 4 codes do not fit a context of 66"),
        ({"layout__specials": "nowhere"}, "layout.specials: 'nowhere' is not one of"),
        ({"license": "mit\n# evil"}, "license .* is not a plain name"),
        ({"model__depth": 10**9}, "num_hidden_layers 2 is not 1000000000"),
        ({"model__depth": "2"}, "depth: expected int, got '2'"),
        ({"model__width": 15}, "width 15 does not divide into 2 heads"),
        ({"model__context": 2**40}, f"context {2**40} is more than {2**24}"),
        ({"model__init_std": -1.0}, "init_std -1.0 is not a positive number"),
        ({"model__patch_values": 192}, "the model reads patches of 192 values"),
        ({"model__mup": {"base_width": 8}}, "mup"),
        ({"model": {}}, "toto.json: .*missing"),
        ({"model": []}, "model: expected an object"),
        ({"tokenizer__name": "../x"}, "tokenizer '../x' is not a plain name"),
        ({"tokenizer__sha256": "0"}, "tokenizer: '0' is not a sha256"),
        ({"tokenizer__sha256": "0" * 64}, "tokenizer is not the tokenizer that toto.json names"),
        ({"tokenizer__files": {"../../x": "0" * 64}}, "tokenizer file '../../x' is not one that"),
        (
            {"tokenizer__files": {"tokenizer.json": "0" * 64}},
            "tokenizer.json is not what toto.json",
        ),
        (
            {"tokenizer__files": {}},
            "tokenizer has tokenizer.json, by toto.json none; copy it again",
        ),
        ({"weights": {"/etc/passwd": "0" * 64}}, "weights '/etc/passwd' is not the name of a file"),
        ({"weights": {}}, "model.safetensors is not what toto.json says was exported"),
    ],
)
def test_another_record_is_refused(exported: Path, changes: dict[str, Any], message: str) -> None:
    edit(exported / "toto.json", **changes)
    refused(exported, message)


@pytest.mark.parametrize("name", ["toto.json", "config.json"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ("[" * 100_000, "is not JSON"),
        ('{"schema": NaN}', "NaN is not a number"),
        ('{"schema": ' + "1" * 5000 + "}", "is not JSON"),
        ('{"a": "\xff"}', "is not JSON"),
    ],
)
def test_what_is_no_json_is_refused(exported: Path, name: str, text: str, message: str) -> None:
    (exported / name).write_bytes(text.encode("latin-1"))
    refused(exported, f"{name}.*{message}")


def test_a_huge_json_is_not_read(exported: Path) -> None:
    with (exported / "toto.json").open("ab") as file:
        file.truncate(import_model.LARGEST_JSON + 1)
    refused(exported, f"toto.json has more than {import_model.LARGEST_JSON} bytes")


def test_a_llama_from_elsewhere_is_refused(exported: Path) -> None:
    (exported / "toto.json").unlink()
    refused(exported, "has no toto.json, which says how frames become the model's tokens; only a")


def test_a_pickle_is_not_opened(exported: Path) -> None:
    (exported / "model.safetensors").rename(exported / "pytorch_model.bin")
    refused(exported, "has only pytorch_model.bin, which is a pickle and is not opened; .*save_pre")
    (exported / "pytorch_model.bin").unlink()
    refused(exported, "has no model.safetensors; copy the whole folder")


@pytest.mark.parametrize(
    "name", ["toto.json", "config.json", "model.safetensors", "tokenizer/tokenizer.json"]
)
def test_links_and_pipes_are_not_followed(exported: Path, tmp_path: Path, name: str) -> None:
    (exported / name).rename(tmp_path / "elsewhere")
    (exported / name).symlink_to(tmp_path / "elsewhere")
    refused(exported, f"{name} is a link; copy what it leads to")
    (exported / name).unlink()
    os.mkfifo(exported / name)
    refused(exported, f"{name} is not a file")


def test_a_linked_tokenizer_folder_is_not_followed(exported: Path, tmp_path: Path) -> None:
    (exported / "tokenizer").rename(tmp_path / "elsewhere")
    (exported / "tokenizer").symlink_to(tmp_path / "elsewhere")
    refused(exported, "tokenizer is a link; copy what it leads to")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("lm_head.weight"), "has 20 tensors, by config.json 21"),
        (lambda t: t.update(extra=torch.zeros(1)), "has 22 tensors, by config.json 21"),
        (
            lambda t: t.update({"model.layers.7.x": t.pop("model.norm.weight")}),
            "has no tensor model.norm.weight; it is another model",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(17)}),
            r"model.norm.weight is \[17\], by config.json \[16\]",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(16).int()}),
            "model.norm.weight is I32; read are F32, BF16, F16",
        ),
        (
            lambda t: t["model.norm.weight"].fill_(torch.nan),
            "model.norm.weight holds numbers that are not finite",
        ),
    ],
)
def test_other_tensors_are_refused(
    exported: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    rewrite_weights(exported, change)
    refused(exported, message)


@pytest.mark.parametrize("claimed", [10**12, 2**63])
def test_a_header_that_lies_of_sizes_is_refused(exported: Path, claimed: int) -> None:
    header = {"x": {"dtype": "F32", "shape": [claimed], "data_offsets": [0, 4 * claimed]}}
    text = json.dumps(header).encode()
    file = exported / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    edit(exported / "toto.json", weights={file.name: durable.sha256_file(file)})
    refused(exported, "model.safetensors is not a whole file of safetensors")


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_file_that_was_cut_is_refused(exported: Path, cut: int) -> None:
    file = exported / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    refused(exported, "model.safetensors is not what toto.json says was exported")
    edit(exported / "toto.json", weights={file.name: durable.sha256_file(file)})
    refused(exported, "model.safetensors is not a whole file of safetensors")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "weight_map is missing"),
        ({"weight_map": {"x": "../../etc/passwd"}}, "'../../etc/passwd', which is no file of weig"),
        ({"weight_map": {"x": "model-00001-of-00002.safetensors"}}, "00002.safetensors is missing"),
    ],
)
def test_an_index_may_name_files_of_the_folder_only(
    exported: Path, index: dict[str, Any], message: str
) -> None:
    (exported / "model.safetensors").unlink()
    (exported / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(exported, message)


def test_a_tensor_in_two_files_is_refused(run: Path, tmp_path: Path) -> None:
    Export(run_folder=run, shard_bytes=8_000).run(tmp_path / "out")
    first, second = sorted((tmp_path / "out").glob("model-*"))[:2]
    shutil.copy(first, second)
    sha256 = durable.sha256_file(first)
    record = read(tmp_path / "out" / "toto.json")
    edit(tmp_path / "out" / "toto.json", weights=record["weights"] | {second.name: sha256})
    refused(tmp_path / "out", f"{second.name}: .* is in {first.name} too")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder_blocks": 10**9}, "encoder_blocks 1000000000 is more than 64"),
        ({"width": 2**40}, f"width {2**40} is more than {2**20}"),
        ({"halvings": 1000}, "halvings 1000 is more than 64"),
        ({"vocab_size": 2**19}, "codebook.* is .*16, 4.*, by tokenizer.json .*524288"),
        ({"halvings": 60}, "tokenizer.json: no such tokenizer can be built"),
        ({"width": "wide"}, "width: expected int"),
    ],
)
def test_a_tokenizer_larger_than_its_file_is_not_built(
    run: Path, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    shutil.rmtree(run / "tokenizer")
    save_tokenizer(SMALL_VQVAE.build(), run / "tokenizer")
    Export(run_folder=run).run(tmp_path / "out")
    file = tmp_path / "out" / "tokenizer" / "tokenizer.json"
    edit(file, **{f"config__{name}": value for name, value in config.items()})
    hashes = read(tmp_path / "out" / "toto.json")["tokenizer"]["files"]
    hashes[file.name] = durable.sha256_file(file)
    edit(tmp_path / "out" / "toto.json", tokenizer__files=hashes)
    refused(tmp_path / "out", message)


def test_a_tokenizer_of_other_codes_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "tokenizer")
    save_tokenizer(replace(SMALL_VQVAE, vocab_size=17).build(), run / "tokenizer")
    Export(run_folder=run).run(tmp_path / "out")
    refused(tmp_path / "out", "has 17 codes, the model 19 ids less 3 special ones")


def test_hostile_words_stay_words_in_the_card(exported: Path, tmp_path: Path) -> None:
    training = read(exported / "toto.json")["training"]
    training["recipe"]["mixture"] = [{"name": "x |\n# <script>[a](b)", "weight": "1"}]
    training["numbers"] = {"a\n```\n": "<img src=x>", "deep": [[["`"]]]}
    edit(exported / "toto.json", training=training)
    ImportModel(folder=exported).run(tmp_path / "again")
    Export(run_folder=tmp_path / "again").run(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    prose = card.partition("```json")[0] + card.rpartition("```")[2]
    assert "<" not in prose
    assert "](b)" not in prose
    assert "\n# <script>" not in card
    assert "\n# x" not in card


def test_a_foreign_tokenizer_of_another_name_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "tokenizer")
    (run / "tokenizer").mkdir()
    file = run / "tokenizer" / "foreign.json"
    file.write_text(json.dumps({"name": "commavq", "origin": "somewhere", "digest": "5" * 64}))
    Export(run_folder=run).run(tmp_path / "out")
    edit(tmp_path / "out" / "toto.json", tokenizer__name="other")
    refused(tmp_path / "out", "foreign.json: it is of another tokenizer than toto.json names")
