from dataclasses import replace

import pytest

from toto.probe.protocols import PROTOCOLS


def test_published_values_are_those_of_their_sources() -> None:
    """Typed again from the scripts named in `PROTOCOLS`."""
    walk, dino, v3 = (
        PROTOCOLS[name].propagation for name in ("videowalk-2020", "dino-480", "dinov3-960")
    )
    assert (walk.context_frames, walk.topk, walk.radius, walk.temperature) == (20, 10, 12, 0.05)
    assert (dino.context_frames, dino.topk, dino.radius, dino.temperature) == (7, 5, 12, 0.1)
    assert (v3.context_frames, v3.topk, v3.radius, v3.temperature) == (7, 5, 12, 0.2)
    assert walk.repeat_first
    assert not walk.radius_applies_to_first
    assert [one.radius_shape for one in (walk, dino, v3)] == ["disk", "square", "disk with rim"]
    assert [one.mask_resize for one in (walk, dino, v3)] == ["bilinear", "nearest", "nearest"]
    assert [one.mask_enlarge for one in (walk, dino, v3)] == ["bilinear", "bilinear", "nearest"]
    assert [one.normalise_masks for one in (walk, dino, v3)] == [False, True, True]


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("dino-480", (480, 854), (480, 832)),
        ("dino-480", (854, 480), (832, 480)),
        ("dino-480", (480, 910), (480, 896)),
        ("dinov3-960", (480, 854), (960, 1712)),
        ("videowalk-2020", (480, 854), (480, 856)),
        ("toto-256", (480, 854), (256, 256)),
        ("toto-512", (854, 480), (512, 512)),
    ],
)
def test_frames_are_resized_as_the_sources_do(
    name: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.frame_px(*size) == expected
    assert protocol.grid(*size) == tuple(side // protocol.cell_px for side in expected)


def test_what_the_paper_does_not_say_is_said() -> None:
    assert "top-k" in PROTOCOLS["toto-256"].unsaid
    assert PROTOCOLS["toto-512"].unsaid == PROTOCOLS["toto-256"].unsaid


def test_rejects_frames_too_narrow() -> None:
    wide = replace(PROTOCOLS["demo"], multiple_px=64, rounded="down")
    with pytest.raises(ValueError, match="frames of 100x40 px have no side of 64 px"):
        wide.frame_px(40, 100)


def test_rejects_a_side_where_frames_stay() -> None:
    with pytest.raises(ValueError, match="side_px 64 does not go with frames 'as they are'"):
        replace(PROTOCOLS["demo"], side_px=64)


def test_rejects_cells_that_do_not_cover() -> None:
    with pytest.raises(ValueError, match="multiple_px 64 is no multiple of cell_px 14"):
        replace(PROTOCOLS["dino-480"], cell_px=14)
