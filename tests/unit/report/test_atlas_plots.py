"""The layer atlas in words, as a picture, and on the page of its run."""

import json
from pathlib import Path
from typing import Any

import pytest
from example_run import write_example_run

from toto.report.atlas_plots import NAMES, atlas_table, draw_atlas
from toto.report.collect import collect
from toto.report.page import page

LAYERS, SEEDS = 3, 2


@pytest.fixture
def result() -> dict[str, Any]:
    chosen = {"layer": 1, "head": "attention", "rate": 0.003, "selection": 0.5, "test": 0.4}
    curve = {
        "test": [[0.1, 0.3 + 0.2 * seed, 0.2] for seed in range(SEEDS)],
        "chosen": [chosen, {**chosen, "test": 0.5}],
    }
    return {
        "classes": 40,
        "chance": 0.025,
        "clips": {"train": 1800, "selection": 200, "test": 2000},
        "layers": ["embedding", "block 1", "block 2"],
        "heads": ["average", "attention"],
        "heads_tried": 18,
        "seeds": [0, 1],
        "curves": {kind: dict.fromkeys(NAMES, curve) for kind in ("trained", "untrained")},
        "chosen": {"trained": [chosen, chosen], "untrained": [chosen, chosen]},
        "verdict": {
            "trained_mean": 0.4,
            "untrained_mean": 0.2,
            "beats_untrained": True,
            "beats_chance": True,
            "sentence": "trained 40 %, untrained 20 %.",
        },
    }


def test_the_table_has_a_row_a_head_and_says_how_many_were_tried(result: dict[str, Any]) -> None:
    text = atlas_table(result)
    assert "18 heads tried a seed" in text
    rows = [line for line in text.splitlines() if line.startswith("| average pooling")]
    assert len(rows) == 2
    assert "| 10.0 +- 0.0 | 40.0 +- 14.1 | 20.0 +- 0.0 | block 1 | 45.0 +- 7.1 |" in rows[0]


def test_the_page_has_the_atlas_only_where_there_is_one(
    result: dict[str, Any], tmp_path: Path
) -> None:
    run = write_example_run(tmp_path / "run")
    assert "Layer atlas" not in page(collect(run))
    (run / "layers/results").mkdir(parents=True)
    (run / "layers/results/study_layers.json").write_text(json.dumps(result))
    draw_atlas(run / "layers/layers.png", result)
    text = page(collect(run))
    assert "<h2>Layer atlas</h2>" in text
    assert "trained 40 %, untrained 20 %." in text
    assert "Accuracy of every head over the layers" in text
