"""Batches of labelled clips: pure functions of (seed, step), shared out alike on any ranks."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from made_labelled import CLASSES, write_labelled
from toto.data.layout import Layout, LayoutConfig
from toto.data.token_set import TokenSet
from toto.jobs.labelled_clips import LabelledBatch, LabelledClips, TrainingBatches
from toto.jobs.labelled_splits import labelled_splits
from toto.tokenizers import load_tokenizer
from toto.train.augmentation import AugmentationConfig
from toto.train.mixing import MixingConfig

ALL = AugmentationConfig(crop_area=(0.08, 1.0), flip=0.5, operations=2, erase=0.25)
MIXED = MixingConfig(mixup=0.8, cutmix=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labelled") / "shards", longer=3)


def clips(folder: Path, *, frames: int = 4, patches: bool = False) -> LabelledClips:
    layout = Layout(LayoutConfig(frames=frames), codes=16, frame_tokens=16)
    sets = {name: TokenSet(folder / name, frames=True) for name in ("train", "selection", "test")}
    train = labelled_splits(sets, {"shade": CLASSES}, share=0.1)["train"]
    return LabelledClips(train, layout, patches=patches)


def batches(
    source: LabelledClips,
    *,
    augmentation: AugmentationConfig = ALL,
    mixing: MixingConfig = MIXED,
    seed: int = 0,
) -> TrainingBatches:
    return TrainingBatches(
        source,
        load_tokenizer("grey"),
        augmentation,
        mixing,
        smoothing=0.1,
        batch=8,
        seed=seed,
    )


def assert_same(one: LabelledBatch, *parts: LabelledBatch) -> None:
    assert torch.equal(one.ids, torch.cat([part.ids for part in parts]))
    assert torch.equal(one.targets, torch.cat([part.targets for part in parts]))
    assert list(one.numbers) == [number for part in parts for number in part.numbers]


PLAIN = (AugmentationConfig(), MixingConfig())


@pytest.mark.parametrize("changes", [PLAIN, (ALL, MIXED)], ids=["plain", "changed"])
def test_ranks_and_parts_share_the_same_batches(
    folder: Path, changes: tuple[AugmentationConfig, MixingConfig]
) -> None:
    made = batches(clips(folder), augmentation=changes[0], mixing=changes[1])
    whole = islice(made.from_step(3), 3)
    parts = [made.from_step(3, accumulate=2, rank=rank, world=2) for rank in range(2)]
    for batch in whole:
        assert_same(batch, *(next(part) for part in parts for _ in range(2)))


def test_a_restart_changes_nothing(folder: Path) -> None:
    made = batches(clips(folder))
    torch.manual_seed(5)
    unbroken = list(islice(made.from_step(0), 4))
    torch.manual_seed(6)
    assert_same(unbroken[3], next(batches(clips(folder)).from_step(3)))
    other = next(batches(clips(folder), seed=1).from_step(0))
    assert not torch.equal(other.ids, unbroken[0].ids)


def test_targets_are_shares_of_the_classes(folder: Path) -> None:
    for batch in islice(batches(clips(folder)).from_step(0), 6):
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(8))
    plain = batches(clips(folder), mixing=MixingConfig())
    batch = next(plain.from_step(0))
    assert batch.targets.max(1).values.tolist() == pytest.approx([0.9 + 0.1 / CLASSES] * 8)


def test_each_clip_comes_once_an_epoch_with_its_own_label(folder: Path) -> None:
    source = clips(folder)
    made = batches(source, augmentation=AugmentationConfig(), mixing=MixingConfig())
    seen = list(islice(made.from_step(0), 7))
    codes = torch.cat([batch.ids for batch in seen])
    labels = torch.cat([batch.targets.argmax(1) for batch in seen])
    assert labels[:14].sort().values.tolist() == source.labels.sort().values.tolist()
    # Of 3 shades the codes tell the class.
    bright = codes[:, 1:-1].float().mean(1)
    means = [bright[labels == label] for label in range(CLASSES)]
    assert means[0].max() < means[1].min() <= means[1].max() < means[2].min()


def test_codes_are_those_of_the_changed_pixels(folder: Path) -> None:
    source = clips(folder)
    flipped = batches(source, augmentation=AugmentationConfig(flip=1.0), mixing=MixingConfig())
    plain = batches(source, augmentation=AugmentationConfig(), mixing=MixingConfig())
    one, other = next(flipped.from_step(0)), next(plain.from_step(0))
    grids = (batch.ids[:, 1:-1].view(8, 4, 4, 4) for batch in (one, other))
    ours, theirs = grids
    assert torch.equal(ours, theirs.flip(-1))


def test_every_sample_is_changed_in_its_own_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = clips(folder, patches=True)
    same = source.pixels(0, 0)
    monkeypatch.setattr(source, "pixels", lambda clip, start: same)
    config = AugmentationConfig(crop_area=(0.2, 0.9), erase=1.0)
    made = batches(source, augmentation=config, mixing=MixingConfig())
    seen = [clip for batch in islice(made.from_step(0), 4) for clip in batch.frames]
    assert len({clip.numpy().tobytes() for clip in seen}) == 32


def test_a_model_of_patches_gets_the_frames(folder: Path) -> None:
    source = clips(folder, patches=True)
    plain = batches(source, augmentation=AugmentationConfig(), mixing=MixingConfig())
    batch = next(plain.from_step(0))
    assert batch.frames.shape == (8, 4, 32, 32, 3)
    assert batch.ids[:, 1:-1].max() == 0
    changed = next(batches(source).from_step(0))
    assert not torch.equal(changed.frames, batch.frames)


def test_training_reads_from_anywhere_and_evaluation_from_the_middle(folder: Path) -> None:
    source = clips(folder)
    assert source.start(0, 0.5) == 0
    assert {source.start(1, share / 10) for share in range(10)} == {0, 1, 2, 3}
    assert source.start(1, 0.999999) == 3
    middle = source.viewed([1]).ids[0, 1:-1].view(4, 4, 4)
    assert torch.equal(middle, source.tokens.window(1, 1, 4))


def test_refuses_clips_that_are_too_short(folder: Path) -> None:
    with pytest.raises(ValueError, match="a clip of 4 frames, 5 are read of each; --frames 4"):
        clips(folder, frames=5)


def test_refuses_parts_that_split_a_pair(folder: Path) -> None:
    made = batches(clips(folder))
    with pytest.raises(ValueError, match="batch 8 does not divide into 8 ranks x 1 parts of whole"):
        made.part(accumulate=1, world=8)
    with pytest.raises(ValueError, match="batch 8 does not divide into 3 ranks x 1 parts"):
        made.part(accumulate=1, world=3)
    plain = batches(clips(folder), mixing=MixingConfig())
    assert plain.part(accumulate=1, world=8) == 1
