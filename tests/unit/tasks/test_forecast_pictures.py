import numpy as np
import pytest

from toto.tasks.forecast_pictures import film, heat_overlay, shown_frames, strip


def frames(count: int, value: int = 100) -> np.ndarray:
    return np.full((count, 8, 8, 3), value, np.uint8)


def test_heat_grows_lighter_with_the_value_and_stays_within_its_patch() -> None:
    values = np.array([[[0.0, 1.0], [2.0, np.nan]]])
    drawn = heat_overlay(frames(1), values, most=2.0)[0].astype(int)
    low, middle, high = (drawn[y, x].sum() for y, x in ((0, 0), (0, 4), (4, 0)))
    assert low < middle < high
    assert (drawn[:4, :4] == drawn[0, 0]).all()
    assert (drawn[:4, 4:] == drawn[0, 4]).all()
    # Nothing is known of the last patch.
    assert (drawn[4:, 4:] == 100).all()
    beyond = heat_overlay(frames(1), values * 5, most=2.0)[0]
    assert (beyond[4:, :4] == drawn[4:, :4]).all()


def test_heat_leaves_the_frame_to_be_seen() -> None:
    clip = frames(2, 0)
    clip[0, :, :4] = 255
    drawn = heat_overlay(clip, np.zeros((2, 2, 2)), most=1.0)
    assert drawn[0, 0, 0].sum() > drawn[0, 0, 7].sum() + 200


def test_heat_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"values \(1, 3, 2\) do not fit frames \(1, 8, 8, 3\)"):
        heat_overlay(frames(1), np.zeros((1, 3, 2)), most=1.0)


@pytest.mark.parametrize(
    ("prompt", "ahead", "columns", "expected"),
    [
        (4, 4, 9, [0, 1, 2, 3, 4, 5, 6, 7]),
        (16, 48, 9, [15, 16, 23, 29, 36, 43, 50, 56, 63]),
        (16, 2, 9, [9, 10, 11, 12, 13, 14, 15, 16, 17]),
        (1, 8, 3, [0, 1, 8]),
    ],
)
def test_a_strip_shows_the_last_given_and_the_first_and_last_forecast_frame(
    prompt: int, ahead: int, columns: int, expected: list[int]
) -> None:
    assert shown_frames(prompt, ahead, columns) == expected


def test_a_strip_has_its_rows_in_order_and_a_scale_when_there_is_heat() -> None:
    red, blue = np.array([200, 0, 0], np.uint8), np.array([0, 0, 200], np.uint8)
    rows = {"real": frames(3, 0) + red, "future 1": frames(3, 0) + blue}
    plain = strip(rows, prompt=1, shown=[0, 1, 2], scale=4)
    places = [(plain == colour).all(-1) for colour in (red, blue)]
    assert [int(place.sum()) for place in places] == [3 * 32 * 32] * 2
    assert places[0].nonzero()[0].max() < places[1].nonzero()[0].min()
    # What was given and what was forecast stand apart.
    gaps = np.diff(np.unique(places[0].nonzero()[1]))
    assert gaps[gaps > 1].tolist() == [17, 5]
    scaled = strip(rows, prompt=1, shown=[0, 1, 2], scale=4, most_nats=9.0)
    assert scaled.shape[0] == plain.shape[0] + 60
    assert len(np.unique(scaled[-60:].reshape(-1, 3), axis=0)) > 30


def test_a_film_marks_what_was_forecast() -> None:
    drawn = film([frames(3), frames(3)], prompt=2, scale=1)
    assert drawn.shape == (3, 12, 20, 3)
    assert [bool((shown == (0, 114, 178)).all(-1).any()) for shown in drawn] == [False, False, True]
