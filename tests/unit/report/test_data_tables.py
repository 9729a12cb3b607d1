"""The pages of the data report: aligned, whole, and not to be drawn over by a file's name."""

import subprocess
import sys
from typing import Any

import pytest

from toto.report.data_tables import LISTED, data_page, table

SOURCE = {
    "name": "k/train",
    "kind": "video",
    "clips": 2,
    "lost": 0,
    "seconds": 3600.0,
    "untimed": 0,
    "short": 1,
    "tokens_every_frame": 4096,
    "tokens_at_stride": 1024,
    "tokens_in_sequences": 512,
    "sequences": 1,
    "share": 1.0,
    "passes": 12.345,
}


def result(**fields: Any) -> dict[str, Any]:
    return {
        "stride": 4,
        "side_px": 128,
        "frame_tokens": 256,
        "sequence_frames": 16,
        "training_tokens": 1e12,
        "mixture": "given",
        "sources": [SOURCE],
        "losses": [],
        "damaged": [],
        "paper": [],
    } | fields


def loss(number: int, reason: str = "bad", example: str = "a.mp4") -> dict[str, Any]:
    return {
        "source": "k/train",
        "status": "refused",
        "stage": "open",
        "reason": f"{reason} {number}",
        "clips": 10,
        "example": example,
    }


def test_columns_are_aligned_and_marked() -> None:
    assert table(("what", "n"), [("a", "1,000"), ("long", "2")]).splitlines() == [
        "| what |     n |",
        "| ---- | ----: |",
        "| a    | 1,000 |",
        "| long |     2 |",
    ]


def test_nothing_lost_is_a_sentence() -> None:
    page = data_page(result())
    assert "Nothing: every clip that was listed can be used." in page
    assert "1 clips are shorter" in page


def test_many_reasons_are_cut_and_counted() -> None:
    page = data_page(result(losses=[loss(number) for number in range(LISTED + 5)]))
    assert f"bad {LISTED - 1}" in page
    assert f"bad {LISTED}" not in page
    assert "And 5 reasons more, of 50 clips: results/data_report.json lists them." in page


def test_a_name_cannot_draw_columns_or_move_the_cursor() -> None:
    page = data_page(result(losses=[loss(1, example="a|b\x1b[2J\n# title‮.mp4")]))
    assert "a\\|b?[2J?# title?.mp4" in page
    assert "\x1b" not in page


def test_a_source_without_tokens_and_lengths_says_so() -> None:
    empty = SOURCE | {"share": 0.0, "passes": None, "untimed": 2, "tokens_in_sequences": 0}
    page = data_page(result(sources=[empty]))
    assert "No source has a clip that is long enough for one sequence." in page
    assert "1.00+" in page
    assert "2 clips have no times and add none" in page


@pytest.mark.parametrize(
    ("stride", "said"), [(1, "single"), (2, "2nd"), (3, "3rd"), (11, "11th"), (21, "21st")]
)
def test_the_stride_is_spelled(stride: int, said: str) -> None:
    assert f"every {said} frame is kept" in data_page(result(stride=stride))


def test_the_tables_need_no_torch() -> None:
    code = "import sys, toto.report.data_tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
