"""How a model's input and output decide what is read of shards, and what does not fit them."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from toto.data.layout import LayoutConfig
from toto.data.records import ClipRecord, Description
from toto.data.shards import write_shard
from toto.data.token_set import write_index
from toto.jobs.pretrain import Pretrain, Source
from toto.jobs.sequences import fit_layout, grid_of, objective_of, open_tokens
from toto.jobs.show import describe
from toto.models import LlamaConfig
from toto.recipes import PRETRAIN
from toto.tokenizers.patches import PatchNormalisation
from toto.types import TokenGrid

# Frames of 64 x 96 px: 8 x 12 codes of 8 px.
SHARDS = Description(
    tokenizer="grey",
    tokenizer_digest="0" * 64,
    vocab_size=16,
    patch_px=8,
    grid=(8, 12),
    kind="video",
    precision="fp32",
    resize_filter="lanczos",
    decoder="none",
)
IDS = LlamaConfig(vocab_size=19, width=16, depth=1, heads=2, mlp_width=16, context=4000)
TO_TOKENS = replace(IDS, patch_values=192)
TO_PATCHES = replace(IDS, patch_values=192, vocab_size=4, predicts="patches")
LAYOUT = LayoutConfig(frames=2)


@pytest.mark.parametrize(
    ("model", "grid", "codes"),
    [
        (IDS, (8, 12), 16),
        (TO_TOKENS, (8, 12), 16),
        (TO_PATCHES, (8, 12), 1),
        (replace(TO_PATCHES, patch_values=3 * 16**2), (4, 6), 1),
        (replace(TO_PATCHES, patch_values=3 * 32**2), (2, 3), 1),
    ],
)
def test_the_grid_is_that_of_codes_or_of_patches(
    model: LlamaConfig, grid: tuple[int, int], codes: int
) -> None:
    assert grid_of(model, SHARDS) == grid
    layout = fit_layout(LAYOUT, model, SHARDS)
    assert layout.codes == codes
    assert layout.vocab_size == model.vocab_size
    assert layout.length == 2 * grid[0] * grid[1] + 2


@pytest.mark.parametrize(
    ("model", "unit", "reads"),
    [
        (IDS, "nats a token", "codes"),
        (TO_TOKENS, "nats a token", "both"),
        (TO_PATCHES, "squared error a value", "frames"),
    ],
)
def test_the_objective_follows_from_the_model(model: LlamaConfig, unit: str, reads: str) -> None:
    objective = objective_of(model, PatchNormalisation())
    assert (objective.unit, objective.reads) == (unit, reads)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            replace(TO_TOKENS, patch_values=3 * 16**2),
            "patches of 16 px, these shards' codes stand for 8 px; --model.patch-values 192",
        ),
        (
            replace(TO_PATCHES, patch_values=3 * 24**2),
            "patches of 24 px do not cover frames of 96x64 px; --model.patch-values 192 makes",
        ),
        (replace(IDS, vocab_size=20), r"reads 20 ids, these shards need 19 \(16 codes and 3 spec"),
        (replace(TO_TOKENS, vocab_size=9), r"reads 9 ids, these shards need 19 \(16 codes and 3"),
        (
            replace(TO_PATCHES, context=193),
            "a sequence has 194 tokens, the model's context 193; --model.context 194, or fewer",
        ),
    ],
)
def test_refuses_a_model_that_does_not_fit_the_shards(model: LlamaConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_layout(LAYOUT, model, SHARDS)


def test_refuses_patches_that_are_not_square_before_anything_is_opened() -> None:
    with pytest.raises(ValueError, match="a patch of 100 values is no square of 3 a pixel"):
        Pretrain(
            shards=Path("shards"),
            model=replace(TO_TOKENS, patch_values=100),
            mixture=(Source(name="a", weight=1.0),),
        )


def test_opens_a_token_set_by_its_name(tmp_path: Path) -> None:
    record = ClipRecord(
        source="clip",
        source_sha256=None,
        frame_indices=(0,),
        times_s=(0.0,),
        side_px=128,
        crop=(0.5, 0.5),
    )
    grid = TokenGrid(ids=torch.ones(1, *SHARDS.grid, dtype=torch.int32), vocab_size=16)
    write_shard(tmp_path / "k/train/00000", SHARDS, [(grid, record)])
    write_index(tmp_path / "k/train")
    assert open_tokens(tmp_path, "k/train", frames=False).clips[0] == record
    sha256 = hashlib.sha256((tmp_path / "k/train/index.json").read_bytes()).hexdigest()
    assert open_tokens(f"{tmp_path}/", f"k/train#sha256={sha256}", frames=False).shards == 1
    with pytest.raises(ValueError, match="is not the pinned one"):
        open_tokens(tmp_path, f"k/train#sha256={'0' * 64}", frames=False)
    with pytest.raises(ValueError, match="keeps no frames"):
        open_tokens(tmp_path, "k/train", frames=True)
    with pytest.raises(
        ValueError, match=r"has no token set 'k/val' \(it has: k/train\); `toto tok"
    ):
        open_tokens(tmp_path, "k/val", frames=False)


def test_names_the_token_sets_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no token set 'a/b' \(it has: none\); `toto tokeniz"):
        open_tokens(tmp_path, "a/b", frames=False)


@pytest.mark.parametrize("name", ["patch-patch", "patch-dvae"])
def test_the_recipes_are_the_ablation_of_table_3(name: str) -> None:
    """`large` but for both ends; 400 epochs of ImageNet-1k, 16 images a sequence (O8)."""
    job, large = PRETRAIN[name](), PRETRAIN["large"]()
    ends: dict[str, Any] = {
        field: getattr(large.model, field) for field in ("vocab_size", "patch_values", "predicts")
    }
    assert replace(job.model, **ends) == large.model
    images = job.steps * job.batch * job.layout.frames
    assert images / 1_281_167 == pytest.approx(400, abs=0.01)
    side_px = {"patch-patch": 256, "patch-dvae": 128}[name] // 8
    layout = fit_layout(
        job.layout, job.model, replace(SHARDS, vocab_size=8192, grid=(side_px, side_px))
    )
    assert layout.frame_tokens == 16 * 16
    assert job.patches.target == "patch"


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "patch-patch",
            {
                "parameters": "270,045,184 (270.0 M)",
                "input": "patches of 16 x 16 px, 768 values",
                "output": "the next patch, 768 values",
            },
        ),
        (
            "patch-dvae",
            {
                "parameters": "277,060,608 (277.1 M)",
                "input": "patches of 8 x 8 px, 192 values",
                "vocabulary": "8,195 ids, untied head",
            },
        ),
    ],
)
def test_show_says_what_goes_in_and_what_comes_out(name: str, facts: dict[str, str]) -> None:
    shown = dict(describe(PRETRAIN[name]()))
    assert {key: shown[key] for key in facts} == facts
    assert ("output" in shown) != ("vocabulary" in shown)
    job = PRETRAIN[name]().model
    weights = 16 * (4 * 1024**2 + 3 * 1024 * 4096) + (job.patch_values + job.outputs) * 1024
    flops = 6 * weights + 6 * 16 * 1024 * 4098
    assert shown["FLOPs a token"].startswith(f"{flops / 1e9:.3f} G for training")
