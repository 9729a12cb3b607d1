import pytest
import torch

from toto.probe.pca import principal_colours


def test_three_independent_directions_become_red_green_and_blue() -> None:
    red, green, blue = (torch.rand(2, 8, 8) for _ in range(3))
    directions, _ = torch.linalg.qr(torch.randn(16, 3))
    parts = torch.stack([9 * red, 3 * green, blue], dim=-1)
    colours = principal_colours(parts @ directions.T + 5).double()
    for channel, part in enumerate((red, green, blue)):
        pair = torch.stack([colours[..., channel].flatten(), part.flatten().double()])
        assert abs(torch.corrcoef(pair)[0, 1]) > 0.95


def test_colours_use_their_range_and_mean_the_same_in_every_frame() -> None:
    features = torch.randn(1, 6, 6, 8)
    colours = principal_colours(torch.cat([features, features.flip(1)]))
    assert colours.dtype == torch.uint8
    assert torch.equal(colours[0], colours[1].flip(0))
    assert colours.flatten(0, 2).amin(0).tolist() == [0, 0, 0]
    assert colours.flatten(0, 2).amax(0).tolist() == [255, 255, 255]


def test_the_sign_is_that_of_the_heaviest_channel() -> None:
    ramp = torch.linspace(0, 1, 16).view(1, 4, 4, 1)
    features = ramp * torch.tensor([3.0, -1.0, 0.5]) + 1e-3 * torch.randn(1, 4, 4, 3)
    red = principal_colours(features)[..., 0].flatten().int()
    assert red[0] < 10
    assert red[-1] > 245
    mirrored = principal_colours(-features)[..., 0].flatten().int()
    assert mirrored[0] > 245
    assert mirrored[-1] < 10


def test_features_that_do_not_differ_have_one_colour() -> None:
    assert principal_colours(torch.ones(2, 3, 3, 8)).unique(dim=-1).numel() > 0
    assert int(principal_colours(torch.ones(2, 3, 3, 8)).int().max()) == 0


def test_refuses_what_has_no_colours() -> None:
    with pytest.raises(ValueError, match="colours need features of 3 channels or more, got 2"):
        principal_colours(torch.ones(1, 2, 2, 2))
    with pytest.raises(ValueError, match="a feature is not finite"):
        principal_colours(torch.full((1, 2, 2, 4), torch.nan))
