from typing import Literal

import pytest
import torch

from toto.data.layout import Layout, LayoutConfig

FRAMES, ROWS, COLUMNS, CODES = 3, 2, 4, 100
S = ROWS * COLUMNS


def layout(specials: Literal["outside", "inside"] = "outside") -> Layout:
    return Layout(LayoutConfig(frames=FRAMES, specials=specials), codes=CODES, frame_tokens=S)


GRID = torch.arange(FRAMES * S).view(FRAMES, ROWS, COLUMNS)


def test_specials_outside_stand_around_every_code() -> None:
    sequence = layout().sequence(GRID)
    assert sequence.tolist() == [CODES, *range(FRAMES * S), CODES + 1]
    assert layout().length == len(sequence) == FRAMES * S + 2


def test_specials_inside_replace_the_last_two_codes() -> None:
    sequence = layout("inside").sequence(GRID)
    assert sequence.tolist() == [CODES, *range(FRAMES * S - 2), CODES + 1]
    assert layout("inside").length == len(sequence) == FRAMES * S


def test_images_start_with_a_token_of_their_own() -> None:
    assert layout().sequence(GRID, "images")[0] == CODES + 2
    assert layout().prompt(GRID, "images")[0] == CODES + 2
    assert torch.equal(layout().sequence(GRID, "images")[1:], layout().sequence(GRID)[1:])


def test_codes_run_in_raster_order_frame_after_frame() -> None:
    grid = torch.stack([100 * t + torch.tensor([[0, 1, 2, 3], [10, 11, 12, 13]]) for t in range(3)])
    codes = layout().sequence(grid)[1:-1].view(FRAMES, S)
    assert codes[1].tolist() == [100, 101, 102, 103, 110, 111, 112, 113]


def test_the_vocabulary_is_codes_and_three_special_ids() -> None:
    made = layout()
    assert {made.video_start, made.end, made.image_start} == {CODES, CODES + 1, CODES + 2}
    assert made.vocab_size == CODES + 3


def test_a_paper_sequence_fits_the_default_context() -> None:
    """docs/paper.md: 16 frames of 16 x 16 codes of 8,192, and start and end."""
    made = Layout(LayoutConfig(), codes=8192, frame_tokens=256)
    assert (made.length, made.vocab_size) == (4098, 8195)


def test_a_prompt_may_be_of_any_length_and_has_no_end() -> None:
    assert layout().prompt(GRID[:2]).tolist() == [CODES, *range(2 * S)]


@pytest.mark.parametrize("specials", ["outside", "inside"])
def test_frame_of_target_names_the_frame_of_each_code(
    specials: Literal["outside", "inside"],
) -> None:
    made = layout(specials)
    frame_of_code = torch.arange(FRAMES)[:, None, None].expand_as(GRID)
    expected = made.sequence(frame_of_code)[1:]  # each code replaced by its frame's number
    expected[-1] = -1
    assert torch.equal(made.frame_of_target(), expected)
    assert len(made.frame_of_target()) == made.length - 1


def test_every_target_counts_the_same() -> None:
    assert torch.equal(layout().weight(5), torch.ones(5, FRAMES * S + 1))


@pytest.mark.parametrize("shape", [(2, ROWS, COLUMNS), (FRAMES, ROWS, COLUMNS + 1)])
def test_rejects_a_grid_of_another_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a grid of \(.*\) is not 3 frames of 8 tokens"):
        layout().sequence(torch.zeros(shape, dtype=torch.long))


def test_rejects_no_frames() -> None:
    with pytest.raises(ValueError, match="frames 0 must be at least 1"):
        LayoutConfig(frames=0)
