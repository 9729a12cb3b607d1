import numpy as np
import pytest
import torch

from toto.tasks.ledger import Views
from toto.tasks.views import average_views, crop_shares, view_indices


def slowfast_start(video: int, clip: int, clips: int, clip_frames: int) -> float:
    """Where SlowFast's clip begins, by its published rule."""
    return max(video - clip_frames, 0) * clip / clips


@pytest.mark.parametrize("count", [64, 65, 97, 250, 300])
def test_ten_clips_begin_where_those_of_slowfast_do(count: int) -> None:
    for clip in range(10):
        indices = view_indices(count, 16, 4, clip=clip, clips=10)
        assert indices[0] == int(slowfast_start(count, clip, 10, 64))
        assert (np.diff(indices) == 4).all()
        assert indices[-1] < count


def test_one_clip_stands_in_the_middle() -> None:
    assert view_indices(300, 16, 4, clip=0, clips=1).tolist() == list(range(118, 182, 4))
    assert view_indices(64, 16, 4, clip=0, clips=1).tolist() == list(range(0, 64, 4))


def test_a_short_video_repeats_its_last_frame() -> None:
    for clip in range(3):
        assert view_indices(6, 4, 4, clip=clip, clips=3).tolist() == [0, 4, 5, 5]


@pytest.mark.parametrize(("count", "clip"), [(0, 0), (10, 3), (10, -1)])
def test_refuses_what_is_not_there(count: int, clip: int) -> None:
    with pytest.raises(ValueError, match=f"clip {clip} of 3, 4 frames at stride 2 of a video"):
        view_indices(count, 4, 2, clip=clip, clips=3)


def test_crops_stand_at_both_ends_and_in_the_middle() -> None:
    assert crop_shares(3) == (0.0, 0.5, 1.0)
    assert crop_shares(1) == (0.5,)
    with pytest.raises(ValueError, match="5 crops; there are 1, the middle, and 3"):
        crop_shares(5)


def test_probabilities_are_averaged_and_not_scores() -> None:
    # One view is very sure of class 1, two lean to class 0: the mean of the scores says 1.
    scores = torch.tensor([[[2.0, 0.0]], [[2.0, 0.0]], [[0.0, 9.0]]])
    assert scores.mean(0).argmax(-1).item() == 1
    found = average_views(scores)
    assert found.argmax(-1).item() == 0
    expected = np.mean([np.exp(s) / np.exp(s).sum() for s in scores[:, 0].double().numpy()], 0)
    torch.testing.assert_close(found[0].double(), torch.from_numpy(expected), rtol=1e-6, atol=1e-7)


def test_views_say_how_many_they_are() -> None:
    assert str(Views(temporal=10, spatial=3)) == "10x3"
    with pytest.raises(ValueError, match="0 clips in time; there must be at least 1"):
        Views(temporal=0)
    with pytest.raises(ValueError, match="2 crops; there are 1, the middle, and 3"):
        Views(spatial=2)


@pytest.mark.parametrize("count", [61, 64, 65, 97, 250, 297, 300])
def test_views_of_kept_frames_begin_near_those_of_slowfast(count: int) -> None:
    kept, stride, frames = -(-count // 4), 4, 16
    for clip in range(10):
        start = stride * int(view_indices(kept, frames, 1, clip=clip, clips=10)[0])
        assert abs(start - slowfast_start(count, clip, 10, 64)) < stride
        assert start + stride * (frames - 1) < count
