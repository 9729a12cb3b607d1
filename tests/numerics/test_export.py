"""Exported models in stock transformers, loaded from the folder as a stranger would."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from made_grey import of_grey
from made_run_folders import CODES, GRID, save_run, strange
from toto.data.records import ClipRecord
from toto.data.shards import write_shard
from toto.data.token_set import write_index
from toto.jobs.export import Export
from toto.jobs.import_model import ImportModel
from toto.models import DecoderConfig, Gpt2Config, LlamaConfig, MambaConfig
from toto.models.mup import MuP
from toto.models.sampling import SamplingConfig
from toto.probe.backbone import Backbone, open_backbone
from toto.recipes import PRETRAIN
from toto.tokenizers import load_tokenizer, save_tokenizer
from toto.types import TokenGrid

transformers = pytest.importorskip("transformers", reason="needs the extra `hub`")

# fp32, the same products in another order: the sums differ in their last bits only.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
GREEDY = SamplingConfig(temperature=0.0)
FRAME = GRID[0] * GRID[1]
LLAMA = LlamaConfig(
    vocab_size=CODES + 3,
    width=48,
    depth=3,
    heads=4,
    mlp_width=80,
    context=258,
    rope_base=5_000.0,
    norm_eps=1e-4,
    init_std=0.2,
)
GPT2 = Gpt2Config(
    vocab_size=CODES + 3,
    width=48,
    depth=3,
    heads=4,
    context=258,
    norm_eps=1e-4,
    init_std=0.3,
    position_scale=1.5,
)
MAMBA = MambaConfig(
    vocab_size=CODES + 3, width=40, depth=3, context=258, state_size=7, kernel=5, init_std=0.1
)
MODELS: dict[str, DecoderConfig] = {
    "llama untied": LLAMA,
    "llama tied": replace(LLAMA, tied=True),
    "llama muP x2": replace(LLAMA, mup=MuP(base_width=24)),
    "llama muP x4": replace(LLAMA, mup=MuP(base_width=12)),
    "gpt2 tied": GPT2,
    "gpt2 untied": replace(GPT2, tied=False),
    "mamba tied": MAMBA,
    "mamba untied": replace(MAMBA, tied=False),
}


@pytest.fixture(params=MODELS, scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each model; what is exported of it lies beside it in `out`."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    save_run(folder / "run", strange(MODELS[request.param]))
    Export(run_folder=folder / "run").run(folder / "out")
    return folder / "run"


@pytest.fixture
def exported(run: Path) -> Path:
    """What was exported of the run."""
    return run.parent / "out"


def stock(folder: Path) -> Any:
    transformers.utils.logging.disable_progress_bar()
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


def continued(backbone: Backbone, prompt: torch.Tensor, frames: int) -> torch.Tensor:
    new = backbone.forecast(prompt, frames=frames, sampling=GREEDY)
    return torch.stack(list(new)).flatten()


def continued_by_stock(model: Any, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    new = model.generate(
        ids[None], attention_mask=torch.ones_like(ids[None]), do_sample=False, **options
    )
    return new[0, len(ids) :]


@torch.no_grad()
def test_logits_are_those_of_stock_transformers(run: Path, exported: Path) -> None:
    ours, theirs = open_backbone(run).model, stock(exported)
    assert theirs.dtype == torch.float32
    ids = torch.randint(CODES + 3, (2, 200))
    logits = ours(ids)
    assert logits.std() > 0.3  # else any two models would agree
    torch.testing.assert_close(theirs(ids).logits, logits, **CLOSE)


def test_greedy_continuations_are_those_of_stock_transformers(run: Path, exported: Path) -> None:
    backbone = open_backbone(run)
    prompt = torch.randint(CODES, (1, *GRID))
    ours = continued(backbone, prompt, frames=15)
    assert len(ours) == 240
    assert len(ours.unique()) > 2
    ids = backbone.layout.prompt(prompt)
    theirs = continued_by_stock(stock(exported), ids, max_new_tokens=240)
    assert ours.tolist() == theirs.tolist()


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Recipe tiny after 60 steps over ramps that drift, one code a frame and place."""
    grey, folder = load_tokenizer("grey"), tmp_path / "shards"
    description = of_grey(vocab_size=CODES, grid=GRID)
    t, y, x = torch.meshgrid(*(torch.arange(n) for n in (6, *GRID)), indexing="ij")
    clips = [
        (
            TokenGrid(ids=((t + 4 * y + x + phase) % CODES).int(), vocab_size=CODES),
            ClipRecord(
                source=f"ramp#{phase}",
                source_sha256=None,
                frame_indices=tuple(range(6)),
                times_s=tuple(range(6)),
                side_px=32,
                crop=(0.5, 0.5),
            ),
        )
        for phase in range(CODES)
    ]
    for name in ("clips/pretrain", "moving-digits/pretrain", "moving-digits/selection"):
        write_shard(folder / name / "00000", description, clips)
        write_index(folder / name)
    save_tokenizer(grey, folder / "tokenizer")
    job = replace(PRETRAIN["tiny"](), shards=str(folder), steps=60, precision="fp32")
    result = job.run(tmp_path / "run")
    assert result["validation_loss"] < 1.5  # of log 16 = 2.8: it has learnt something
    return tmp_path / "run"


