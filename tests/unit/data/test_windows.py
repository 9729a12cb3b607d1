import numpy as np
import pytest

from toto.data.windows import Windows

LENGTHS = np.array([0, 5, 1, 0, 8, 3, 2])


def listed(frames: int, hop: int) -> list[tuple[int, int]]:
    """Every window, the slow way."""
    return [
        (clip, start)
        for clip, length in enumerate(LENGTHS.tolist())
        for start in range(0, length, hop)
        if start + frames <= length
    ]


@pytest.mark.parametrize("hop", [1, 2, 3, 100])
@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9])
def test_every_window_has_its_number(frames: int, hop: int) -> None:
    windows, expected = Windows(LENGTHS, frames, hop=hop), listed(frames, hop)
    assert len(windows) == len(expected)
    assert [windows.locate(number) for number in range(len(windows))] == expected
    clips, starts = windows.locate(np.arange(len(windows)))
    assert list(zip(clips.tolist(), starts.tolist(), strict=True)) == expected


def test_memory_is_that_of_the_clips() -> None:
    windows = Windows(np.full(10, 10**9), 16)
    assert len(windows) == 10 * (10**9 - 15)
    assert windows.locate(len(windows) - 1) == (9, 10**9 - 16)
    assert windows._ends.nbytes == 80


@pytest.mark.parametrize("number", [-1, 19, np.array([0, 19])])
def test_rejects_a_number_that_no_window_has(number: int) -> None:
    assert len(Windows(LENGTHS, 1)) == 19
    with pytest.raises(ValueError, match=r"there are 19 windows, not all of .* are among them"):
        Windows(LENGTHS, 1).locate(number)


def test_rejects_windows_of_nothing() -> None:
    with pytest.raises(ValueError, match="windows of 0 frames, 1 apart; both must be at least 1"):
        Windows(LENGTHS, 0)
    with pytest.raises(ValueError, match="windows of 1 frames, 0 apart"):
        Windows(LENGTHS, 1, hop=0)
    assert len(Windows(np.array([], dtype=np.int64), 1)) == 0
