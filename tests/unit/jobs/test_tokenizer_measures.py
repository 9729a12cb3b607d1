"""What is measured of a tokenizer, with codes and pictures whose numbers are known by hand."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toto.jobs.progress import bar
from toto.jobs.tokenizer import (
    TokenizerTraining,
    _mean_colour,
    _warn_of_collapse,
    measure_tokenizer,
)
from toto.tokenizers.dvae import DVAE, DVAEConfig


class Ramp(DVAE):
    """A tokenizer with known answers: codes count up through four, pictures come back 5 darker."""

    def encode(self, frames: Tensor) -> Tensor:
        self.seen = frames
        rows, columns = frames.shape[1] // 8, frames.shape[2] // 8
        return (torch.arange(len(frames) * rows * columns) % 4).int().view(-1, rows, columns)

    def decode(self, ids: Tensor) -> Tensor:
        return self.seen - 5


def ramp() -> Ramp:
    return Ramp(DVAEConfig(vocab_size=8, width=4, decoder_stem=8, blocks_per_group=1))


def test_the_measures_of_a_known_tokenizer() -> None:
    frames = torch.randint(5, 256, (2, 16, 16, 3), dtype=torch.uint8)
    result = measure_tokenizer(ramp(), frames)
    assert result["psnr_db"] == pytest.approx(20 * math.log10(255 / 5), abs=1e-4)
    assert result["used_codes"] == 4
    assert result["perplexity"] == pytest.approx(4)
    assert (result["frames"], result["patch_px"], result["vocab_size"]) == (2, 8, 8)
    assert result["parameters"] == sum(p.numel() for p in ramp().parameters())


def test_the_mean_colour_of_each_patch() -> None:
    frames = torch.zeros(1, 8, 16, 3, dtype=torch.uint8)
    frames[0, :4, :8] = 100
    frames[0, :, 8:, 1] = 7
    painted = _mean_colour(frames, 8)
    assert painted.shape == frames.shape
    assert (painted[0, :, :8] == 50).all()
    assert (painted[0, :, 8:] == torch.tensor([0, 7, 0], dtype=torch.uint8)).all()


def test_a_collapsed_codebook_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    _warn_of_collapse({"perplexity": 3.0, "vocab_size": 100})
    assert capsys.readouterr().err == ""
    _warn_of_collapse({"perplexity": 1.0, "vocab_size": 100})
    said = " ".join(capsys.readouterr().err.split())
    assert "the codebook has collapsed: perplexity 1.0 of 100 codes; lower the learning" in said


def test_batches_are_a_function_of_seed_and_step_and_follow_the_schedules() -> None:
    job = TokenizerTraining(
        data=Path("data"), steps=100, batch=4, temperature_share=0.5, kl_share=0.2, seed=3
    )
    frames = torch.randint(256, (50, 8, 8, 3), dtype=torch.uint8)
    whole, late = job._batches(frames, 0), job._batches(frames, 60)
    batches = [next(whole) for _ in range(62)]
    for step in (60, 61):
        resumed = next(late)
        assert torch.equal(resumed.frames, batches[step].frames)
        assert resumed.seed == batches[step].seed
    assert not torch.equal(batches[0].frames, batches[1].frames)
    assert batches[0].temperature == 1.0
    assert batches[25].temperature == pytest.approx((1 + 1 / 16) / 2)
    assert batches[50].temperature == batches[61].temperature == pytest.approx(1 / 16)
    assert batches[0].kl_weight == 0.0
    assert batches[10].kl_weight == pytest.approx(3.3)
    assert batches[20].kl_weight == batches[61].kl_weight == pytest.approx(6.6)


def test_a_bar_passes_items_through_and_can_be_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("count", 3) as progress:
        assert list(progress.over("abc")) == ["a", "b", "c"]
        progress.advance(0, note="done now")
    said = capsys.readouterr().err
    assert "3/3" in said
    assert "done now" in said
    with bar("count", 3, shown=False) as progress:
        assert list(progress.over("abc")) == ["a", "b", "c"]
    assert capsys.readouterr().err.strip() == ""