@torch.no_grad()
def test_a_trained_model_continues_alike_and_has_its_numbers_in_the_card(
    trained: Path, tmp_path: Path
) -> None:
    Export(run_folder=trained).run(tmp_path / "out")
    backbone, theirs = open_backbone(trained), stock(tmp_path / "out")
    for phase in range(3):
        prompt = (torch.arange(FRAME).view(1, *GRID) + phase) % CODES
        ours = continued(backbone, prompt, frames=15)
        ids = backbone.layout.prompt(prompt)
        assert ours.tolist() == continued_by_stock(theirs, ids, max_new_tokens=240).tolist()
        assert len(ours.unique()) > 8
        torch.testing.assert_close(theirs(ids[None]).logits, backbone.model(ids[None]), **CLOSE)
    card = (tmp_path / "out" / "README.md").read_text()
    result = json.loads((trained / "results" / "pretrain.json").read_text())
    assert f"| validation_loss | {result['validation_loss']:.4g} |" in card
    assert f"| tokens_seen | {60 * 4 * 66:,} |" in card
    for name, sha256 in json.loads((trained / "results" / "data.json").read_text())[
        "sources"
    ].items():
        assert f"| index_sha256 of {name} | {sha256} |" in card


def test_stock_transformers_draws_no_special_id_either(tmp_path: Path) -> None:
    """A head that likes special ids best: without `suppress_tokens` the two would differ."""
    model = strange(LLAMA)
    model.head.weight[CODES:] *= 10
    save_run(tmp_path / "run", model)
    Export(run_folder=tmp_path / "run").run(tmp_path / "out")
    backbone, theirs = open_backbone(tmp_path / "run"), stock(tmp_path / "out")
    prompt = torch.randint(CODES, (1, *GRID))
    ids = backbone.layout.prompt(prompt)
    ours = continued(backbone, prompt, frames=15)
    assert ours.tolist() == continued_by_stock(theirs, ids, max_new_tokens=240).tolist()
    assert len(ours.unique()) > 2
    theirs.generation_config.suppress_tokens = None
    free = continued_by_stock(theirs, ids, max_new_tokens=240)
    assert (free >= CODES).any()
    one_frame = continued_by_stock(stock(tmp_path / "out"), ids)
    assert one_frame.tolist() == ours[:FRAME].tolist()


