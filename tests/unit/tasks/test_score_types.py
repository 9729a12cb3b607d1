import re
from dataclasses import replace
from pathlib import Path

import pytest

from made_scores import CHOSE, IDS, PROTOCOL, classified, reported, selection, write
from toto.tasks.ledger import Protocol, Selection, Split
from toto.tasks.published import PUBLISHED

PAPER = Path(__file__).parents[3] / "docs" / "paper.md"


def test_refuses_a_choice_on_the_reported_split(tmp_path: Path) -> None:
    same_data = Split.of("set/chose", reported().digest, CHOSE)
    with pytest.raises(ValueError, match="'set/chose' chose 'layer 1, 1e-3' and is the one that"):
        write(tmp_path / "a", classified(), selection=selection(split=same_data))
    same_ids = Split.of("set/chose", "other bytes", IDS)
    with pytest.raises(ValueError, match="'set/chose' chose 'layer 1, 1e-3' and is the one that"):
        write(tmp_path / "b", classified(), selection=selection(split=same_ids))


def test_refuses_a_choice_on_reported_samples() -> None:
    with pytest.raises(ValueError, match=r"shares 1 samples .* such as 'set/0.mp4'"):
        selection(ids=[*CHOSE, IDS[0]])


def test_counts_what_was_tried() -> None:
    assert selection().tried == 6
    with pytest.raises(ValueError, match=r"a selection among \{'layers': 0\} chose nothing"):
        selection(among={"layers": 0})
    with pytest.raises(ValueError, match="chose nothing"):
        Selection(split=selection().split, among={"layers": 2}, chosen=())


def test_refuses_an_edited_protocol() -> None:
    assert PROTOCOL.digest != Protocol.of("made", {"epochs": 4}).digest
    assert PROTOCOL.digest != Protocol.of("other", {"epochs": 3}).digest
    with pytest.raises(ValueError, match="protocol 'made' was edited"):
        replace(PROTOCOL, fields={"epochs": 4})


def test_refuses_an_empty_split() -> None:
    with pytest.raises(ValueError, match="split 'set/test' has no sample"):
        Split.of("set/test", "digest", [])


def test_refuses_answers_of_other_samples(tmp_path: Path) -> None:
    other = Split.of("set/test", "digest", IDS[1:])
    with pytest.raises(ValueError, match="the answers are of other samples than split 'set/test'"):
        write(tmp_path, classified(), reported=other)


def test_refuses_another_number_of_seeds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 values of 2 seeds"):
        write(tmp_path, classified(), seeds=(0, 1))


def test_mean_and_deviation_are_over_the_seeds(tmp_path: Path) -> None:
    score = write(tmp_path, classified([dict.fromkeys(IDS, (0, 1)), dict.fromkeys(IDS, (1, 0))]))
    assert score.values == (3 / 7, 2 / 7)
    assert score.value == pytest.approx(2.5 / 7)
    assert score.deviation == pytest.approx(0.5 / 7 * 2**0.5)
    assert replace(score, values=(0.5,), seeds=(0,)).deviation is None


@pytest.mark.parametrize("key", sorted(PUBLISHED))
def test_published_values_stand_in_their_row(key: str) -> None:
    published = PUBLISHED[key]
    rows = [row for row in PAPER.read_text().splitlines() if row.startswith(f"| {published.row} |")]
    assert len(rows) == 1
    said = rows[0].split("|")[2]
    assert re.search(rf"(?<![\d.]){100 * published.value:.1f}(?![\d.]*\d)", said), said
