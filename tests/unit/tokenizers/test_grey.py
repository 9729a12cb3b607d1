import pytest
import torch

from toto.tokenizers import Grey, GreyConfig


def frame(colours: list[list[tuple[int, int, int]]], side: int = 8) -> torch.Tensor:
    """One frame with a patch of each colour."""
    small = torch.tensor(colours, dtype=torch.uint8)
    return small.repeat_interleave(side, 0).repeat_interleave(side, 1)[None]


def test_ids_by_hand() -> None:
    """0.299 R + 0.587 G + 0.114 B, in 16 steps of 16."""
    colours = [[(0, 0, 0), (255, 255, 255), (17, 17, 17)], [(255, 0, 0), (0, 255, 0), (0, 0, 255)]]
    # Grey 76.2, 149.7 and 29.1 in the second row.
    assert Grey().encode(frame(colours)).tolist() == [[[0, 15, 1], [4, 9, 1]]]


def test_an_id_is_of_the_patch_mean() -> None:
    frames = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    frames[:, :4] = 200  # half of the patch: the mean is 100
    assert Grey().encode(frames).tolist() == [[[6]]]


def test_a_code_is_drawn_as_the_middle_of_its_step() -> None:
    drawn = Grey(GreyConfig(patch_px=2)).decode(torch.tensor([[[0, 5, 15]]], dtype=torch.int32))
    row = [8, 8, 88, 88, 248, 248]
    assert drawn.tolist() == [[[[v] * 3 for v in row]] * 2]


@pytest.mark.parametrize("levels", [2, 16, 33, 64, 200, 255, 256])
def test_a_grey_frame_survives_to_half_a_step(levels: int) -> None:
    grey = Grey(GreyConfig(levels=levels, patch_px=4))
    greys = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(-1, 4, 4, 3)
    ids = grey.encode(greys.contiguous())
    drawn = grey.decode(ids)
    assert ids.flatten().tolist() == [value * levels // 256 for value in range(256)]
    assert (drawn.int() - greys.int()).abs().max() <= 128 / levels + 0.5
    assert torch.equal(grey.encode(drawn), ids)  # what was drawn reads as it was
    assert len(ids.unique()) == levels


def test_the_digest_is_of_the_config() -> None:
    assert Grey().digest() == Grey(GreyConfig()).digest()
    digests = {Grey(c).digest() for c in (GreyConfig(), GreyConfig(patch_px=4))}
    digests.add(Grey(GreyConfig(levels=8)).digest())
    assert len(digests) == 3


@pytest.mark.parametrize("levels", [1, 257])
def test_rejects_levels_that_no_byte_has(levels: int) -> None:
    with pytest.raises(ValueError, match=rf"levels {levels} must lie in 2\.\.256"):
        GreyConfig(levels=levels)


def test_rejects_a_patch_without_pixels() -> None:
    with pytest.raises(ValueError, match="patch_px 0 must be at least 1"):
        GreyConfig(patch_px=0)
