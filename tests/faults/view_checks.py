"""What evaluation by several views must hold, and the classes that data sets name by words."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from toto.data.layout import Layout, LayoutConfig
from toto.jobs import evaluation, labelled_clips, labelled_splits
from toto.tasks.ledger import Views

FRAMES, LENGTH = 2, 12
CROPS = ((1.0, 0.5), (0.5, 0.5), (0.0, 0.5))
"""Not in their order: shards may have any."""
WORDS = ("yawning", "abseiling", "zumba", "abseiling", "zumba", "yawning")


def made_set(words: tuple[str, ...] = WORDS, crops: tuple[Any, ...] = CROPS) -> Any:
    """A set of clips that are cut to squares, whose codes say which square and frame they are."""
    clips = [
        SimpleNamespace(name=f"set/{number}", crop=crop, word=word)
        for number, word in enumerate(words)
        for crop in crops
    ]

    def window(number: int, start: int, frames: int) -> torch.Tensor:
        # 100 for each third of the way to the right, and the frame.
        code = 100 * int(2 * clips[number].crop[0]) + start + torch.arange(frames)
        return code[:, None, None]

    return SimpleNamespace(
        path="shards/set/test",
        sha256="ab" * 32,
        names=lambda: [clip.name for clip in clips],
        crops=lambda: [clip.crop for clip in clips],
        lengths=np.full(len(clips), LENGTH),
        window=window,
        words=lambda: [clip.word for clip in clips],
        description=SimpleNamespace(kind="video"),
    )


def _splits(train: Any, test: Any, count: int | None = 3) -> dict[str, Any]:
    return labelled_splits.labelled_splits(
        {"train": train, "test": test}, {"class": count}, share=0.5
    )


def every_view_of_a_clip_is_another(*_: object) -> None:
    """Clips evenly in time by squares from left to right, each once; one view is in the middle."""
    test = _splits(made_set(), made_set())["test"]
    assert len(test) == len(WORDS)
    layout = Layout(LayoutConfig(frames=FRAMES), codes=8192, frame_tokens=1)
    clips = labelled_clips.LabelledClips(test, layout)
    views = Views(temporal=5, spatial=3)
    test.require_views(views)
    seen = [batch.ids[:, 1].tolist() for batch in evaluation._views_of(clips, range(4, 6), views)]
    expected = [100 * crop + start for start in (0, 2, 4, 6, 8) for crop in range(3)]
    assert seen == [[code, code] for code in expected]
    assert clips.viewed([5]).ids[0, 1] == 100 + 5
    batch = clips.viewed([5, 0, 4, 1])
    assert batch.targets.argmax(-1).tolist() == [1, 1, 2, 0]


def classes_are_those_of_the_training_words(*_: object) -> None:
    """Sorted, the same in every split, and as many as were expected."""
    found = _splits(made_set(), made_set(("zumba", "yawning")))
    assert found["test"].classes == (("abseiling", "yawning", "zumba"),)
    assert found["test"].labels.tolist() == [[2, 1]]
    try:
        _splits(made_set(), made_set(), 4)
    except ValueError:
        return
    raise AssertionError("3 classes were taken for 4")


def squares_of_a_clip_stay_together(*_: object) -> None:
    """A clip of the training set trains or chooses, with all its squares."""
    found = _splits(made_set(), made_set(("zumba",)))
    names = {name: set(split.ids) for name, split in found.items()}
    assert not names["train"] & names["selection"]
    assert len(found["selection"]) == 3
    assert len(found["train"]) == 9
