import json
from pathlib import Path

import numpy as np
import pytest

from toto.cli.verbs import RUN
from toto.jobs.score_davis import ScoreDavis, score_table
from toto.metrics.segmentation import VOID
from toto.video.masks import write_mask

FRAMES, SIZE = 6, (30, 44)


def moving(objects: int = 2, shift_px: int = 0) -> np.ndarray:
    """Squares that slide right, `shift_px` further than the truth's."""
    ids = np.zeros((FRAMES, *SIZE), np.uint8)
    for frame in range(FRAMES):
        for one in range(objects):
            left = 3 + 2 * frame + shift_px
            ids[frame, 2 + 12 * one : 12 + 12 * one, left : left + 10] = one + 1
    return ids


def write(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    for name, ids in masks.items():
        for frame, mask in enumerate(ids):
            write_mask(folder / name / f"{frame:05d}.png", mask)
    return folder


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write(tmp_path / "truth", {"one": moving(1), "two": moving(2)})


def score(truth: Path, masks: dict[str, np.ndarray], **fields: object) -> dict:
    pred = write(truth.parent / "pred", masks)
    return ScoreDavis(gt=truth, pred=pred, **fields).run()


def test_means_are_over_objects_and_inner_frames(truth: Path) -> None:
    two = moving(2, shift_px=5)
    two[:, 14:] = moving(2)[:, 14:]
    one = moving(1)
    one[0] = one[-1] = 0  # neither end is scored
    result = score(truth, {"one": one, "two": two})
    third = 5 / 15
    assert result["sequences"]["one"]["j"] == 1
    assert result["sequences"]["two"]["objects"]["1"]["j"] == pytest.approx(third)
    assert result["sequences"]["two"]["j"] == pytest.approx((1 + third) / 2)
    assert result["j_mean"] == pytest.approx((2 + third) / 3)
    assert result["j_and_f_mean"] == pytest.approx((result["j_mean"] + result["f_mean"]) / 2)
    assert result["sequences"]["one"]["scored_frames"] == FRAMES - 2
    assert result["objects"] == 3
    assert "all objects" in score_table(result)


def test_merged_objects_are_one(truth: Path) -> None:
    swapped = np.array([0, 2, 1], np.uint8)[moving(2)]
    result = score(truth, {"one": moving(1), "two": swapped}, merge_objects=True)
    assert result["objects"] == 2
    assert result["j_and_f_mean"] == 1


def test_truth_of_2016_is_one_object(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth", {"one": np.where(moving(1), VOID, 0).astype(np.uint8)})
    assert score(truth, {"one": moving(1)})["j_mean"] == 1
    assert score(truth, {"one": np.where(moving(1), VOID, 0).astype(np.uint8)})["j_mean"] == 1
    merged = score(truth, {"one": moving(2)}, merge_objects=True)
    assert merged["j_mean"] == pytest.approx(0.5)


def test_void_is_background_and_late_objects_do_not_count(tmp_path: Path) -> None:
    ids = moving(1)
    ids[2:, 20:] = 2
    ids[:, :, 40:] = VOID
    truth = write(tmp_path / "truth", {"one": ids})
    result = score(truth, {"one": moving(1)})
    assert result["sequences"]["one"]["objects"].keys() == {"1"}
    assert result["j_and_f_mean"] == 1


def test_a_root_with_lists_names_the_sequences(tmp_path: Path) -> None:
    root = tmp_path / "davis"
    write(root / "Annotations" / "480p", {"one": moving(1), "two": moving(2)})
    (root / "JPEGImages" / "480p").mkdir(parents=True)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("two\n")
    (root / "ImageSets" / "2017" / "train.txt").write_text("one\n")
    pred = write(tmp_path / "pred", {"two": moving(2)})
    assert ScoreDavis(gt=root, pred=pred).run()["sequences"].keys() == {"two"}
    with pytest.raises(ValueError, match="has no sequence one; all 1 count"):
        ScoreDavis(gt=root, pred=pred, split="train").run()


def test_json_is_one_line(truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pred = write(tmp_path / "pred", {"one": moving(1), "two": moving(2)})
    RUN["score"](["davis", "--gt", str(truth), "--pred", str(pred), "--json"])
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert json.loads(line)["sequences"]["two"]["f"] == 1


def test_rejects_a_missing_sequence(truth: Path) -> None:
    with pytest.raises(ValueError, match="has no sequence two; all 2 count"):
        score(truth, {"one": moving(1)})


def test_rejects_a_sequence_too_many_unless_some_are_named(truth: Path) -> None:
    masks = {"one": moving(1), "two": moving(2), "zebra": moving(1)}
    with pytest.raises(ValueError, match=r"has a sequence zebra that .* has not; name those"):
        score(truth, masks)
    assert score(truth, masks, sequences=("one",))["objects"] == 1


def test_rejects_an_unknown_sequence(truth: Path) -> None:
    with pytest.raises(ValueError, match="has no sequence dog; it has one, two"):
        score(truth, {"one": moving(1)}, sequences=("dog",))


def test_rejects_a_missing_frame(truth: Path) -> None:
    pred = write(truth.parent / "pred", {"one": moving(1), "two": moving(2)})
    (pred / "two" / "00003.png").unlink()
    with pytest.raises(ValueError, match=r"two has no 00003.png, one of 1 that are missing"):
        ScoreDavis(gt=truth, pred=pred).run()


def test_rejects_a_frame_too_many(truth: Path) -> None:
    longer = np.concatenate([moving(1), moving(1)[:1]])
    with pytest.raises(ValueError, match=r"one has 00006.png, a frame that .* has not; remove it"):
        score(truth, {"one": longer, "two": moving(2)})


def test_rejects_a_mask_of_another_size(truth: Path) -> None:
    pred = write(truth.parent / "pred", {"one": moving(1), "two": moving(2)})
    write_mask(pred / "one" / "00002.png", np.zeros((15, 22), np.uint8))
    with pytest.raises(ValueError, match=r"00002.png has 22x15 px, not 44x30; masks are scored"):
        ScoreDavis(gt=truth, pred=pred).run()


def test_rejects_an_id_that_no_object_has(truth: Path) -> None:
    with pytest.raises(ValueError, match=r"one/00001.png has id 2, .* --merge-objects"):
        score(truth, {"one": moving(2), "two": moving(2)})


def test_rejects_a_broken_mask(truth: Path) -> None:
    pred = write(truth.parent / "pred", {"one": moving(1), "two": moving(2)})
    path = pred / "one" / "00002.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"00002.png: the PNG image cannot be read"):
        ScoreDavis(gt=truth, pred=pred).run()


def test_rejects_the_truth_as_prediction(truth: Path) -> None:
    with pytest.raises(ValueError, match=r"--pred .* is the truth itself; give a method's masks"):
        ScoreDavis(gt=truth, pred=truth).run()


def test_rejects_truth_without_an_object(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth", {"one": np.zeros((4, *SIZE), np.uint8)})
    with pytest.raises(ValueError, match="the first mask has no object to score"):
        score(truth, {"one": np.zeros((4, *SIZE), np.uint8)})


def test_rejects_two_frames(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth", {"one": moving(1)[:2]})
    with pytest.raises(ValueError, match="one: 2 frames leave none to score"):
        score(truth, {"one": moving(1)[:2]})
