"""What the pictures of tokenizers show, read back from their pixels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from toto.metrics.ngrams import count_ngrams
from toto.report.token_plots import draw_comparison, draw_ngrams, draw_stability

FRAMES = {"frames": 2, "name": "made $x^2$", "side_px": 64}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


def test_a_comparison_holds_the_pictures_as_they_are(tmp_path: Path) -> None:
    rows = {
        name: np.random.default_rng(seed).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
        for seed, name in enumerate(("original", "a tokenizer\n16 codes"))
    }
    draw_comparison(tmp_path / "c.png", rows, FRAMES)
    page = pixels(tmp_path / "c.png")
    for row in rows.values():
        for picture in row:
            large = picture.repeat(2, axis=0).repeat(2, axis=1)
            assert any(
                (page[top : top + 128, left : left + 128] == large).all()
                for top in range(page.shape[0] - 127)
                for left in range(page.shape[1] - 127)
                if (page[top, left] == large[0, 0]).all()
            )


def test_every_tokenizer_has_a_curve_of_its_colour(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 8, (4, 4, 4))
    result = {
        "tokenizer": {"vocab_size": 8},
        "ngrams": [count_ngrams(ids, n=n, vocab_size=8).summary() for n in (1, 2, 3)],
    }
    draw_ngrams(tmp_path / "one.png", {"a": result}, FRAMES)
    draw_ngrams(tmp_path / "many.png", {str(n): result for n in range(8)}, FRAMES)
    blue, brown = (0x1F, 0x5F, 0xA8), (0xC2, 0x54, 0x1B)
    for name, colour, seen in (
        ("one", blue, True),
        ("one", brown, False),
        ("many", brown, True),
    ):
        assert (pixels(tmp_path / f"{name}.png") == colour).all(axis=2).any() == seen


def test_bars_are_as_long_as_their_shares(tmp_path: Path) -> None:
    def result(share: float) -> dict[str, object]:
        return {
            "flips": {"still": {"1": 1 - share}, "clips": None},
            "stability": {"kept": {"jpeg 95": share, "bf16 autocast": None}},
        }

    blue = []
    for share in (1.0, 0.5):
        draw_stability(tmp_path / "s.png", "x", result(share))
        blue.append((pixels(tmp_path / "s.png") == (0x1F, 0x5F, 0xA8)).all(axis=2).sum())
    assert abs(blue[1] / blue[0] - 0.5) < 0.02


def test_the_pictures_need_no_torch() -> None:
    program = (
        "import sys, toto.report.token_plots, toto.report.token_tables;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
