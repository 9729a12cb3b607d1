"""Held-out losses by frame, and by place within a frame."""

import pytest
import torch

from toto.data.layout import Layout, LayoutConfig
from toto.jobs.sequences import Objective
from toto.jobs.validation import Validation


def validation(layout: Layout) -> Validation:
    objective = Objective(
        loss=lambda *_: torch.zeros(()),
        losses=lambda *_: torch.zeros(1, 1),
        unit="nats a token",
        reads="codes",
    )
    return Validation(None, layout, objective, torch.device("cpu"), "fp32")


def test_places_of_the_first_frame_and_of_the_later_ones_apart() -> None:
    layout = Layout(LayoutConfig(frames=3), codes=16, frame_tokens=4)
    # Frame times ten and place, of two windows that differ by two.
    grid = torch.tensor([10.0 * (n // 4) + n % 4 for n in range(12)])
    found = validation(layout).per_position(torch.stack([grid, grid + 2]))
    assert found == {"first": [1.0, 2.0, 3.0, 4.0], "later": [16.0, 17.0, 18.0, 19.0]}


def test_a_place_that_the_end_has_taken_is_left_out() -> None:
    layout = Layout(LayoutConfig(frames=2, specials="inside"), codes=16, frame_tokens=4)
    losses = torch.arange(6.0)[None]
    assert len(layout.frame_of_target()[:-1]) == 6
    assert validation(layout).per_position(losses) == {
        "first": [0.0, 1.0, 2.0, 3.0],
        "later": [4.0, 5.0, None, None],
    }


def test_means_over_places_and_over_frames_agree() -> None:
    layout = Layout(LayoutConfig(frames=4), codes=16, frame_tokens=9)
    losses = torch.randn(5, 36, generator=torch.Generator().manual_seed(0))
    there = validation(layout)
    by_place, by_frame = there.per_position(losses), there.per_frame(losses)
    assert sum(by_place["first"]) / 9 == pytest.approx(by_frame[0], abs=1e-6)
    assert sum(by_place["later"]) / 9 == pytest.approx(sum(by_frame[1:]) / 3, abs=1e-6)


def test_nothing_held_out_gives_no_places() -> None:
    layout = Layout(LayoutConfig(frames=1), codes=16, frame_tokens=4)
    assert validation(layout).per_position(None) == {"first": [], "later": []}
    assert validation(layout).per_position(torch.ones(1, 4))["later"] == []
