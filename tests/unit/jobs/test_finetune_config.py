"""What a fine-tuning's config refuses."""

from dataclasses import replace
from typing import Any

import pytest

from toto.recipes import FINETUNE
from toto.train.health import Health


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs 0 must be at least 1"),
        ({"batch": 0}, "batch 0 must be at least 1"),
        ({"evaluate_every": 0}, "evaluate_every 0 must be at least 1"),
        ({"layer": -1}, "layer -1 must be 0 or more"),
        ({"frames": -1}, "frames -1 must be 0 or more"),
        ({"clip_norm": float("nan")}, "clip_norm nan must be 0 or more"),
        ({"label_smoothing": 1.0}, r"label_smoothing 1.0 must lie in 0..1, 1 left out"),
        ({"drop_path": -0.5}, r"drop_path -0.5 must lie in 0..1, 1 left out"),
        ({"layer_decay": 0.0}, r"layer_decay 0.0 must lie in 0..1, 0 left out"),
        ({"warmup_epochs": 2}, "warmup_epochs 2 must be less than epochs 2"),
        ({"protocol": "stop-gradient"}, "needs --attention causal"),
        (
            {"protocol": "stop-gradient", "attention": "causal", "layer": 2},
            "layer 2: protocol 'stop-gradient' probes all layers and chooses; leave it 0",
        ),
        ({"protocol": "frozen", "drop_path": 0.1}, "drop_path 0.1 would change what a frozen back"),
        ({"published": "T7"}, "published 'T7' is none of T3a, "),
        ({"health": Health(rewind_after=1)}, "rewind_after 1: fine-tuning does not go back"),
    ],
)
def test_refuses_what_makes_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(FINETUNE["tiny"](), **fields)


@pytest.mark.parametrize("name", sorted(FINETUNE))
def test_every_recipe_says_how_it_is_run(name: str) -> None:
    recipe = FINETUNE[name]
    assert recipe().epochs >= 1
    assert f"toto finetune {name} " in (recipe.__doc__ or "")


def test_values_of_maes_recipe() -> None:
    job = FINETUNE["mae-base"]()
    assert (job.epochs, job.warmup_epochs, job.batch, job.lr) == (100, 5, 1024, 2e-3)
    assert job.lr * job.floor == pytest.approx(1e-6)
    assert (job.layer_decay, job.drop_path, job.label_smoothing) == (0.65, 0.1, 0.1)
    assert (job.mixing.mixup, job.mixing.cutmix) == (0.8, 1.0)
    ours = job.augmentation
    assert (ours.operations, ours.magnitude, ours.magnitude_deviation, ours.erase) == (
        2,
        9,
        0.5,
        0.25,
    )
    assert job.optimizer.weight_decay == 0.05
    assert job.attention == "bidirectional"


def test_values_of_the_papers_probes() -> None:
    job = FINETUNE["paper-probes"]()
    assert (job.epochs, job.lr, job.layer_decay, job.rope_base) == (90, 6e-5, 0.9, 50_000)
    assert (job.protocol, job.head.pooling) == ("stop-gradient", "attention")
    kinetics = FINETUNE["kinetics"]()
    assert (kinetics.frames, kinetics.task.classes, kinetics.lr) == (16, 400, 6e-5)
    assert str(kinetics.views) == "10x3"
    assert str(job.views) == "1x1"


def test_frozen_probes_leave_the_backbone_alone_and_differ_in_their_head() -> None:
    linear, attention = (FINETUNE[f"frozen-{name}"]() for name in ("linear", "attention"))
    assert (linear.protocol, linear.attention, linear.epochs) == ("frozen", "causal", 90)
    assert linear.rope_base == 0
    assert replace(attention, head=linear.head) == linear
    assert (linear.head.pooling, attention.head.pooling) == ("average", "attention")


@pytest.mark.parametrize("name", sorted(set(FINETUNE) - {"tiny"}))
def test_published_data_sets_are_scored_on_what_they_call_val(name: str) -> None:
    splits = FINETUNE[name]().splits
    assert (splits.train, splits.selection, splits.test) == ("train", "", "val")
    assert FINETUNE[name]().task.name == "class"
