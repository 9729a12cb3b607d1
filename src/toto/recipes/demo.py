"""The demo: every stage of the path, small."""

from pathlib import Path

from toto.jobs.demo import Demo
from toto.jobs.generate import Generate
from toto.jobs.ingest import Ingest
from toto.jobs.probe import Probe
from toto.jobs.tokenize import Tokenize
from toto.jobs.tokenizer import TokenizerTraining
from toto.jobs.track import Track
from toto.probe.fit import FitConfig
from toto.recipes.pretrain import demo as demo_pretrain
from toto.tasks.classification import Task
from toto.tokenizers.dvae import DVAEConfig
from toto.train.optimizer import AdamWConfig
from toto.video.collection import CollectionConfig, DigitClips
from toto.video.datasets.moving_digits import MOTIONS, MovingDigitsConfig

HERE = Path("stage-before")
"""Stands where the demo puts the folder of the stage before."""


def demo() -> Demo:
    """Videos to report on 2 CPU cores in minutes.

    Frames of 64 px (8 x 8 tokens) instead of 128 (16 x 16), every 2nd frame instead of every 4th
    because the built-in clips last seconds, and a discrete VAE of a two-hundredth of the size.

    Command: toto demo
    """
    frames, side_px = 8, 64
    return Demo(
        ingest=Ingest(
            collection=CollectionConfig(
                frames=frames,
                stride=2,
                side_px=side_px,
                digits=MovingDigitsConfig(frames=frames, side_px=side_px),
                digit_clips=DigitClips(pretrain=3000, train=800, selection=200, test=400),
            )
        ),
        tokenizer=TokenizerTraining(
            data=HERE,
            model=DVAEConfig(vocab_size=512, width=16, decoder_stem=128, blocks_per_group=1),
            steps=400,
            batch=32,
            lr=6e-3,
            lr_floor=0.05,
            optimizer=AdamWConfig(betas=(0.9, 0.999), weight_decay=1e-4),
            temperature_share=0.8,
            kl_weight=0.0,
            balance_weight=0.1,
            sharpness=20.0,
            save_every=100,
        ),
        tokenize=Tokenize(data=HERE, tokenizer=str(HERE)),
        pretrain=demo_pretrain(),
        probe=demo_probe(),
        track=Track(run_folder=HERE, data=HERE),
        generate=Generate(run_folder=HERE, data=HERE, prompt_frames=4, frames=4),
    )


def demo_probe() -> Probe:
    """Digit and motion class of moving digits, at every layer, three seeds.

    Command: toto probe --run-folder runs/demo/pretrain --shards runs/demo/shards/moving-digits
    """
    return Probe(
        run_folder=Path("runs/demo/pretrain"),
        shards=Path("runs/demo/shards/moving-digits"),
        tasks=(Task(name="digit", classes=10), Task(name="motion", classes=len(MOTIONS))),
        fit=FitConfig(),
    )
