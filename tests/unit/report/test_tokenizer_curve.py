import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from toto.report.tokenizer_curve import draw_curve

RED = np.array([255, 0, 0])


def rows(collapsed: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """A run that measures every second step that it logs."""
    found: list[dict[str, Any]] = []
    for step in range(10, 110, 10):
        row: dict[str, Any] = {"step": step, "loss": 1 / step, "lr": 1e-3}
        if step % 20 == 0:
            row |= {"psnr_db": 10 + step / 10, "perplexity": 50.0, "collapsed": step in collapsed}
        found.append(row)
    return found


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def red_px(picture: np.ndarray) -> int:
    """Pixels of the pure red that marks a collapse; no curve has it."""
    return int((np.abs(picture - RED).sum(-1) < 30).sum())


def test_the_curves_are_drawn(tmp_path: Path) -> None:
    draw_curve(rows(), tmp_path / "a.png", "vqvae on 7 frames")
    picture = pixels(tmp_path / "a.png")
    assert picture.shape == (432, 1440, 3)
    # Each of the three panels has a curve of its own.
    for part in np.split(picture, 3, axis=1):
        assert part.std() > 10
        coloured = np.abs(part - part.mean(-1, keepdims=True)).max(-1) > 40
        assert coloured.sum() > 100
    assert red_px(picture) == 0


def test_a_collapse_is_marked(tmp_path: Path) -> None:
    draw_curve(rows(collapsed=(60, 80)), tmp_path / "a.png", "vqvae on 7 frames")
    assert red_px(pixels(tmp_path / "a.png")) > 50


def test_what_was_never_measured_leaves_its_panel_empty(tmp_path: Path) -> None:
    losses = [{"step": step, "loss": 0.5} for step in (1, 2)]
    draw_curve(losses, tmp_path / "a.png", "vqvae on 7 frames")
    assert pixels(tmp_path / "a.png").std() > 10


def test_it_needs_no_torch() -> None:
    program = "import sys, toto.report.tokenizer_curve; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
