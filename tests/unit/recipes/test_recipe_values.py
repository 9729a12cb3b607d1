"""Every number of the paper's recipes, with the row of docs/paper.md that it is from.

A field that is added to the model or the optimiser and is not in these lists fails: it needs a row,
or a place among what nobody specified.
"""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from toto.config import from_dict, to_dict
from toto.data.layout import Layout
from toto.jobs.pretrain import Pretrain
from toto.jobs.sequences import objective_of
from toto.models import Gpt2Config, LlamaConfig, MambaConfig
from toto.models.flops import model_cost
from toto.recipes import PRETRAIN
from toto.tokenizers.patches import PatchNormalisation

EVERY_SIZE: dict[str, tuple[Any, str]] = {
    "shards": ("shards", "a place"),
    "model.vocab_size": (8195, "M7: 8,192 codes + 3 special ids"),
    "model.context": (4098, "M8, D6: 4,096 codes, start and end"),
    "model.tied": (False, "nobody specified it: as LLaMA"),
    "model.rope_base": (10_000.0, "M4"),
    "model.norm_eps": (1e-5, "nobody specified it: LLaMA 2's"),
    "model.init_std": (0.02, "nobody specified it"),
    "model.patch_values": (0, "K1: codes are read"),
    "model.predicts": ("tokens", "O7"),
    "model.mup.base_width": (0, "S3c: the main models are not under muP"),
    "mixture": (
        [
            {"name": "imagenet-21k/train", "weight": 0.2},
            {"name": "ego4d/train", "weight": 0.1},
            {"name": "kinetics-600/train", "weight": 0.1},
            {"name": "howto100m/train", "weight": 0.6},
        ],
        "D1, D12",
    ),
    "layout.frames": (16, "D2, D4"),
    "layout.specials": ("outside", "nobody specified it: decision 0004"),
    "hop": (1, "nobody specified it"),
    "optimizer.betas": ([0.9, 0.95], "O2"),
    "optimizer.eps": (1e-8, "nobody specified it: Adam's own"),
    "optimizer.weight_decay": (0.1, "nobody specified it: LLaMA's"),
    "steps": (1_000_000, "O6"),
    "batch": (256, "O1: 256 x 4,096 = 2^20 tokens"),
    "lr": (3e-4, "O3"),
    "warmup": (2000, "O4"),
    "clip_norm": (1.0, "nobody specified it: LLaMA's"),
    "branch": ("", "from fresh weights"),
}
SIZES: dict[str, dict[str, Any]] = {
    # T1: width, layers, heads. M5: MLP width, derived from the counts.
    "base": {"width": 768, "depth": 12, "heads": 12, "mlp_width": 3072},
    "large": {"width": 1024, "depth": 16, "heads": 16, "mlp_width": 4096},
    "1b": {"width": 2048, "depth": 22, "heads": 16, "mlp_width": 5504},
}
COUNTS = {
    # Built, published, tolerance. Table 1 and 6 round to two digits and do not say whether the
    # embedding and the output matrix count; those are 12.6, 16.8 and 33.6 M in T1's.
    "base": (125_852_928, 120e6, 0.05),
    "large": (285_252_608, 280e6, 0.02),
    "1b": (1_146_722_304, 1.1e9, 0.05),
    "ablation": (285_252_608, 280e6, 0.02),
    "gpt2": (285_510_656, 280e6, 0.02),
    "mamba": (288_417_792, 290e6, 0.01),
    "dvae-32": (285_252_608, 280e6, 0.02),
    "16-to-32": (285_252_608, 280e6, 0.02),
    "frames-32": (285_252_608, 280e6, 0.02),
}


def flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        here = f"{path}{name}"
        found.update(flat(value, f"{here}.") if isinstance(value, dict) else {here: value})
    return found


@pytest.mark.parametrize("name", SIZES)
def test_every_value_of_the_main_recipes_is_accounted_for(name: str) -> None:
    values = flat(to_dict(PRETRAIN[name]()))
    expected = {field: value for field, (value, _) in EVERY_SIZE.items()}
    expected |= {f"model.{field}": value for field, value in SIZES[name].items()}
    assert {field: values[field] for field in expected} == expected
    rooms = ("model.", "optimizer.", "layout.")
    unnamed = {f for f in values if f.startswith(rooms)} - expected.keys()
    # The rest of muP is of no effect without a base width.
    assert {f for f in unnamed if not f.startswith("model.mup.")} == set()


@pytest.mark.parametrize("name", SIZES)
def test_the_rate_is_warmed_up_and_falls_as_a_cosine(name: str) -> None:
    """O3 to O5; that it ends at a tenth is among what nobody specified."""
    rate = PRETRAIN[name]().schedule()
    assert rate(0) == pytest.approx(3e-4 / 2000)
    assert rate(999) == pytest.approx(1.5e-4)
    assert rate(2000) == pytest.approx(3e-4)
    assert rate(501_000) == pytest.approx((3e-4 + 3e-5) / 2)
    assert rate(1_000_000) == pytest.approx(3e-5)


@pytest.mark.parametrize("name", COUNTS)
def test_built_models_have_the_papers_counts(name: str) -> None:
    built, published, tolerance = COUNTS[name]
    config = PRETRAIN[name]().model
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in config.build().parameters())
    assert parameters == model_cost(config).parameters == built
    assert parameters == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize("name", PRETRAIN)
