"""Weights that were trained for long: the public VQ-VAE's, and those in the package."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from toto import tokenizers
from toto.metrics.tokens import code_counts, used_codes
from toto.metrics.video import psnr_db
from toto.tokenizers import SHIPPED, Tokenizer, load_tokenizer
from toto.tokenizers.convert import convert
from toto.video.decode import Decoder

PUBLIC = "weights/swasun-vqvae-cifar10-k512-f4.pth"
FOLDER = Path(tokenizers.__file__).parent / SHIPPED


def photographs(data_root: Path, side_px: int, every: int = 1) -> torch.Tensor:
    """Middle squares of ImageNet photographs, one a class."""
    folder = data_root / "imagenet-sample-256"
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder}")
    with Decoder() as decoder:
        images = [
            decoder.read_image(file, side_px=side_px) for file in sorted(folder.iterdir())[::every]
        ]
    return torch.from_numpy(np.stack(images))


def quality_db(tokenizer: Tokenizer, frames: torch.Tensor, ids: torch.Tensor) -> float:
    return float(psnr_db(frames, tokenizer.decode(ids)).mean())


def test_the_public_vqvae_draws_photographs(data_root: Path, tmp_path: Path) -> None:
    """Measured beside it with the published code: 25.0 dB, all 512 codes in use."""
    weights = data_root / PUBLIC
    if not weights.is_file():
        pytest.skip(f"no weights at {weights}")
    found = convert([weights], tmp_path / "public")
    assert (found["kind"], found["name"]) == ("vqvae", "vqvae")
    tokenizer = load_tokenizer(tmp_path / "public")
    assert (tokenizer.vocab_size, tokenizer.patch_px) == (512, 4)
    frames = photographs(data_root, 64)
    assert len(frames) == 500
    ids = tokenizer.encode(frames)
    assert quality_db(tokenizer, frames, ids) == pytest.approx(25.0, abs=0.3)
    assert used_codes(code_counts(ids, 512)) == 512


def test_the_shipped_tokenizer_opens_by_its_name() -> None:
    tokenizer = load_tokenizer(SHIPPED)
    described = json.loads((FOLDER / "tokenizer.json").read_text())
    assert tokenizer.digest() == described["digest"]
    assert (tokenizer.vocab_size, tokenizer.patch_px) == (8192, 8)
    frames = torch.randint(256, (2, 24, 16, 3), dtype=torch.uint8)
    ids = tokenizer.encode(frames)
    assert ids.shape == (2, 3, 2)
    assert ids.min() >= 0
    assert ids.max() < 8192
    assert tokenizer.decode(ids).shape == frames.shape


def test_the_shipped_weights_are_small_and_finite() -> None:
    weights = FOLDER / "weights.safetensors"
    assert weights.stat().st_size <= 8_000_000
    for name, tensor in load_file(weights).items():
        assert tensor.dtype == torch.float16, name
        assert tensor.isfinite().all(), name


def test_its_model_card_names_the_data_and_its_terms() -> None:
    card = (FOLDER / "MODEL_CARD.md").read_text()
    for words in ("Tiny-ImageNet", "research", "not for commercial use", "toto tokenizer train"):
        assert words in card, words
    assert not re.findall("@[A-Z]+@", card), "a number of the card is still to be filled in"


def test_the_shipped_tokenizer_draws_photographs(data_root: Path) -> None:
    """Better than painting its patches in their mean colour, with most of its codes in use."""
    from toto.jobs.tokenizer_measures import mean_colour

    tokenizer, frames = load_tokenizer(SHIPPED), photographs(data_root, 128, every=5)
    ids = tokenizer.encode(frames)
    painted_db = float(psnr_db(frames, mean_colour(frames, 8)).mean())
    # Measured: 24.2 against 19.7 dB.
    assert quality_db(tokenizer, frames, ids) > painted_db + 3
    assert used_codes(code_counts(ids, 8192)) > 4096
