"""A curve as text for a terminal, in Braille dots: 2 x 4 of them a character."""

from collections.abc import Sequence

from toto.jobs.forecast import Point

PLOT_COLUMNS, PLOT_ROWS = 60, 8


def plot(curve: Sequence[Point], steps: int) -> list[str]:
    """Draw a curve over all steps of a run, with its range at the left."""
    values = [loss for _, loss in curve]
    low, high = min(values), max(values)
    dots = [[False] * (2 * PLOT_COLUMNS) for _ in range(4 * PLOT_ROWS)]
    across = (2 * PLOT_COLUMNS - 1) / max(steps - 1, 1)
    down = (4 * PLOT_ROWS - 1) / (high - low or 1)
    places = [(round((step - 1) * across), round((high - loss) * down)) for step, loss in curve]
    for (x, y), (next_x, next_y) in zip(places, [*places[1:], places[-1]], strict=True):
        # Whole lines, or a steep start would be a few lone dots.
        length = max(next_x - x, abs(next_y - y), 1)
        for n in range(length + 1):
            dots[round(y + (next_y - y) * n / length)][round(x + (next_x - x) * n / length)] = True
    rows = []
    for row in range(PLOT_ROWS):
        label = {0: f"{high:.4g}", PLOT_ROWS - 1: f"{low:.4g}"}.get(row, "")
        cells = "".join(_braille(dots, 4 * row, 2 * column) for column in range(PLOT_COLUMNS))
        rows.append(f"{label:>12} ┤{cells.rstrip('⠀')}")
    rows.append(f"{'':>12} └{'─' * PLOT_COLUMNS}")
    rows.append(f"{'':>12}  1{f'step {steps:,}':>{PLOT_COLUMNS - 1}}")
    return rows


def _braille(dots: list[list[bool]], top: int, left: int) -> str:
    places = ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1))
    bits = sum(1 << n for n, (y, x) in enumerate(places) if dots[top + y][left + x])
    return chr(0x2800 + bits)
