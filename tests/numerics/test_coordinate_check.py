"""The scale of activations does not depend on the width under muP, and does without it.

What is measured, and why of such a model, is in `toto.studies.coordinates`.
"""

from dataclasses import replace

import pytest

from toto.models import LlamaConfig
from toto.models.mup import Kind, MuP, Scales, scales
from toto.studies.coordinates import CoordinateCheck, by_kind, drift
from toto.studies.widths import standard

MODEL = LlamaConfig(
    vocab_size=8,
    width=64,
    depth=2,
    heads=1,
    mlp_width=64,
    context=8,
    init_std=1 / 8,  # 1 / sqrt(width): without muP only what follows from the width is amiss
    mup=MuP(base_width=64, zero_query=True, zero_readout=True),
)
KINDS = ("block", "attention", "logits")


def drifts(model: LlamaConfig, widths: tuple[int, ...], seeds: int) -> dict[str, float]:
    check = CoordinateCheck(model=model, lr=1e-3, seeds=seeds)
    scales = {width: check.scales(width) for width in widths}
    assert len(scales[64]) == 11  # before the first of 10 steps, and after each
    return by_kind(drift(scales, base_width=64), KINDS)


def test_scales_stay_within_a_tenth_under_mup() -> None:
    found = drifts(MODEL, (64, 256), seeds=32)
    assert all(value < 0.1 for value in found.values()), found


@pytest.mark.slow
def test_scales_stay_within_a_tenth_to_width_1024() -> None:
    found = drifts(MODEL, (64, 128, 256, 512, 1024), seeds=32)
    assert all(value < 0.1 for value in found.values()), found


def test_scales_run_away_without_mup() -> None:
    found = drifts(standard(MODEL), (64, 256), seeds=2)
    assert all(value > 1.0 for value in found.values()), found


def test_fresh_weights_that_shrink_with_the_width_are_not_enough() -> None:
    """The usual remedy, 1 / sqrt(width), mends the first step and none of those after it."""
    check = CoordinateCheck(model=standard(MODEL), lr=1e-3, seeds=2)
    shrunk = replace(check, model=replace(check.model, init_std=1 / 16))
    found = by_kind(drift({64: check.scales(64), 256: shrunk.scales(256)}, base_width=64), KINDS)
    assert found["logits"] > 1.0, found
    assert found["attention"] > 1.0, found


@pytest.mark.parametrize("rule", ["matrix lr", "matrix init_std", "readout lr", "attention"])
def test_the_check_sees_a_rule_that_is_left_out(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, _, setting = rule.partition(" ")

    def without(of_kind: Kind, ratio: float) -> Scales:
        found = scales(of_kind, ratio)
        return replace(found, **{setting: 1.0}) if of_kind == kind else found

    monkeypatch.setattr("toto.models.llama.scales", without)
    if rule == "attention":
        monkeypatch.setattr(MuP, "attention_scale", lambda *_: None)
    found = drifts(MODEL, (64, 256), seeds=2)
    assert max(found.values()) > 0.4, found
