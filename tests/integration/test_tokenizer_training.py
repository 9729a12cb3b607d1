"""A tokenizer of each kind is trained on made images, from the folder to what is saved."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from toto.jobs import tokenizer
from toto.jobs.tokenizer import TokenizerTraining
from toto.jobs.training_frames import TrainingFrames
from toto.tokenizers import DVAEConfig, VQGANConfig, VQVAEConfig, load_tokenizer
from toto.train.adversarial import DiscriminatorConfig
from toto.train.optimizer import AdamWConfig
from toto.train.quantisation import AdversarialConfig, QuantisationConfig
from toto.train.relaxation import RelaxationConfig

VQVAE = VQVAEConfig(
    vocab_size=64,
    code_width=4,
    width=32,
    residual_width=16,
    encoder_blocks=1,
    decoder_blocks=1,
    halvings=2,
)
VQGAN = VQGANConfig(
    vocab_size=32,
    channels=32,
    multipliers=(1, 1),
    blocks_per_level=1,
    attention_levels=(),
    z_channels=8,
    code_width=8,
)
PATCHGAN = AdversarialConfig(
    weight=0.8, start_share=0.5, discriminator=DiscriminatorConfig(layers=1, channels=4)
)
KINDS: dict[str, dict[str, Any]] = {
    "vqvae of patches": {"model": VQVAE},
    "vqvae of convolutions": {"model": replace(VQVAE, resample="convolutions")},
    "vqgan with an adversary": {
        "model": VQGAN,
        "method": QuantisationConfig(
            reconstruction="absolute", codebook="gradient", adversarial=PATCHGAN
        ),
    },
    "dvae": {
        "model": DVAEConfig(vocab_size=32, width=4, decoder_stem=8, blocks_per_group=1),
        "method": RelaxationConfig(sharpness=20.0, kl_weight=0.0, balance_weight=0.1),
    },
}


def training(images: Path, **fields: Any) -> TokenizerTraining:
    job = TokenizerTraining(
        sources=TrainingFrames(images=images, side_px=16, held_out_images=0.2),
        model=VQVAE,
        method=QuantisationConfig(),
        steps=12,
        batch=16,
        lr=3e-3,
        clip_norm=1.0,
        optimizer=AdamWConfig(betas=(0.9, 0.99), weight_decay=1e-4),
        average_decay=0.9,
        measure_every=4,
        log_every=2,
        precision="fp32",
    )
    return replace(job, **fields)


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture of the curve takes longer than a short training."""
    monkeypatch.setattr(tokenizer, "draw_curve", lambda *_: None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_trained_measured_and_saved(
    kind: str, two_colours: Path, tmp_path: Path
) -> None:
    job = training(two_colours, **KINDS[kind])
    result = job.run(tmp_path / "run")
    made: Any = load_tokenizer(tmp_path / "run")
    assert result["name"] == made.name == kind.split()[0]
    assert result["vocab_size"] == made.vocab_size == job.model.vocab_size
    assert result["frames"] == 12
    assert result["parameters"] == sum(p.numel() for p in made.parameters())
    assert 5 < result["psnr_db"] < 50
    assert 1 <= result["perplexity"] <= result["used_codes"] <= made.vocab_size
    logged = metrics(tmp_path / "run")
    assert [row["step"] for row in logged] == [2, 4, 6, 8, 10, 12]
    assert [row["step"] for row in logged if "psnr_db" in row] == [4, 8, 12]
    own = {"nll", "kl", "temperature"} if kind == "dvae" else {"quantisation_error"}
    assert own <= logged[-1].keys()
    for name in ("training.png", "reconstructions.png"):
        picture = np.asarray(Image.open(tmp_path / "run" / name).convert("L"))
        assert picture.std() > 10, f"{name} is blank"


@pytest.mark.usefixtures("no_curve")
def test_the_network_may_learn_first_without_codes(two_colours: Path, tmp_path: Path) -> None:
    """Nothing is measured before there are codes."""
    method = QuantisationConfig(free_share=0.5)
    training(two_colours, method=method).run(tmp_path / "run")
    measured = [row["step"] for row in metrics(tmp_path / "run") if "psnr_db" in row]
    assert measured == [8, 12]


@pytest.mark.usefixtures("no_curve")
def test_a_finished_training_is_not_done_again(two_colours: Path, tmp_path: Path) -> None:
    job, out = training(two_colours, steps=2), tmp_path / "run"
    first = job.run(out)
    written = (out / "weights.safetensors").stat().st_mtime_ns
    assert job.run(out) == first
    assert (out / "weights.safetensors").stat().st_mtime_ns == written


@pytest.mark.usefixtures("no_curve")
def test_half_precision_is_stored_and_still_the_same_tokenizer(
    two_colours: Path, tmp_path: Path
) -> None:
    results = {}
    for half in (True, False):
        out = tmp_path / str(half)
        results[half] = training(two_colours, half=half).run(out)
        types = {weight.dtype for weight in load_file(out / "weights.safetensors").values()}
        assert types == {torch.float16 if half else torch.float32}
        made: Any = load_tokenizer(out)
        assert made.digest() == json.loads((out / "tokenizer.json").read_text())["digest"]
        assert {p.dtype for p in made.parameters()} == {torch.float32}
    assert results[True]["psnr_db"] == pytest.approx(results[False]["psnr_db"], abs=0.1)
    small, large = (
        (tmp_path / str(half) / "weights.safetensors").stat().st_size for half in (True, False)
    )
    assert small < 0.6 * large


@pytest.mark.usefixtures("no_curve")
def test_quality_rises_and_nothing_collapses(
    two_colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = training(two_colours, steps=100, measure_every=20, log_every=20)
    result = job.run(tmp_path / "run")
    measured = metrics(tmp_path / "run")
    assert measured[-1]["psnr_db"] > measured[0]["psnr_db"] + 1.5
    assert measured[-1]["loss"] < 0.75 * measured[0]["loss"]
    assert [row["collapsed"] for row in measured] == [False] * 5
    assert result["collapsed_steps"] == []
    assert "collapsed" not in capsys.readouterr().err


@pytest.mark.usefixtures("no_curve")
def test_a_collapse_is_reported(
    two_colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a rate thirty times too high the encoder soon says one thing of all pictures."""
    job = training(two_colours, steps=40, lr=0.1, measure_every=10, log_every=10)
    result = job.run(tmp_path / "run")
    measured = metrics(tmp_path / "run")
    assert measured[-1]["perplexity"] < 0.05 * 64
    assert [row["collapsed"] for row in measured] == [True] * 4
    assert result["collapsed_steps"] == [10, 20, 30, 40]
    said = " ".join(capsys.readouterr().err.split())
    # Once, and not at every measurement that finds it so.
    assert said.count("the codebook has collapsed") == 1
    assert "at step 10 its perplexity is 1.0 of 64 codes; lower the learning rate" in said


def test_a_divergence_is_one_line_and_leaves_no_tokenizer(
    two_colours: Path, tmp_path: Path
) -> None:
    job, out = training(two_colours, lr=1e6, clip_norm=1e9), tmp_path / "run"
    with pytest.raises(
        ValueError,
        match=r"^training diverged: the gradient of step \d+ is not finite, at a learning rate of "
        r"[\d.e+]+; lower --lr and begin again in another --out$",
    ):
        job.run(out)
    assert not (out / "tokenizer.json").exists()
    assert not (out / "results").exists()


def test_squares_that_are_no_whole_patches_are_refused_before_any_image_is_read(
    tmp_path: Path,
) -> None:
    sources = TrainingFrames(images=tmp_path / "nowhere", side_px=18)
    with pytest.raises(
        ValueError,
        match=r"squares of 18 px do not divide into the tokenizer's patches of 4 px; choose "
        r"another --sources\.side-px",
    ):
        training(tmp_path, sources=sources).run(tmp_path / "run")
