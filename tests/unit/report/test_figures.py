import pytest

from toto.report.collect import Curve
from toto.report.elements import bar
from toto.report.figures import over_steps, thin
from toto.report.words import count, duration, number, percent, size


def test_a_bar_is_as_long_as_its_share() -> None:
    assert "width: 25.0%" in bar(0.25, "trained")
    assert "width: 100.0%" in bar(3.0, "trained")
    assert "width: 0.0%" in bar(float("nan"), "trained")


def test_a_short_curve_is_drawn_as_it_is() -> None:
    curve = Curve(steps=(1, 2, 5), values=(3.0, 2.0, 4.0))
    assert thin(curve) == ([1, 2, 5], [3.0, 2.0, 4.0])


def test_a_long_curve_keeps_its_ends_and_its_mean() -> None:
    steps, values = thin(Curve(steps=tuple(range(1000)), values=tuple(map(float, range(1000)))))
    assert len(steps) == 200
    assert steps[0] == 2.0
    assert steps[-1] == 997.0
    assert sum(values) / len(values) == pytest.approx(499.5)


def test_text_in_a_drawing_is_escaped_and_never_read_as_mathematics() -> None:
    drawing = over_steps(
        Curve(steps=(1, 2), values=(1.0, 2.0)), name="x", title="<b>$\\frac{1}$", unit="<i>"
    )
    assert "<b>" not in drawing
    assert "<i>" not in drawing
    assert "&lt;b&gt;$\\frac{1}$</text>" in drawing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(3.14159), "3.14"),
        (number(float("nan")), "n/a"),
        (number(None), "n/a"),
        (percent(0.583), "58.3 %"),
        (percent(None), "n/a"),
        (count(980), "980"),
        (count(9_999), "9,999"),
        (count(12_345), "12.3 k"),
        (count(2_870_000), "2.87 M"),
        (count(2.5e9), "2.5 G"),
        (count(None), "n/a"),
        (duration(9.34), "9.3 s"),
        (duration(59.97), "1 min 0 s"),
        (duration(125), "2 min 5 s"),
        (duration(11_520), "3 h 12 min"),
        (duration(None), "n/a"),
        (size(512), "512 bytes"),
        (size(1.53e9), "1.53 GB"),
    ],
)
def test_numbers_are_written_for_people(text: str, expected: str) -> None:
    assert text == expected
