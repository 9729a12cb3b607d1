"""What `toto track` on moving digits leaves behind."""

import json
from pathlib import Path

import pytest

from toto.jobs.ledger import Ledger


def test_its_scores_are_in_the_ledger(finished: Path) -> None:
    result = json.loads((finished / "track/results/track.json").read_text())
    entries = {entry.name: entry for entry in Ledger(folders=(finished / "track",)).run()}
    kinds = ("trained", "untrained", "first mask kept")
    assert len(entries) == 3 * len(kinds)
    for kind in kinds:
        for metric in ("j", "f", "j_and_f"):
            entry = entries[f"demo-{kind.replace(' ', '-')}-{metric}"]
            assert not entry.troubles
            assert entry.score is not None
            assert entry.score.values == pytest.approx((result["scores"][kind][metric],))
            assert entry.score.reported.samples == len(result["clips"])
            assert entry.score.model.trained == (kind == "trained")


def test_the_layer_was_chosen_on_other_clips(finished: Path) -> None:
    result = json.loads((finished / "track/results/track.json").read_text())
    scores = {
        kind: json.loads((finished / f"track/results/score-demo-{kind}-j.json").read_text())
        for kind in ("trained", "untrained", "first-mask-kept")
    }
    assert scores["first-mask-kept"]["selection"] is None
    for kind, name in (("trained", "layer"), ("untrained", "layer_untrained")):
        selection = scores[kind]["selection"]
        assert selection["chosen"] == [f"layer {result[name]}"]
        assert selection["among"]["layers"] > result[name]
        assert selection["split"]["samples"] == result["selection_clips"]
        assert selection["split"]["digest"] != scores[kind]["reported"]["digest"]
    digests = {tuple(score["model"]["weights_sha256"]) for score in scores.values()}
    assert len(digests) == 3
