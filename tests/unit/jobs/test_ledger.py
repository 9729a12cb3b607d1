import json
import subprocess
import sys
from pathlib import Path

import pytest

from made_scores import IDS, RANKED, classified, selection, write
from toto.jobs.ledger import Ledger, as_json, as_text
from toto.tasks.answers import Measured
from toto.tasks.ledger import Split
from toto.tasks.published import PUBLISHED

SCORE, ANSWERS = "results/score-made.json", "results/answers-made.json"


def troubles(folder: Path) -> list[str]:
    return [trouble for entry in Ledger(folders=(folder,)).run() for trouble in entry.troubles]


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_shows_every_score_with_the_papers_beside_it(tmp_path: Path) -> None:
    lost = {name: ranks for name, ranks in RANKED.items() if name != IDS[3]}
    write(tmp_path / "a", classified([lost, lost]), published=PUBLISHED["T8-base"])
    objects = [("a/1", 0.5), ("b/1", 0.25)]
    write(
        tmp_path / "b",
        Measured.gathered(["a/1", "b/1"], [objects]),
        metric="j_and_f",
        reported=Split.of("davis/val", "digest", ["a/1", "b/1"]),
        selection=None,
    )
    entries = Ledger(folders=(tmp_path,), html=tmp_path / "page" / "ledger.html").run()
    text = "\n".join(as_text(entries))
    first, second = [line.split("|") for line in text.splitlines()[2:4]]
    cells = [cell.strip() for cell in first]
    assert cells[1:12] == [
        "made",
        "top1",
        "85.71",
        "0.00",
        "2",
        "59.3 (T8)",
        "7",
        "1",
        "0",
        "1x1",
        "6",
    ]
    assert [cell.strip() for cell in second][2:4] == ["j_and_f", "37.50"]
    assert "a: made: 1 missing: set/3.mp4" in text
    assert text.endswith("2 scores, each computed again from its answers; all the same")
    told = json.loads(as_json(entries))
    assert told[0]["score"]["published"]["value"] == 0.593
    assert told[0]["value"] == 6 / 7
    page = (tmp_path / "page" / "ledger.html").read_text()
    assert "85.71" in page
    assert "<script" not in page


def test_finds_a_value_that_was_edited(tmp_path: Path) -> None:
    write(tmp_path, classified())
    edit(tmp_path / SCORE, "1.0", "0.9")
    assert troubles(tmp_path) == ["top1 is [1.0] by its answers, not [0.9]"]


def test_finds_answers_that_were_edited(tmp_path: Path) -> None:
    write(tmp_path, classified([{**RANKED, IDS[0]: (1, 0)}]))
    edit(tmp_path / ANSWERS, '"ranked": [[[1, 0]', '"ranked": [[[0, 1]')
    found = troubles(tmp_path)
    assert found[0] == "answers-made.json is not the one that was scored: its sha256 differs"
    assert found[1] == f"top1 is [1.0] by its answers, not [{6 / 7}]"


def test_finds_lost_samples_that_were_taken_out(tmp_path: Path) -> None:
    lost = {name: ranks for name, ranks in RANKED.items() if name != IDS[6]}
    write(tmp_path / "a", classified([lost]))
    edit(tmp_path / "a" / SCORE, '"missing": [\n  "set/6.mp4"\n ]', '"missing": []')
    assert troubles(tmp_path / "a") == ["missing: 0 samples in the score, 1 samples in its answers"]


def test_finds_a_choice_that_was_moved_to_the_reported_split(tmp_path: Path) -> None:
    write(tmp_path, classified())
    edit(tmp_path / SCORE, selection().split.digest, "of the test split")
    assert "is the one that is reported" in troubles(tmp_path)[0]


@pytest.mark.parametrize("file", [SCORE, ANSWERS])
def test_says_which_score_cannot_be_read(file: str, tmp_path: Path) -> None:
    write(tmp_path / "good", classified())
    write(tmp_path / "bad", classified())
    (tmp_path / "bad" / file).write_text("{")
    entries = Ledger(folders=(tmp_path,)).run()
    assert [bool(entry.troubles) for entry in entries] == [True, False]
    assert any("cannot be read" in trouble for trouble in entries[0].troubles)
    assert "WRONG" in "\n".join(as_text(entries))


def test_refuses_another_schema(tmp_path: Path) -> None:
    write(tmp_path, classified())
    edit(tmp_path / SCORE, '"schema": 1', '"schema": 2')
    assert "has schema 2, this toto reads 1" in troubles(tmp_path)[0]


def test_refuses_a_folder_without_scores(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no score below"):
        Ledger(folders=(tmp_path,)).run()


@pytest.mark.parametrize("good", [True, False])
def test_the_verb_says_by_its_status_whether_all_is_well(good: bool, tmp_path: Path) -> None:
    write(tmp_path, classified())
    if not good:
        edit(tmp_path / SCORE, "1.0", "0.9")
    ended = subprocess.run(
        [sys.executable, "-m", "toto", "ledger", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == (0 if good else 1), ended.stderr
    assert ("1 WRONG" in ended.stdout) is not good
