"""What a job refuses before it begins: each message names the value and what would do."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from toto.jobs.generate import Generate
from toto.jobs.pretrain import Pretrain
from toto.jobs.probe import Probe
from toto.jobs.tokenize import Tokenize
from toto.jobs.tokenizer import TokenizerTraining
from toto.jobs.track import Track
from toto.recipes import PRETRAIN, PROBE, demo_probe
from toto.tokenizers import VQVAEConfig
from toto.train.quantisation import QuantisationConfig
from toto.video.collection import CollectionConfig, DigitClips
from toto.video.datasets.moving_digits import MovingDigitsConfig

HERE = Path("data")


def pretrain(**changes: object) -> Pretrain:
    return replace(PRETRAIN["tiny"](), **changes)


def probe(**changes: object) -> Probe:
    return replace(demo_probe(), **changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pretrain(steps=0), "steps 0 must be at least 1"),
        (lambda: pretrain(batch=0), "batch 0 must be at least 1"),
        (lambda: pretrain(log_every=0), "log_every 0 must be at least 1"),
        (lambda: pretrain(save_every=0), "save_every 0 must be at least 1"),
        (lambda: pretrain(validate_every=0), "validate_every 0 must be at least 1"),
        (lambda: pretrain(float8=True, precision="fp32"), "float8 takes its inputs in bf16"),
        (lambda: pretrain(mixture=()), "the mixture names no source"),
        (lambda: pretrain(warmup=20), "warmup 20 must be less than steps 20"),
        (lambda: probe(tasks=()), "the probe has no task"),
        (lambda: probe(seeds=(3,)), r"seeds \(3,\): the spread of the scores needs at least 2"),
        (lambda: Tokenize(data=HERE, tokenizer="grey", crops=0), "crops 0 must be at least 1"),
        (
            lambda: Tokenize(data=HERE, tokenizer="grey", test_crops=2),
            "2 crops; there are 1, the middle, and 3: both ends and the middle",
        ),
        (lambda: TokenizerTraining(steps=0), "steps 0 must be at least 1"),
        (lambda: TokenizerTraining(batch=0), "batch 0 must be at least 1"),
        (lambda: TokenizerTraining(save_every=0), "save_every 0 must be at least 1"),
        (lambda: TokenizerTraining(log_every=0), "log_every 0 must be at least 1"),
        (lambda: TokenizerTraining(measure_every=0), "measure_every 0 must be at least 1"),
        (lambda: TokenizerTraining(measure_frames=0), "measure_frames 0 must be at least 1"),
        (
            lambda: TokenizerTraining(average_decay=1.0),
            r"average_decay 1.0 must lie in \[0, 1\)",
        ),
        (
            lambda: TokenizerTraining(method=QuantisationConfig()),
            "QuantisationConfig does not train a DVAEConfig: relaxation trains the discrete VAE",
        ),
        (
            lambda: TokenizerTraining(model=VQVAEConfig()),
            "RelaxationConfig does not train a VQVAEConfig: .* quantisation the VQ-VAE and",
        ),
        (
            lambda: Track(run_folder=HERE, data=HERE, test_clips=0),
            "selection_clips 12 and test_clips 0 must be at least 1",
        ),
        (
            lambda: Track(run_folder=HERE, data=HERE, protocol="davis"),
            "protocol 'davis' is unknown; there are: demo",
        ),
        (
            lambda: Generate(run_folder=HERE, data=HERE, prompt_frames=0),
            "prompt_frames 0 and frames 8 must be at least 1",
        ),
        (
            lambda: CollectionConfig(frames=1, digits=MovingDigitsConfig(side_px=128)),
            "frames 1 must be at least 2, stride 4 at least 1",
        ),
        (lambda: CollectionConfig(stride=0), "stride 0 at least 1"),
        (lambda: CollectionConfig(held_out_share=1.0), r"held_out_share 1.0 must lie in \[0, 1\)"),
        (
            lambda: CollectionConfig(
                side_px=64, held_out_share=0.1, digit_clips=DigitClips(test=1)
            ),
            "digits of 16 frames and 128 px do not match clips",
        ),
    ],
)
def test_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_collection_can_be_had_without_a_field() -> None:
    config = CollectionConfig()
    assert config.frames_needed == 61
    assert replace(config, stride=1).frames_needed == 16


@pytest.mark.parametrize("name", sorted(PROBE))
def test_every_recipe_of_probe_says_how_it_is_run(name: str) -> None:
    recipe = PROBE[name]
    assert recipe().tasks
    command = "toto probe" if name == "demo" else f"toto probe {name}"
    assert f"Command: {command} --run-folder " in (recipe.__doc__ or "")
