import base64
import io
import re

import numpy as np
from PIL import Image

from toto.app.drawing import (
    REAL,
    code_colours,
    film,
    glow,
    marked,
    still,
    strip,
    surprise_colours,
)

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)


def picture(html: str) -> np.ndarray:
    data = re.search(r"data:image/png;base64,([^)\"]+)", html)
    assert data
    return np.array(Image.open(io.BytesIO(base64.b64decode(data[1]))))


def test_a_film_is_its_frames_side_by_side() -> None:
    html = film(FRAMES, 'a "film"')
    sheet = picture(html)
    assert sheet.shape == (4, 15, 3)
    for number, frame in enumerate(FRAMES):
        assert (sheet[:, 5 * number : 5 * number + 5] == frame).all()
    assert "steps(3,jump-none)" in html
    assert "background-size:300% 100%" in html
    assert "aspect-ratio:5/4" in html
    assert 'aria-label="a &quot;film&quot;"' in html
    assert "animation" not in film(FRAMES[:1], "one frame")


def test_a_strip_has_clear_gaps() -> None:
    sheet = strip(FRAMES, 2)
    assert sheet.shape == (4, 3 * 5 + 2 * 2, 4)
    assert (sheet[:, :5, :3] == FRAMES[0]).all()
    assert (sheet[:, 14:, :3] == FRAMES[2]).all()
    assert sheet[0, :, 3].tolist() == [255] * 5 + [0] * 2 + [255] * 5 + [0] * 2 + [255] * 5
    assert (picture(still(sheet, "strip")) == sheet).all()


def test_bars_tell_what_was_shown() -> None:
    shown = marked(FRAMES, 2, REAL)
    assert shown.shape == (3, 6, 5, 3)
    assert (shown[:, :4] == FRAMES).all()
    assert np.unique(shown[:2, 4:]).tolist() == [205]
    assert (shown[2, 4:] == REAL).all()


def test_a_code_has_one_colour_in_every_clip() -> None:
    ids = np.arange(8192).reshape(2, 64, 64)
    colours = code_colours(ids)
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) > 8100
    assert (code_colours(ids[:1, 5:6])[0, 0] == colours[0, 5]).all()
    neighbours = colours.reshape(-1, 3).astype(int)
    assert np.abs(np.diff(neighbours, axis=0)).max(1).min() > 30


def test_surprise_is_bright_where_it_is_large() -> None:
    nats = np.linspace(0, 9, 10).reshape(1, 2, 5)
    brightness = surprise_colours(nats, 8.0).astype(int).sum(-1).ravel()
    assert (np.diff(brightness)[:-1] > 0).all()
    assert brightness[-1] == brightness[-2]  # at the limit, and beyond it
    assert brightness[0] < 10


def test_light_is_clear_at_nothing_and_full_at_the_largest_of_all_frames() -> None:
    weights = np.zeros((2, 1, 3))
    weights[0, 0, 1], weights[1, 0, 2] = 0.25, 1.0
    alpha = glow(weights)[..., 3]
    assert alpha.ravel().tolist() == [0, 112, 0, 0, 0, 225]
    assert not glow(np.zeros((1, 2, 2)))[..., 3].any()
