import pytest
import torch

from toto.types import Batch, Clip, TokenGrid


def clip(times: list[float], frames: int) -> Clip:
    return Clip(
        frames=torch.zeros(frames, 4, 4, 3, dtype=torch.uint8),
        times_s=torch.tensor(times, dtype=torch.float64),
        source="a.mp4",
    )


def test_a_clip_says_what_it_is() -> None:
    assert repr(clip([0.0, 0.1], 2)) == "Clip('a.mp4', frames=(2, 4, 4, 3))"


@pytest.mark.parametrize(("times", "frames"), [([0.0], 2), ([0.0, 1.0], 1), ([], 0)])
def test_rejects_a_clip_of_other_counts_or_none(times: list[float], frames: int) -> None:
    with pytest.raises(ValueError, match=f"a.mp4: {frames} frames, {len(times)} times"):
        clip(times, frames)


@pytest.mark.parametrize("times", [[0.0, 0.0], [1.0, 0.5], [0.0, float("nan")]])
def test_rejects_times_that_do_not_increase(times: list[float]) -> None:
    with pytest.raises(ValueError, match=r"a\.mp4: frame times do not increase"):
        clip(times, 2)


@pytest.mark.parametrize("ids", [[[[-1, 3]]], [[[0, 8]]]])
def test_rejects_ids_outside_the_vocabulary(ids: list[list[list[int]]]) -> None:
    with pytest.raises(ValueError, match=r"token ids -?\d\.\.\d lie outside a vocabulary of 8"):
        TokenGrid(ids=torch.tensor(ids, dtype=torch.int32), vocab_size=8)


@pytest.mark.parametrize("shape", [(2, 2), (0, 2, 2), (1, 1, 2, 2)])
def test_rejects_what_is_no_grid(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a token grid is \[T Y X\], got shape"):
        TokenGrid(ids=torch.zeros(shape, dtype=torch.int32), vocab_size=8)


def test_a_grid_says_what_it_is() -> None:
    grid = TokenGrid(ids=torch.tensor([[[0, 7]]], dtype=torch.int32), vocab_size=8)
    assert repr(grid) == "TokenGrid(ids=(1, 1, 2), vocab_size=8)"


@pytest.mark.parametrize("shape", [(2, 5), (1, 4), (2, 3)])
def test_rejects_weights_that_are_not_of_the_targets(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="2 x 5 ids need 2 x 4 weights, got"):
        Batch(ids=torch.zeros(2, 5, dtype=torch.long), weight=torch.ones(shape))


def test_a_batch_says_what_it_is() -> None:
    batch = Batch(ids=torch.zeros(2, 5, dtype=torch.long), weight=torch.ones(2, 4))
    assert repr(batch) == "Batch(ids=(2, 5))"


def test_rejects_frames_that_are_not_of_the_sequences() -> None:
    with pytest.raises(ValueError, match="2 sequences of ids come with frames of 3"):
        Batch(
            ids=torch.zeros(2, 5, dtype=torch.long),
            weight=torch.ones(2, 4),
            frames=torch.zeros(3, 1, 8, 8, 3, dtype=torch.uint8),
        )
