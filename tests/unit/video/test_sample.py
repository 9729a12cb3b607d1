import numpy as np
import pytest

from toto.video.sample import clip_times, strided_indices


def test_a_stride_is_exact() -> None:
    assert strided_indices(64, 16, 4).tolist() == list(range(0, 64, 4))
    assert strided_indices(62, 16, 4, start=1).tolist() == list(range(1, 62, 4))
    assert strided_indices(1, 1).tolist() == [0]


def test_a_video_that_is_too_short_says_by_how_much() -> None:
    with pytest.raises(
        ValueError,
        match="16 frames at stride 4 from frame 1 need a video of 62 frames, this one has 61",
    ):
        strided_indices(61, 16, 4, start=1)


@pytest.mark.parametrize("arguments", [(9, 0, 1, 0), (9, 1, 0, 0), (9, 1, 1, -1)])
def test_senseless_indices_are_refused(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="frames and stride must be at least 1 and start at least"):
        strided_indices(*arguments)


@pytest.mark.parametrize("start", [0.0, 0.5, 1.0])
def test_moments_are_evenly_spaced_and_within_the_video(start: float) -> None:
    times_s = clip_times(10.1, 16, 7.5, start=start)
    np.testing.assert_allclose(np.diff(times_s), 1 / 7.5)
    assert times_s[0] == pytest.approx(start * (10.1 - 2.0))
    assert times_s[0] >= 0
    assert times_s[-1] <= 10.1


def test_a_clip_longer_than_its_video_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a clip of 2\.000 s does not fit a video of 1\.900 s"):
        clip_times(1.9, 16, 7.5)
    with pytest.raises(ValueError, match=r"start in \[0, 1\], got frames 16, fps 7.5, start 1.1"):
        clip_times(9.0, 16, 7.5, start=1.1)
