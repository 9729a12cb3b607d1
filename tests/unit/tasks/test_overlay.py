import numpy as np
import pytest

from toto.tasks.overlay import COLOURS, captioned, compared, film, overlay


def test_overlay_tints_outlines_and_lays_out() -> None:
    frames = np.full((3, 6, 8, 3), 100, np.uint8)
    ids = np.zeros((3, 6, 8), np.uint8)
    ids[1, 1:5, 2:6] = 1
    ids[2] = 255
    image = overlay(frames, ids, columns=2, scale=2)
    assert image.shape == (2 * 12 + 2, 2 * 16 + 2, 3)
    assert (image[:12, :16] == 100).all()
    assert (image[14:, :16] == 100).all()
    assert (image[12:14] == 255).all()
    assert (image[14:, 16:] == 255).all()
    second = image[:12, 18:]
    assert (second[2, 4] == COLOURS[0]).all()
    assert (second[5, 7] == 50 + COLOURS[0] // 2).all()
    assert (second[1, 4] == 100).all()


def test_words_stand_above_and_the_picture_stays() -> None:
    picture = np.full((20, 300, 3), 90, np.uint8)
    said = captioned(picture, "found: run, layer 2")
    band = said[:-20]
    assert (said[-20:] == 90).all()
    assert 14 <= len(band) <= 30
    inked = np.flatnonzero((band < 128).all(-1).any(0))
    assert 0 < inked[0] < 15
    assert 80 < inked[-1] < 200
    assert not np.array_equal(band, captioned(picture, "found: run, layer 3")[:-20])


def test_words_shrink_to_a_narrow_picture() -> None:
    said = captioned(np.full((4, 120, 3), 90, np.uint8), "found: " + "many words " * 2)
    inked = np.flatnonzero((said[:-4] < 200).all(-1).any(0))
    assert 60 < inked[-1] < 119


def test_the_two_halves_say_which_they_are() -> None:
    frames = np.full((4, 30, 60, 3), 100, np.uint8)
    found, true = np.zeros((2, 4, 30, 60), np.uint8)
    found[:, 5:10, 5:10], true[:, 15:20, 5:10] = 1, 2
    picture = compared(frames, found, true, "run", columns=4, scale=1)
    upper, lower = np.split(picture, 2)
    assert np.array_equal(upper, captioned(overlay(frames, found, 4, 1), "found: run"))
    assert (lower[-30:] == overlay(frames, true, 4, 1)).all()
    assert (lower[:-30] != upper[:-30]).any()


def test_every_frame_of_a_film_says_it() -> None:
    frames = np.full((3, 30, 60, 3), 100, np.uint8)
    ids = np.ones((3, 30, 60), np.uint8)
    shown = film(frames, ids, "run", scale=2)
    assert shown.shape[0] == 3
    assert np.array_equal(shown[2], captioned(overlay(frames[:1], ids[:1], 1, 2), "found: run"))


def test_overlay_rejects_masks_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"masks \(1, 4, 4\) do not match frames \(1, 4, 5\)"):
        overlay(np.zeros((1, 4, 5, 3), np.uint8), np.zeros((1, 4, 4), np.uint8))