def test_every_recipe_can_be_built_saved_and_priced(name: str) -> None:
    job = PRETRAIN[name]()
    with torch.device("meta"):
        model = job.model.build()
    assert model_cost(job.model).parameters == sum(p.numel() for p in model.parameters())
    assert from_dict(Pretrain, to_dict(job)) == job
    assert objective_of(job.model, PatchNormalisation()).loss


def changes(one: Pretrain, other: Pretrain) -> set[str]:
    return {f.name for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)}


def test_the_ablations_are_of_imagenet_for_400_epochs() -> None:
    """O8; batch and schedule are the main models', which is ours to say."""
    job = PRETRAIN["ablation"]()
    assert changes(job, PRETRAIN["large"]()) == {"mixture", "steps"}
    assert [(s.name, s.weight) for s in job.mixture] == [("imagenet-1k/train", 1.0)]
    assert job.steps * job.batch * job.layout.frames / 1_281_167 == pytest.approx(400, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        # T6b: GPT-2, absolute sine-cosine positions; T6c: the original Mamba.
        ("gpt2", Gpt2Config(vocab_size=8195, width=1024, depth=22, heads=16)),
        ("mamba", MambaConfig(vocab_size=8195, width=1024, depth=42)),
    ],
)
def test_table_6_changes_the_architecture_alone(name: str, config: object) -> None:
    job = PRETRAIN[name]()
    assert changes(job, PRETRAIN["ablation"]()) == {"model"}
    assert job.model == config


@pytest.mark.parametrize("name", ["patch-patch", "patch-dvae"])
def test_table_3_changes_what_is_read_alone(name: str) -> None:
    assert changes(PRETRAIN[name](), PRETRAIN["ablation"]()) == {"model"}


def test_32_x_32_places_take_four_times_the_steps() -> None:
    """T4b: 5.68e17 is four times 1.42e17. The sequence keeps the context, which is ours."""
    small, large = PRETRAIN["ablation"](), PRETRAIN["dvae-32"]()
    assert changes(small, large) == {"layout", "steps"}
    assert Layout(large.layout, codes=8192, frame_tokens=32**2).length == large.model.context
    assert large.steps == 4 * small.steps + 3  # 4 x 125,113.96
    assert large.steps * large.batch * 4 / 1_281_167 == pytest.approx(400, rel=1e-5)


def test_going_on_at_32_x_32_places_costs_what_table_4_adds() -> None:
    """T4d, M9, C2: 2.13e17 - 1.42e17, in multiplications a token x places x images."""
    before, job = PRETRAIN["ablation"](), PRETRAIN["16-to-32"]()
    assert job.branch == f"runs/ablation@{before.steps}"
    assert job.model == replace(before.model, rope_base=50_000.0)
    assert changes(job, PRETRAIN["dvae-32"]()) == {"branch", "model", "steps"}
    images = job.steps * job.batch * job.layout.frames
    assert images / 1_281_167 == pytest.approx(50, rel=1e-4)
    # Table 4 counts every weight but one of the two tables, and leaves out a factor of 256.
    assert 276.8e6 * 4 * images == pytest.approx(2.13e17 - 1.42e17, rel=0.01)


def test_32_frames_are_twice_the_context() -> None:
    """M10; how it is reached is ours."""
    large, job = PRETRAIN["large"](), PRETRAIN["frames-32"]()
    length = Layout(job.layout, codes=8192, frame_tokens=256).length
    assert (job.layout.frames, length) == (32, 8194)
    assert job.model == replace(large.model, context=length, rope_base=50_000.0)
    assert job.branch == "runs/large@1000000"
    assert job.batch * (length - 2) == 2**20
    assert changes(job, large) == {"branch", "model", "layout", "batch", "steps"}


SCALING = {
    # S1, RECALL: width, depth.
    "a1": (256, 12),
    "a2": (512, 16),
    "a3": (768, 20),
    "a4": (1024, 24),
    "a5": (1536, 28),
    "a6": (1792, 32),
}


@pytest.mark.parametrize("name", SCALING)
def test_the_scaling_variants_fit_the_compute_of_figure_9(name: str) -> None:
    job, (width, depth) = PRETRAIN[name](), SCALING[name]
    model = job.model
    assert isinstance(model, LlamaConfig)
    assert (model.width, model.depth, model.heads) == (width, depth, 16)
    assert model.mlp_width == pytest.approx(8 / 3 * width, abs=4)
    assert job.lr == 2**-7
    assert model.mup.base_width
    assert changes(job, PRETRAIN["base"]()) == {"model", "lr"}
    # What was read off the figure, 12 w^2 d + 16,384 w, against the weights but the embedding.
    matrices = depth * (4 * width**2 + 3 * width * model.mlp_width) + 16_384 * width
    assert matrices == pytest.approx(12 * width**2 * depth + 16_384 * width, rel=0.002)


@pytest.mark.parametrize(
    ("name", "interval"),
    [("a1", 2.569e13), ("a2", 1.081e14), ("a3", 2.819e14), ("a4", 5.784e14), ("a6", 2.272e15)],
)
def test_the_scaling_variants_lie_where_figure_9_draws_them(name: str, interval: float) -> None:
    """The first point of each curve, read off the figure: 1.78e6 samples (S1, S2e)."""
    model = PRETRAIN[name]().model
    width, depth = model.width, model.depth
    matrices = depth * (4 * width**2 + 3 * width * model.mlp_width) + 16_384 * width
    assert 1.78e6 * (matrices + 257 * width * depth) == pytest.approx(interval, rel=0.005)