def test_export_import_export_keeps_every_byte(exported: Path, tmp_path: Path) -> None:
    ImportModel(folder=exported).run(tmp_path / "again")
    Export(run_folder=tmp_path / "again").run(tmp_path / "second")
    for file in ("model.safetensors", "config.json", "generation_config.json"):
        assert (exported / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_what_is_imported_computes_the_same(run: Path, exported: Path, tmp_path: Path) -> None:
    ImportModel(folder=exported).run(tmp_path / "again")
    before, after = open_backbone(run), open_backbone(tmp_path / "again")
    clip = torch.randint(CODES, (2, 3, *GRID))
    depth = before.depth
    one, other = (b.token_features(clip, [0, depth])[depth] for b in (before, after))
    # Bit for bit; but for muP, whose factor of the queries has moved.
    mup = isinstance(before.model.config, LlamaConfig) and before.model.config.mup.base_width
    torch.testing.assert_close(other, one, **(CLOSE if mup else {"rtol": 0, "atol": 0}))
    prompt = torch.randint(CODES, (1, *GRID))
    assert torch.equal(continued(before, prompt, 3), continued(after, prompt, 3))


def test_bf16_is_rounded_once_and_stable(tmp_path: Path) -> None:
    model = strange(LLAMA)
    save_run(tmp_path / "run", model)
    first = Export(run_folder=tmp_path / "run", dtype="bf16").run(tmp_path / "first")
    theirs = stock(tmp_path / "first")
    assert theirs.dtype == torch.bfloat16
    assert torch.equal(theirs.lm_head.weight, model.head.weight.bfloat16())
    ImportModel(folder=tmp_path / "first").run(tmp_path / "again")
    second = Export(run_folder=tmp_path / "again", dtype="bf16").run(tmp_path / "second")
    assert second["sha256"] == first["sha256"]


@torch.no_grad()
def test_shards_are_found_by_stock_transformers(tmp_path: Path) -> None:
    model = strange(LLAMA)
    save_run(tmp_path / "run", model)
    result = Export(run_folder=tmp_path / "run", shard_bytes=100_000).run(tmp_path / "out")
    names = sorted(result["sha256"])
    count = len(names)
    assert count > 2
    assert names[0] == f"model-00001-of-{count:05d}.safetensors"
    assert all((tmp_path / "out" / name).stat().st_size < 110_000 for name in names)
    ids = torch.randint(CODES + 3, (1, 50))
    torch.testing.assert_close(stock(tmp_path / "out")(ids).logits, model(ids), **CLOSE)
    ImportModel(folder=tmp_path / "out").run(tmp_path / "again")
    assert torch.equal(open_backbone(tmp_path / "again").model(ids), model(ids))


@torch.no_grad()
def test_a_model_trained_on_in_transformers_comes_back(tmp_path: Path) -> None:
    save_run(tmp_path / "run", strange(LLAMA))
    Export(run_folder=tmp_path / "run").run(tmp_path / "out")
    theirs = stock(tmp_path / "out")
    theirs.model.embed_tokens.weight.mul_(1.5)
    theirs.save_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match=r"not what toto\.json says was exported.*weights-changed"):
        ImportModel(folder=tmp_path / "out").run(tmp_path / "again")
    ImportModel(folder=tmp_path / "out", weights_changed=True).run(tmp_path / "again")
    ids = torch.randint(CODES + 3, (1, 50))
    ours = open_backbone(tmp_path / "again").model
    torch.testing.assert_close(ours(ids), theirs(ids).logits, **CLOSE)


def test_the_code_in_the_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_run(tmp_path / "run", strange(LLAMA))
    Export(run_folder=tmp_path / "run").run(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path / "out")
    transformers.utils.logging.disable_progress_bar()
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["frame"].shape == (1, *GRID)
    assert int(found["frame"].max()) < CODES


def test_config_json_is_understood_by_older_versions_too(tmp_path: Path) -> None:
    """transformers 4 and others read `rope_theta`; its default would be taken in silence."""
    save_run(tmp_path / "run", strange(LLAMA))
    Export(run_folder=tmp_path / "run").run(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 5_000.0
    assert os.listdir(tmp_path / "out").count("README.md") == 1
