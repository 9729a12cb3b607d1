import numpy as np
import pytest

from toto.tasks.forecasting import COPY, FORECAST, MEASURES, best_of, curve, curves, verdict

PSNR, LPIPS = MEASURES["psnr_db"], MEASURES["lpips_alex"]


def test_a_curve_is_over_clips_and_futures() -> None:
    values_NRF = np.array([[[1.0, 10.0], [3.0, 10.0]], [[5.0, 20.0], [9.0, 40.0]]])
    found = curve(values_NRF)
    assert found.mean == (4.5, 20.0)
    # Clips' means are 2 and 7, then 10 and 30.
    assert found.deviation == pytest.approx((5 / 2**0.5, 20 / 2**0.5))
    # Variances among futures: 2 and 8, then 0 and 200.
    assert found.deviation_of_futures == pytest.approx((5**0.5, 10.0))
    alone = curve(values_NRF[:1, :1])
    assert (alone.deviation, alone.deviation_of_futures) == (None, None)


@pytest.mark.parametrize(("measure", "expected"), [(PSNR, (5.0, 1.0)), (LPIPS, (1.0, 6.0))])
def test_the_best_future_is_one_future_of_each_clip(measure, expected) -> None:
    # The mean over all frames decides, so that the best of every frame alone is not taken.
    values_NRF = np.array([[[1.0, 4.0], [5.0, 1.0]], [[5.0, 1.0], [1.0, 8.0]]])
    if measure is PSNR:
        values_NRF[1] = [[5.0, 1.0], [1.0, 4.0]]
    else:
        values_NRF[1] = [[1.0, 8.0], [5.0, 9.0]]
    measured = {FORECAST: values_NRF, COPY: np.zeros((2, 1, 2))}
    found = curves(measured, measure)
    assert list(found) == [FORECAST, COPY, best_of(2)]
    assert found["best of 2"].mean == expected
    assert found["best of 2"].deviation_of_futures is None
    assert best_of(1) not in curves({FORECAST: values_NRF[:, :1]}, measure)


def told(gains: list[float], spread: float = 0.0, clips: int = 4) -> dict[str, np.ndarray]:
    """Forecasts that are so much above repeating the last frame, give or take over the clips."""
    wobble = spread * np.resize([1.0, -1.0], clips)[:, None, None]
    copy = np.full((clips, 1, len(gains)), 20.0)
    return {FORECAST: copy + np.array(gains) + wobble, COPY: copy}


@pytest.mark.parametrize(
    ("gains", "better", "worse", "words"),
    [
        ([1, 1, 1], (1, 2, 3), (), "better at every frame (+1.0 dB at frame 1, +1.0 dB at frame 3"),
        ([-1, -1, -2], (), (1, 2, 3), "worse at every frame (-1.0 dB at frame 1, -2.0 dB at frame"),
        ([0, 0], (), (), "not clearly better at every frame (+0.0 dB at frame 1"),
        ([-1, -1, 1, 1], (3, 4), (1, 2), "worse up to frame 2 and better from frame 3 on ("),
        (
            [-1, 0, 1, 1, -1],
            (3, 4),
            (1, 5),
            "worse at frame 1, not clearly better at frame 2, better at frames 3 to 4 and worse at "
            "frame 5 (",
        ),
        ([1], (1,), (), "better at the one frame (+1.0 dB at frame 1; mean of 4 clips"),
    ],
)
def test_the_sentence_follows_from_the_numbers(
    gains: list[float], better: tuple[int, ...], worse: tuple[int, ...], words: str
) -> None:
    found = verdict(told(gains), PSNR)
    assert (found.better, found.worse) == (better, worse)
    assert f"By PSNR, against repeating the last frame, the forecast is {words}" in found.sentence
    # A distance is better where it is lower.
    turned = verdict(told([-gain for gain in gains]), LPIPS)
    assert (turned.better, turned.worse) == (better, worse)
    assert f"({-gains[0]:+.2f} at frame 1" in turned.sentence


def test_a_lead_must_exceed_twice_its_standard_error_and_a_lag_need_not() -> None:
    # Four clips at +-s about the mean: the standard error is s / sqrt(3).
    spread = 3**0.5
    assert verdict(told([2.01], spread), PSNR).better == (1,)
    found = verdict(told([1.99], spread), PSNR)
    assert (found.better, found.worse) == ((), ())
    assert found.sentence.endswith("; mean of 4 clips, better only beyond 2 standard errors).")
    assert verdict(told([-0.01], spread), PSNR).worse == (1,)


def test_clips_are_compared_with_themselves() -> None:
    """Clips that differ by far more than the methods do must not hide the difference."""
    measured = told([0.1])
    for values in measured.values():
        values += np.array([0.0, 10.0, -10.0, 5.0])[:, None, None]
    assert verdict(measured, PSNR).better == (1,)


def test_one_clip_is_said_to_be_one() -> None:
    found = verdict(told([-0.1, 0.1], clips=1), PSNR)
    assert (found.better, found.worse) == ((2,), (1,))
    assert "; one clip, so nothing says how far that holds)" in found.sentence


def test_the_forecast_is_the_mean_of_its_futures() -> None:
    measured = told([0.0], clips=3)
    measured[FORECAST] = measured[FORECAST] + np.array([5.0, -6.0])[:, None]
    assert verdict(measured, PSNR).worse == (1,)
