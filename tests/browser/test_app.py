"""The page of a run, as a visitor has it: chosen, sent, pressed and drawn, in chromium."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from made_browser import IN_CHROMIUM
from made_run_folders import save_run, strange
from toto.recipes import PRETRAIN
from toto.video.write import write_mp4

MARK = (230, 159, 0)
"""What a mask is drawn in, here and by `toto.tasks.overlay`."""

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`toto app` on a free port, over an untrained model of 4 frames of 4 x 4 grey patches."""
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    run = tmp_path_factory.mktemp("app") / "tiny-run"
    save_run(run, strange(PRETRAIN["tiny"]().model))
    result = {"parameters": 1000, "steps": 20, "tokens": 2000, "validation_loss": 1.5}
    (run / "results/pretrain.json").write_text(json.dumps(result))
    command = [sys.executable, "-m", "toto", "app", str(run), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.match(r"http://127\.0\.0\.1:\d+/", line)
        assert address, line
        yield address[0]
        process.terminate()
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real clip where a machine has one, else a bright square that moves over a ramp."""
    root = Path(os.environ.get("TOTO_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if (root / "clips/basketball.mp4").is_file():
        return root / "clips/basketball.mp4"
    time, y, x = np.mgrid[:60, :96, :128]
    ramp = np.stack([x + y, 2 * y, x], axis=-1) % 200
    ramp[(abs(x - 20 - time) < 16) & (abs(y - 40) < 16)] = 255
    path = tmp_path_factory.mktemp("clip") / "square.mp4"
    write_mp4(path, ramp.astype(np.uint8), fps=30)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: the folder in TOTO_SCREENSHOTS, which CI keeps as an artifact."""
    named = os.environ.get("TOTO_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Visit:
    """One visitor's page, and all that the browser said of it."""

    def __init__(self, browser: Any, url: str, width_px: int, **context: Any) -> None:
        self.url, self.complaints, self.elsewhere = url, [], []
        size = {"width": width_px, "height": 900}
        self.context = browser.new_context(viewport=size, has_touch=width_px < 600, **context)
        self.page = self.context.new_page()
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._check)
        self.page.goto(url, timeout=120_000)
        self.page.wait_for_selector(".sample")

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _check(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.elsewhere.append(request.url)

    def wait(self) -> None:
        """Until the last part has an answer, which comes after all others."""
        self.page.locator("#imagining .card").first.wait_for(timeout=60_000)

    def film(self, selector: str, number: int = 0) -> np.ndarray:
        """The frames of a film side by side, u8 [H W 3]."""
        style = self.page.locator(f"{selector} .film").nth(number).get_attribute("style")
        data = re.search(r"base64,([A-Za-z0-9+/=]+)", style)
        assert data
        return np.array(Image.open(io.BytesIO(base64.b64decode(data[1]))).convert("RGB"))

    def changed(self, selector: str, before: np.ndarray) -> np.ndarray:
        """The film there, once it is another."""
        for _ in range(100):
            now = self.film(selector)
            if now.shape != before.shape or (now != before).any():
                return now
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{selector} stays as it is")

    def stroke(self, *points: tuple[float, float]) -> None:
        """Draw a line on the paper; places are shares of it."""
        board = self.page.locator("#paper .board")
        board.scroll_into_view_if_needed()
        box = board.bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()

    def fits(self) -> bool:
        """Whether nothing reaches beyond the right edge."""
        page = "document.documentElement"
        return self.page.evaluate(f"{page}.scrollWidth - {page}.clientWidth") == 0


@pytest.fixture
def visit(browser: Any, served: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
    made = Visit(browser, served, getattr(request, "param", 1280))
    yield made
    made.context.close()
    assert made.complaints == []
    assert made.elsewhere == []


@pytest.mark.parametrize("visit", [1280, 390], indirect=True)
def test_a_clip_is_sent_looked_at_and_drawn_on(visit: Visit, clip: Path, pictures: Path) -> None:
    page, width_px = visit.page, visit.page.viewport_size["width"]
    assert visit.fits()
    assert (page.locator("h1").count(), page.locator("h2").count()) == (1, 6)
    page.locator("input[type=file]").first.set_input_files(clip)
    visit.wait()

    # Every part has something in it; the clip is 4 frames of 32 px.
    for part, films in (("reading", 3), ("layers", 2), ("following", 1), ("imagining", 8)):
        assert page.locator(f"#{part} .film").count() == films
        for number in range(films):
            drawn = visit.film(f"#{part}", number)
            assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 4, (part, number)
    sent, tokens, redrawn = (visit.film("#reading", number) for number in range(3))
    assert sent.shape == redrawn.shape == (32, 128, 3)
    assert sent.std() > 10
    assert tokens.shape == (4, 16, 3)
    blocks = redrawn.reshape(4, 8, 16, 8, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()  # a grey a patch
    assert re.search(r"PSNR \d+\.\d dB, SSIM 0\.\d\d", page.locator("#reading").inner_text())
    words = page.locator("#imagining .outcome").inner_text()
    assert re.search(r"future 1 \d.*future 3 \d.*last frame \d.*they are tokens, \d", words)
    assert page.locator("#curves svg").count() == 1

    # A patch of the second frame is pressed: what comes after it is dark.
    lit = page.locator("#looking [data-frame] .sharp")
    assert lit.count() == 4
    first = page.locator("#looking .outcome").inner_text()
    patches = page.locator("#looking [data-frame='1']")
    patches.scroll_into_view_if_needed()
    box = patches.bounding_box()
    patches.click(position={"x": 0.6 * box["width"], "y": 0.3 * box["height"]})
    page.wait_for_selector("#looking [data-place='1,1,2']")
    assert lit.count() == 2
    assert page.locator("#looking .unseen").count() == 2
    box, here = patches.bounding_box(), patches.locator(".here").bounding_box()
    assert here["x"] == pytest.approx(box["x"] + box["width"] / 2, abs=2)
    second = page.locator("#looking .outcome").inner_text()
    assert second != first
    shares = [int(share) for share in re.findall(r"(\d+) %", second)]
    assert sum(shares) == pytest.approx(100, abs=2)
    page.locator("#looking .frames").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#looking [data-place='1,1,1']")

    # A mask is drawn, and then another one.
    guessed = visit.film("#following")
    visit.stroke((0.1, 0.1), (0.4, 0.1), (0.4, 0.4), (0.1, 0.4), (0.25, 0.25))
    drawn = visit.changed("#following", guessed)
    assert drawn.shape == (256, 4 * 256, 3)
    outline = (drawn == MARK).all(-1)
    assert outline[:140, :140].any()  # of the first frame, where it was drawn
    assert not outline[160:, 160:256].any()
    assert "from what you drew" in page.locator("#following").inner_text()
    assert visit.fits()
    page.screenshot(path=pictures / f"page-{width_px}.png", full_page=True)
    page.locator("[data-tool='clear']").click()
    visit.stroke((0.8, 0.8), (0.9, 0.9))
    outline = (visit.changed("#following", drawn) == MARK).all(-1)
    assert outline[160:, 160:256].any()
    assert not outline[:96, :96].any()


def test_a_clip_is_chosen_and_asked_again(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    secret = tmp_path / "private-name.mp4"
    secret.write_bytes(b"#EXTM3U\nfile:///etc/passwd\n")
    page.locator("input[type=file]").first.set_input_files(secret)
    toast = page.locator(".toast-body").first
    toast.wait_for(timeout=60_000)
    words = toast.inner_text()
    assert "no video or picture that is read here" in words
    assert "private-name" not in words
    assert "/" not in words
    assert page.locator("#reading .card").count() == 0

    page.locator("[data-sample='1']").click()
    visit.wait()
    inked = "document.querySelector('.board').getContext('2d').getImageData(0, 0, 64, 64).data"
    guessed = visit.film("#following")
    visit.stroke((0.1, 0.1), (0.4, 0.1))
    visit.changed("#following", guessed)
    assert page.evaluate(f"{inked}.some(value => value > 0)")
    page.locator("[data-sample='1']").click()
    page.wait_for_function(f"!{inked}.some(value => value > 0)")
    colours = page.locator("#layers .film").nth(1).get_attribute("style")
    page.locator("#layers [data-layer='0']").click()
    page.wait_for_selector("#layers [data-layer='0'][aria-pressed='true']")
    assert page.locator("#layers .film").nth(1).get_attribute("style") != colours
    first = page.locator("#looking .frames").inner_html()
    number = page.get_by_label("number input for layer", exact=True)
    number.fill("2")
    number.press("Enter")
    page.wait_for_function(
        "first => document.querySelector('#looking .frames').innerHTML !== first", arg=first
    )
    before = page.locator("#imagining .film").nth(2).get_attribute("style")
    seed = page.get_by_label("number input for seed")
    seed.fill("7")
    seed.press("Enter")
    page.locator("#again").click()
    page.wait_for_function(
        "before => { const films = document.querySelectorAll('#imagining .film');"
        " return films.length === 8 && films[2].getAttribute('style') !== before }",
        arg=before,
        timeout=60_000,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_the_paper(browser: Any, served: str, scheme: str) -> None:
    visit = Visit(browser, served, 1280, color_scheme=scheme)
    colours = visit.page.evaluate(
        "['color', 'backgroundColor'].map((role, n) => getComputedStyle("
        "document.querySelector(['.toto .lead', 'body'][n]))[role])"
    )
    words, paper = (luminance(colour) for colour in colours)
    lighter, darker = max(words, paper), min(words, paper)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5
    assert (paper > words) == (scheme == "light")
    visit.context.close()


def luminance(colour: str) -> float:
    """By the WCAG formula."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
