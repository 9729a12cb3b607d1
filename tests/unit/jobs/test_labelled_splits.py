"""Which labelled clips train, choose and are reported, and what their classes are called."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from made_grey import of_grey
from made_labelled import CLASSES, write_labelled
from toto.data.records import ClipRecord
from toto.data.shards import write_shard
from toto.data.token_set import TokenSet, write_index
from toto.jobs.labelled_splits import SplitNames, labelled_splits
from toto.tasks.ledger import Views
from toto.types import TokenGrid

WORDS = ("yawning", "abseiling", "zumba")
THIRDS = ((0.0, 0.5), (0.5, 0.5), (1.0, 0.5))
RECORD = ClipRecord(
    source="set",
    source_sha256=None,
    frame_indices=(0,),
    times_s=(0.0,),
    side_px=32,
    crop=(0.5, 0.5),
    labels={"shade": 1},
)


def write_set(
    folder: Path,
    *,
    words: tuple[str | None, ...],
    clips: int = 6,
    crops: tuple[tuple[float, float], ...] = ((0.5, 0.5),),
) -> TokenSet:
    """Write clips that are cut to squares; the words are theirs in turn."""
    grid = TokenGrid(ids=torch.zeros(1, 4, 4, dtype=torch.int32), vocab_size=16)
    made = [
        (grid, replace(RECORD, clip=f"{n}.mp4", crop=crop, label=words[n % len(words)]), None)
        for crop in crops  # not clip by clip: a clip's squares may lie far apart
        for n in range(clips)
    ]
    write_shard(folder / "00000", of_grey(), made)
    write_index(folder)
    return TokenSet(folder)


def test_classes_are_the_sorted_words_of_the_training_clips(tmp_path: Path) -> None:
    sets = {
        "train": write_set(tmp_path / "train", words=WORDS),
        "test": write_set(tmp_path / "val", words=("zumba", "yawning")),
    }
    found = labelled_splits(sets, {"class": None}, share=0.5)
    for split in found.values():
        assert split.classes == (("abseiling", "yawning", "zumba"),)
    assert found["test"].labels.tolist() == [[2, 1, 2, 1, 2, 1]]
    assert labelled_splits(sets, {"class": 3}, share=0.5)["train"].classes == found["train"].classes


def test_a_part_of_the_training_set_chooses_and_says_so(tmp_path: Path) -> None:
    sets = {
        "train": write_set(tmp_path / "set/train", words=WORDS, clips=12, crops=THIRDS),
        "test": write_set(tmp_path / "set/val", words=WORDS),
    }
    found = labelled_splits(sets, {"class": 3}, share=0.25)
    assert (len(found["train"]), len(found["selection"]), len(found["test"])) == (27, 3, 6)
    assert sorted(found["selection"].labels[0].tolist()) == [0, 1, 2]
    chose = set(found["selection"].ids)
    assert not chose & set(found["train"].ids)
    assert chose | set(found["train"].ids) == {f"set/{n}.mp4" for n in range(12)}
    described = found["selection"].described()
    assert described.name == "selection of set/train"
    assert described.digest == f"selection of {sets['train'].sha256}"
    assert found["train"].digest == f"train of {sets['train'].sha256}"
    assert found["test"].described().digest == sets["test"].sha256


def test_a_set_of_its_own_chooses_where_there_is_one(tmp_path: Path) -> None:
    shards = write_labelled(tmp_path)
    sets = SplitNames().open(str(shards), frames=lambda _: False)
    found = labelled_splits(sets, {"shade": CLASSES}, share=0.5)
    assert [len(found[name]) for name in ("train", "selection", "test")] == [14, 9, 7]
    assert found["selection"].digest == sets["selection"].sha256
    assert found["test"].classes == (("0", "1", "2"),)
    assert found["test"].labels[0].tolist() == [n % CLASSES for n in range(7)]


def test_a_number_is_the_class_that_it_says(tmp_path: Path) -> None:
    """Whether or not a training clip has it."""
    shards = write_labelled(tmp_path)
    sets = SplitNames(selection="").open(str(shards), frames=lambda _: False)
    found = labelled_splits(sets, {"shade": 10}, share=0.2)
    assert found["train"].classes == (tuple(map(str, range(10))),)
    with pytest.raises(ValueError, match="has shade '2', which is none of the 2 classes"):
        labelled_splits(sets, {"shade": 2}, share=0.2)


def test_every_clip_is_one_sample_however_it_was_cut(tmp_path: Path) -> None:
    sets = {
        "train": write_set(tmp_path / "train", words=WORDS),
        "test": write_set(tmp_path / "test", words=WORDS, crops=THIRDS[::-1]),
    }
    test = labelled_splits(sets, {"class": 3}, share=0.5)["test"]
    assert len(test) == len(set(test.ids)) == 6
    for squares, number in zip(test.squares, test.numbers, strict=True):
        assert [test.tokens.clips[n].crop for n in squares] == list(THIRDS)
        assert test.tokens.clips[number].crop == (0.5, 0.5)
    test.require_views(Views(temporal=10, spatial=3))


@pytest.mark.parametrize("crops", [((0.5, 0.5),), THIRDS[:2], ((0.1, 0.3), (0.5, 0.5), (0.9, 0.2))])
def test_refuses_views_of_squares_that_were_not_cut(
    tmp_path: Path, crops: tuple[tuple[float, float], ...]
) -> None:
    sets = {
        "train": write_set(tmp_path / "train", words=WORDS),
        "test": write_set(tmp_path / "test", words=WORDS, crops=crops),
    }
    test = labelled_splits(sets, {"class": 3}, share=0.5)["test"]
    test.require_views(Views(temporal=10))
    with pytest.raises(
        ValueError, match=r"set/0.mp4 has . squares, views of 3 .*--test-crops 3, or .*spatial 1"
    ):
        test.require_views(Views(spatial=3))


def test_upright_clips_are_cut_from_top_to_bottom(tmp_path: Path) -> None:
    crops = tuple((y, x) for x, y in THIRDS)
    sets = {
        "train": write_set(tmp_path / "train", words=WORDS),
        "test": write_set(tmp_path / "test", words=WORDS, crops=crops),
    }
    labelled_splits(sets, {"class": 3}, share=0.5)["test"].require_views(Views(spatial=3))


def test_refuses_classes_that_do_not_fit(tmp_path: Path) -> None:
    sets = {
        "train": write_set(tmp_path / "train", words=WORDS),
        "test": write_set(tmp_path / "val", words=("yawning", "sleeping")),
    }
    with pytest.raises(
        ValueError, match="val has class 'sleeping', which is none of the 3 classes"
    ):
        labelled_splits(sets, {"class": 3}, share=0.5)
    with pytest.raises(
        ValueError, match="train has 3 classes, task 'class' has 400; set its class"
    ):
        labelled_splits(sets, {"class": 400}, share=0.5)
    nameless = {**sets, "test": write_set(tmp_path / "test", words=("yawning", None))}
    with pytest.raises(ValueError, match=r"set/1.mp4 has no class of its data set; .* \(shade\)"):
        labelled_splits(nameless, {"class": 3}, share=0.5)


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_refuses_a_share_that_is_none(share: float) -> None:
    with pytest.raises(ValueError, match=f"selection_share {share} must lie between 0 and 1"):
        SplitNames(selection_share=share)


@pytest.mark.parametrize("names", [{"test": "train"}, {"selection": "test"}, {"test": ""}])
def test_refuses_one_set_for_two_uses(names: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must be different sets"):
        SplitNames(**names)
