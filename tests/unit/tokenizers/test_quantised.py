"""The nearest code, and bytes to pixels and back: what every tokenizer with a codebook shares."""

import pytest
import torch

from toto.tokenizers import quantised
from toto.tokenizers.quantised import nearest, signed, unsigned


@pytest.mark.parametrize("width", [1, 4, 16])
def test_the_nearest_is_that_of_all_distances(width: int) -> None:
    vectors, codes = torch.randn(300, width), torch.randn(70, width)
    # In fp64: fp32 may choose the other of two codes that are equally far to its last digit.
    distances = torch.cdist(vectors.double(), codes.double())
    assert torch.equal(nearest(vectors.double(), codes.double()), distances.argmin(1))
    chosen = distances.gather(1, nearest(vectors, codes)[:, None])[:, 0]
    torch.testing.assert_close(chosen, distances.amin(1), rtol=1e-6, atol=1e-5)


def test_of_equal_codes_the_first_is_named() -> None:
    codes = torch.tensor([[5.0, 5.0], [1.0, 2.0], [3.0, 0.0], [1.0, 2.0], [1.0, 2.0]])
    assert nearest(torch.tensor([[1.0, 2.0], [1.5, 2.0], [3.0, 0.1]]), codes).tolist() == [1, 1, 2]
    # As far from the one as from the other.
    assert nearest(torch.tensor([[1.0]]), torch.tensor([[2.0], [0.0]])).tolist() == [0]


def test_how_many_are_compared_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, codes = torch.randn(50, 4), torch.randn(20, 4)
    whole = nearest(vectors, codes)
    for rows in (1, 7, 49, 50, 51):
        monkeypatch.setattr(quantised, "NEAREST_ROWS", rows)
        assert torch.equal(nearest(vectors, codes), whole), rows


def test_bytes_become_pixels_and_come_back() -> None:
    frames = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(1, 1, 1, 3)
    frames[..., 1] = frames[..., 1].flip(1)
    pixels = signed(frames)
    assert pixels.shape == (1, 3, 16, 16)
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([-1, 240 / 127.5 - 1, -1])
    assert torch.equal(unsigned(pixels), frames)


def test_pixels_beyond_the_range_are_clamped() -> None:
    pixels = torch.tensor([-7.0, -1.0, 0.0, 1.0, 9.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert unsigned(pixels)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
