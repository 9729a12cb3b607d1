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
    # Images: clips 0 and 1 are two each, clip 2 three.
    batch = loader.batch(
        [
            Place(source=0, items=(3,)),
            Place(source=1, items=(6, 1)),
            Place(source=0, items=(5,)),
            Place(source=1, items=(2, 2)),
        ]
    )
    videos, images = loader.shards
    expected = [
        loader.layout.sequence(videos.window(0, 3, FRAMES)),
        loader.layout.sequence(
            torch.cat([images.window(2, 2, 1), images.window(0, 1, 1)]), "images"
        ),
        loader.layout.sequence(videos.window(2, 1, FRAMES)),
        loader.layout.sequence(images.window(1, 0, 1).expand(2, -1, -1), "images"),
    ]
    assert torch.equal(batch.ids, torch.stack(expected))
    assert torch.equal(batch.weight, torch.ones(4, loader.layout.length - 1))
    assert batch.frames is None


def test_a_sequence_of_images_takes_16_from_all_of_them(tmp_path: Path) -> None:
    """40 images of one frame each: five sequences are two readings, and the third has the seam."""
    shard = made_shards.shard(tmp_path / "images", [1] * 40, kind="images")
    loader = Loader([shard], [1.0], layout(16), seed=0)
    stored = torch.cat([shard.window(clip, 0, 1) for clip in range(40)])
    ids = torch.cat([batch.ids for batch in islice(loader.batches(batch=1), 5)])
    assert ids[:, 0].tolist() == [loader.layout.image_start] * 5
    read = ids[:, 1:-1].unflatten(1, (16, *made_shards.GRID)).flatten(0, 1)
    same = (read[:, None] == stored).flatten(2).all(2)
    assert same.sum(1).tolist() == [1] * 80
    numbers = same.int().argmax(1)
    for reading in (numbers[:40], numbers[40:]):
        assert sorted(reading.tolist()) == list(range(40))
        assert reading.tolist() != list(range(40))


def test_shards_of_a_set_are_read_as_one_shard(tmp_path: Path) -> None:
    whole = [
        made_shards.shard(tmp_path / "video", [5, 1, 9, 4, 3]),
        made_shards.shard(tmp_path / "image", [2, 2, 3], kind="images"),
    ]
    parts = [
        made_shards.token_set(tmp_path / "videos", [[5, 1], [9], [4, 3]]),
        made_shards.token_set(tmp_path / "images", [[2], [2, 3]], kind="images"),
    ]
    one, other = (Loader(shards, [0.75, 0.25], layout(), seed=5) for shards in (whole, parts))
    assert torch.equal(torch.stack(ids(one, 4)), torch.stack(ids(other, 4)))
    for source in (0, 1):
        ours, theirs = (
            torch.cat([batch.ids for batch in loader.sweep(source, batch=3, limit=100)])
            for loader in (one, other)
        )
        assert torch.equal(ours, theirs)


def test_a_hop_leaves_out_the_starts_between(tmp_path: Path) -> None:
    shard = made_shards.shard(tmp_path / "videos", [5, 1, 9, 4])
    for hop, starts in [
        (1, [(0, 4), (2, 8), (3, 3)]),
        (2, [(0, 2), (2, 4), (3, 2)]),
        (3, [(0, 2), (2, 3), (3, 1)]),
    ]:
        loader = Loader([shard], [1.0], layout(), seed=0, hop=hop)
        expected = [
            loader.layout.sequence(shard.window(clip, hop * number, FRAMES))
            for clip, count in starts
            for number in range(count)
        ]
        places = [Place(source=0, items=(number,)) for number in range(len(expected))]
        assert torch.equal(loader.batch(places).ids, torch.stack(expected))
        drawn = [loader.order[number].items[0] for number in range(len(expected))]
        assert sorted(drawn) == list(range(len(expected)))


def test_images_have_no_hop(tmp_path: Path) -> None:
    shard = made_shards.shard(tmp_path / "images", [3, 1], kind="images")
    loader = Loader([shard], [1.0], layout(), seed=0, hop=2)
    assert sorted(item for n in range(2) for item in loader.order[n].items) == [0, 1, 2, 3]


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


def test_a_sweep_of_images_takes_them_in_a_row(loader: Loader) -> None:
    images = loader.shards[1]
    stored = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]  # the seventh fills no sequence
    frames = torch.cat([images.window(clip, start, 1) for clip, start in stored])
    pairs = frames.unflatten(0, (3, 2))
    expected = torch.stack([loader.layout.sequence(pair, "images") for pair in pairs])
    batches = [batch.ids for batch in loader.sweep(1, batch=2, limit=100)]
    assert [len(batch) for batch in batches] == [2, 1]
    assert torch.equal(torch.cat(batches), expected)
    limited = [batch.ids for batch in loader.sweep(1, batch=2, limit=1)]
    assert torch.equal(torch.cat(limited), expected[:1])


def test_a_sweep_does_not_depend_on_the_hop(loader: Loader) -> None:
    hopping = Loader(loader.shards, [0.75, 0.25], loader.layout, seed=5, hop=3)
    for source in (0, 1):
        ours, theirs = (
            torch.cat([batch.ids for batch in one.sweep(source, batch=3, limit=100)])
            for one in (hopping, loader)
        )
        assert torch.equal(ours, theirs)


def test_says_which_shard_has_too_few_images(tmp_path: Path) -> None:
    shard = made_shards.shard(tmp_path / "few", [1, 1, 1], kind="images")
    with pytest.raises(
        ValueError, match=r"few: 3 images do not fill a sequence of 4; choose fewer"
    ):
        Loader([shard], [1.0], layout(4), seed=0)


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
