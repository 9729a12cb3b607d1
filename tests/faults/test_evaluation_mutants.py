"""Evaluation is broken in one place after another, and some check must see each.

A mutant is one small change of a function's text. That the text is still there is tested too, or a
mutant would do nothing once the code has moved on.
"""

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_checks import CHECKS, CLIPS, FRAMES, Made, truth
from evaluation_mutants import MUTANTS, Mutant

from made_encoders import saved
from made_grey import of_grey
from made_labelled import LLAMA, write_lost, write_run
from toto.data.records import ClipRecord
from toto.data.shards import write_shard
from toto.data.token_set import write_index
from toto.types import TokenGrid


@contextmanager
def applied(bug: Mutant) -> Iterator[None]:
    """Put the broken function wherever the whole one is."""
    module_name, _, path = bug.where.partition(":")
    module = importlib.import_module(module_name)
    owner_name, _, name = path.rpartition(".")
    owner: Any = getattr(module, owner_name) if owner_name else module
    whole = owner.__dict__[name]
    function = whole.fget if isinstance(whole, property) else getattr(owner, name)
    text = textwrap.dedent(inspect.getsource(function))
    assert text.count(bug.old) == 1, f"{bug.where} has {bug.old!r} {text.count(bug.old)} times"
    made: dict[str, Any] = {}
    exec(text.replace(bug.old, bug.new), module.__dict__, made)
    places = [(owner, name)]
    if not owner_name:
        others = [m for n, m in sys.modules.items() if n.startswith("toto.") and m is not module]
        places += [
            (other, key) for other in others for key, value in vars(other).items() if value is whole
        ]
    for place, key in places:
        setattr(place, key, made[name])
    try:
        yield
    finally:
        for place, key in places:
            setattr(place, key, whole)


def caught_by(made: Made, tmp_path: Path) -> dict[str, str]:
    """The checks that complain, and what of."""
    caught = {}
    for number, (name, check) in enumerate(CHECKS.items()):
        out = tmp_path / str(number)
        out.mkdir()
        torch.manual_seed(0)
        try:
            check(made, out)
        except (AssertionError, ValueError, IndexError, RuntimeError) as error:
            caught[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
    return caught


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("evaluated")
    torch.manual_seed(0)
    write_run(folder / "run", LLAMA)
    saved(folder / "encoder", "vit", hidden_dropout_prob=0.5)
    _write_many(folder / "shards")
    return Made(shards=folder / "shards", run=folder / "run", encoder=folder / "encoder")


def _write_many(folder: Path) -> None:
    clips = []
    for clip in range(CLIPS):
        frame = torch.arange(FRAMES)[:, None, None]
        ids = ((clip + frame) % 16).expand(FRAMES, 4, 4).int()
        record = ClipRecord(
            source=f"made/many#{clip}",
            source_sha256=None,
            frame_indices=tuple(range(FRAMES)),
            times_s=tuple(range(FRAMES)),
            side_px=32,
            crop=(0.5, 0.5),
            labels={"kind": truth(clip)},
        )
        pixels = (clip + frame[..., None]).expand(FRAMES, 32, 32, 3).byte().contiguous()
        clips.append((TokenGrid(ids=ids, vocab_size=16), record, pixels))
    description = of_grey()
    # Two shards, so that what is joined of them is joined in order.
    for number, part in enumerate((clips[:25], clips[25:])):
        write_shard(folder / "made" / "many" / f"{number:05d}", description, part)
    write_index(folder / "made" / "many")
    lost = {
        "gone.mp4": ("missing", "many"),
        "broken.mp4": ("refused", "many"),
        "other.mp4": ("missing", "train"),
    }
    write_lost(folder, lost)


def test_the_checks_find_nothing_in_what_is_whole(made: Made, tmp_path: Path) -> None:
    assert caught_by(made, tmp_path) == {}


def test_there_are_at_least_25() -> None:
    assert len(MUTANTS) >= 25


@pytest.mark.parametrize("name", MUTANTS)
def test_a_bug_in_the_evaluation_is_caught(name: str, made: Made, tmp_path: Path) -> None:
    with applied(MUTANTS[name]):
        caught = caught_by(made, tmp_path)
    assert caught, f"{name}: no check has seen it"
    print(f"{name}: {', '.join(caught)}")
