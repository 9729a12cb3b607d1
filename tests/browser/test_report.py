import runpy
from pathlib import Path
from typing import Any

import pytest

from made_browser import IN_CHROMIUM
from toto.report.collect import collect
from toto.report.page import write_report

EXAMPLE = Path(__file__).parents[1] / "unit/report/example_run.py"

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo-run"
    run = runpy.run_path(str(EXAMPLE))["write_example_run"](folder)
    return write_report(collect(run), run / "report.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width_px", [1280, 390])
def test_the_page_opens_whole_at(browser: Any, report: Path, width_px: int, scheme: str) -> None:
    messages: list[str] = []
    requests: list[str] = []
    size = {"width": width_px, "height": 900}
    with browser.new_context(viewport=size, color_scheme=scheme) as context:
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_function("[...document.images].every(image => image.complete)")
        page.wait_for_function(
            "[...document.querySelectorAll('video')].every(v => v.readyState > 0 || v.error)"
        )
        assert messages == []
        assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]

        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) == 0

        widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert len(widths) == 5
        assert min(widths) > 0
        errors = page.evaluate("[...document.querySelectorAll('video')].map(v => v.error)")
        assert errors == [None]

        assert page.locator("h1").count() == 1
        assert page.locator("h2").all_inner_texts()[0] == "The data"
        assert page.locator("h2").count() == 11
        smallest_px = page.evaluate(
            "Math.min(...[...document.querySelectorAll('svg text')]"
            ".map(text => text.getBoundingClientRect().height))"
        )
        assert smallest_px >= 9
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(253, 253, 252)", "dark": "rgb(21, 24, 28)"}[scheme]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_the_paper(browser: Any, report: Path, scheme: str) -> None:
    """Contrast of every text colour, by the WCAG formula: 4.5 is what small print needs."""
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(report.as_uri())
        roles = ("--paper", "--card", "--ink", "--muted", "--trained", "--untrained", "--limit")
        get = "role => getComputedStyle(document.documentElement).getPropertyValue(role)"
        colours = {role: page.evaluate(get, role).strip() for role in roles}
    weakest = {
        role: min(
            contrast(colours[role], colours["--paper"]), contrast(colours[role], colours["--card"])
        )
        for role in ("--ink", "--muted")
    }
    assert min(weakest.values()) >= 4.5
    # Marks of verdicts are bold and lines are thick: 3 is the demand for those.
    lines = [contrast(colours[role], colours["--card"]) for role in roles[4:]]
    assert min(lines) >= 3.0


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
