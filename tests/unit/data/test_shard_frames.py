"""Frames beside the tokens: what was stored is read, and nothing else is needed to read tokens."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import made_shards
import pytest
import torch

from toto.data.layout import Layout, LayoutConfig
from toto.data.loader import Loader
from toto.data.order import Place
from toto.data.shards import Shard, ShardWriter, write_shard

LENGTHS = [4, 2, 7]
HEIGHT_PX, WIDTH_PX = 16, 24


def pixels(number: int, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(256, (frames, HEIGHT_PX, WIDTH_PX, 3), generator=generator).byte()


def write(path: Path, **description: str) -> Shard:
    clips = [(*made_shards.clip(n, length), pixels(n, length)) for n, length in enumerate(LENGTHS)]
    write_shard(path, replace(made_shards.DESCRIPTION, **description), clips)
    return Shard(path, frames=True)


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return write(tmp_path / "made")


def test_frames_are_read_as_they_were_written(shard: Shard) -> None:
    for number, length in enumerate(LENGTHS):
        assert torch.equal(shard.pixels(number, 0, length), pixels(number, length))
        assert torch.equal(shard.window(number, 0, length), made_shards.clip(number, length)[0].ids)
    assert torch.equal(shard.pixels(2, 3, 2), pixels(2, 7)[3:5])


def test_the_file_is_flat_bytes_in_order(shard: Shard) -> None:
    expected = torch.cat([pixels(number, length) for number, length in enumerate(LENGTHS)])
    assert (shard.path / "frames.bin").read_bytes() == expected.numpy().tobytes()


def test_part_of_a_clip_is_stored_as_that_part(tmp_path: Path) -> None:
    grid, record = made_shards.clip(0, 3)
    with ShardWriter(tmp_path / "part", made_shards.DESCRIPTION) as writer:
        writer.add(grid, record, pixels(0, 9)[2:8:2])
        writer.commit()
    found = Shard(tmp_path / "part", frames=True).pixels(0, 0, 3)
    assert torch.equal(found, pixels(0, 9)[2:8:2])


def test_frames_must_be_there_even_if_they_are_not_read(shard: Shard) -> None:
    (shard.path / "frames.bin").unlink()
    for frames in (False, True):
        with pytest.raises(
            ValueError, match=r"frames\.bin has 0 bytes, its sidecar promises 14976"
        ):
            Shard(shard.path, frames=frames)
    cached = Shard(shard.path, whole=False)
    assert torch.equal(cached.window(0, 0, 4), made_shards.clip(0, 4)[0].ids)


def test_a_shard_without_frames_says_how_to_keep_them(tmp_path: Path) -> None:
    path = made_shards.shard(tmp_path / "bare", [3]).path
    assert not (path / "frames.bin").exists()
    with pytest.raises(ValueError, match=r"bare keeps no frames.*again with --keep-frames"):
        Shard(path, frames=True)


def test_a_changed_byte_is_found(shard: Shard) -> None:
    file = shard.path / "frames.bin"
    data = bytearray(file.read_bytes())
    data[1234] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"frames\.bin is damaged: its sha256 is not the sidecar"):
        Shard(shard.path, frames=True)
    assert Shard(shard.path, frames=True, verify=False).description == made_shards.DESCRIPTION
    file.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"frames\.bin has 14975 bytes, its sidecar promises 149"):
        Shard(shard.path, frames=True, verify=False)


@pytest.mark.parametrize("frames", [(-1, 2), (3, 2), (0, 5)])
def test_rejects_frames_that_leave_their_clip(shard: Shard, frames: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"clip-0: frames {frames[0]}\.\.{sum(frames) - 1} of 4"):
        shard.pixels(0, *frames)


@pytest.mark.parametrize("first", [True, False])
def test_refuses_frames_of_some_clips_only(tmp_path: Path, first: bool) -> None:
    frames = [pixels(0, 2), None] if first else [None, pixels(0, 2)]
    clips = [(*made_shards.clip(number, 2), kept) for number, kept in enumerate(frames)]
    with pytest.raises(ValueError, match="clip-1: a shard keeps the frames of all its clips or no"):
        write_shard(tmp_path / "half", made_shards.DESCRIPTION, clips)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda frames: frames[:1], r"torch\.uint8 \(1, 16, 24, 3\)"),
        (lambda frames: frames[:, :8], r"torch\.uint8 \(2, 8, 24, 3\)"),
        (lambda frames: frames.float(), r"torch\.float32 \(2, 16, 24, 3\)"),
    ],
)
def test_refuses_frames_that_are_not_the_tokens(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], got: str
) -> None:
    bad = (*made_shards.clip(0, 2), change(pixels(0, 2)))
    with pytest.raises(ValueError, match=rf"clip-0: frames {got} beside tokens of u8 \(2, 16, 24"):
        write_shard(tmp_path / "bad", made_shards.DESCRIPTION, [bad])
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_is_left_without_commit_leaves_nothing(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "left", made_shards.DESCRIPTION) as writer:
        writer.add(*made_shards.clip(0, 2), pixels(0, 2))
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def layout(*, codes: int = made_shards.CODES, frame_tokens: int = 6) -> Layout:
    return Layout(LayoutConfig(frames=2), codes=codes, frame_tokens=frame_tokens)


# Windows of a video: clip 0 has 3, clip 1 one, clip 2 six. Images are counted one by one: 6 and 7
# are the first two of clip 2.
PLACES = [
    Place(source=0, items=(1,)),
    Place(source=1, items=(6, 7)),
    Place(source=0, items=(8,)),
]


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    return [write(tmp_path / "videos"), write(tmp_path / "images", kind="images")]


def test_a_batch_carries_the_frames_of_its_codes(shards: list[Shard]) -> None:
    codes = Loader(shards, [1, 1], layout(), seed=0).batch(PLACES)
    both = Loader(shards, [1, 1], layout(), seed=0, reads="both").batch(PLACES)
    assert codes.frames is None
    assert torch.equal(both.ids, codes.ids)
    expected = [pixels(0, 4)[1:3], pixels(2, 7)[0:2], pixels(2, 7)[4:6]]
    assert both.frames is not None
    assert torch.equal(both.frames, torch.stack(expected))


def test_frames_alone_have_a_grid_of_their_own(shards: list[Shard]) -> None:
    """Patches of 4 px: 4 x 6 places, where the tokens have 2 x 3."""
    other = layout(codes=1, frame_tokens=24)
    batch = Loader(shards, [1, 1], other, seed=0, reads="frames").batch(PLACES)
    both = Loader(shards, [1, 1], layout(), seed=0, reads="both").batch(PLACES)
    assert batch.ids.shape == (3, 2 * 24 + 2)
    assert not batch.ids[:, 1:-1].any()
    assert batch.ids[:, 0].tolist() == [other.video_start, other.image_start, other.video_start]
    assert batch.ids[:, -1].tolist() == [other.end] * 3
    assert batch.frames is not None
    assert both.frames is not None
    assert torch.equal(batch.frames, both.frames)
