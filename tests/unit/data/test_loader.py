from itertools import islice
from pathlib import Path

import made_shards
import pytest
import torch

from toto.data.layout import Layout, LayoutConfig
from toto.data.loader import Loader
from toto.data.order import Place

FRAMES, BATCH = 2, 24
S = made_shards.GRID[0] * made_shards.GRID[1]


def layout(frames: int = FRAMES) -> Layout:
    return Layout(LayoutConfig(frames=frames), codes=made_shards.CODES, frame_tokens=S)


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    shards = [
        made_shards.shard(tmp_path / "videos", [5, 1, 9, 4]),
        made_shards.shard(tmp_path / "images", [2, 2, 3], kind="images"),
    ]
    return Loader(shards, [0.75, 0.25], layout(), seed=5)


def ids(
    loader: Loader,
    steps: int,
    *,
    first_step: int = 0,
    accumulate: int = 1,
    rank: int = 0,
    world: int = 1,
) -> list[torch.Tensor]:
    batches = loader.batches(
        batch=BATCH, first_step=first_step, accumulate=accumulate, rank=rank, world=world
    )
    return [batch.ids for batch in islice(batches, steps * accumulate)]


def test_a_batch_holds_the_windows_that_were_asked_for(loader: Loader) -> None:
    # Windows of the videos: clip 0 has 4, clip 1 none, clip 2 eight.
    batch = loader.batch(
        [Place(source=0, window=3), Place(source=0, window=5), Place(source=1, window=0)]
    )
    videos, images = loader.shards
    expected = [
        loader.layout.sequence(videos.window(0, 3, FRAMES)),
        loader.layout.sequence(videos.window(2, 1, FRAMES)),
        loader.layout.sequence(images.window(0, 0, FRAMES), "images"),
    ]
    assert torch.equal(batch.ids, torch.stack(expected))
    assert torch.equal(batch.weight, torch.ones(3, loader.layout.length - 1))


def test_batches_follow_the_order(loader: Loader) -> None:
    for step, batch in enumerate(ids(loader, 3)):
        assert torch.equal(batch, loader.batch(loader.order.step(step, batch=BATCH)).ids)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 8])
def test_the_ranks_see_the_global_batch_together(loader: Loader, world: int) -> None:
    shares = [ids(loader, 3, rank=rank, world=world) for rank in range(world)]
    for step, whole in enumerate(ids(loader, 3)):
        assert torch.equal(torch.cat([share[step] for share in shares]), whole)


@pytest.mark.parametrize("accumulate", [2, 4, 12])
def test_parts_are_the_batch_together(loader: Loader, accumulate: int) -> None:
    parts = ids(loader, 2, accumulate=accumulate, rank=1, world=2)
    wholes = ids(loader, 2, rank=1, world=2)
    assert torch.equal(torch.cat(parts), torch.cat(wholes))
    assert {len(part) for part in parts} == {BATCH // 2 // accumulate}


@pytest.mark.parametrize("first_step", [1, 2, 5])
def test_a_resumed_run_sees_what_an_unbroken_one_sees(loader: Loader, first_step: int) -> None:
    unbroken = ids(loader, 6)
    resumed = ids(loader, 6 - first_step, first_step=first_step)
    assert torch.equal(torch.cat(resumed), torch.cat(unbroken[first_step:]))


def test_a_sweep_reads_disjoint_windows_once(loader: Loader) -> None:
    videos = loader.shards[0]
    expected = [
        loader.layout.sequence(videos.window(clip, start, FRAMES))
        for clip, start in [(0, 0), (0, 2), (2, 0), (2, 2), (2, 4), (2, 6), (3, 0), (3, 2)]
    ]
    batches = [batch.ids for batch in loader.sweep(0, batch=3, limit=100)]
    assert [len(batch) for batch in batches] == [3, 3, 2]
    assert torch.equal(torch.cat(batches), torch.stack(expected))
    limited = torch.cat([batch.ids for batch in loader.sweep(0, batch=3, limit=5)])
    assert torch.equal(limited, torch.stack(expected[:5]))


def test_says_which_shard_has_no_clip_long_enough(tmp_path: Path) -> None:
    shard = made_shards.shard(tmp_path / "short", [3, 2])
    with pytest.raises(ValueError, match=r"short: no clip has 4 frames; choose fewer frames"):
        Loader([shard], [1.0], layout(4), seed=0)


@pytest.mark.parametrize(("world", "accumulate"), [(5, 1), (1, 7), (4, 4)])
def test_rejects_a_batch_that_does_not_divide(loader: Loader, world: int, accumulate: int) -> None:
    with pytest.raises(
        ValueError,
        match=f"a batch of 24 does not divide into {world} ranks x {accumulate} parts",
    ):
        ids(loader, 1, world=world, accumulate=accumulate)
