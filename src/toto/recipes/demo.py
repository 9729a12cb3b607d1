"""The demo: every stage of the path, small."""

from pathlib import Path

from toto.jobs.demo import Demo
from toto.jobs.generate import Generate
from toto.jobs.ingest import Ingest
from toto.jobs.probe import Probe
from toto.jobs.tokenize import Tokenize
from toto.jobs.tokenizer_check import TokenizerCheck
from toto.jobs.track import Track
from toto.probe.fit import FitConfig
from toto.recipes.pretrain import demo as demo_pretrain
from toto.tasks.classification import Task
from toto.video.collection import CollectionConfig, DigitClips
from toto.video.datasets.moving_digits import MOTIONS, MovingDigitsConfig
from toto.video.datasets.sample_clips import SampleClips

FRAMES, SIDE_PX = 8, 64
RUN = Path("runs/demo")
"""Where the demo's folders are by default; the demo itself sets the paths of its stages."""


def demo() -> Demo:
    """Videos to report on 2 CPU cores in minutes; the stages are those of the recipes below.

    Command: toto demo
    """
    return Demo(
        ingest=demo_ingest(),
        tokenizer=TokenizerCheck(data=RUN / "data"),
        tokenize=Tokenize(data=(RUN / "data",), crops=4, shard_frames=4096),
        pretrain=demo_pretrain(),
        probe=demo_probe(),
        track=Track(run_folder=RUN / "pretrain", data=RUN / "data"),
        generate=Generate(
            run_folder=RUN / "pretrain",
            data=RUN / "data",
            prompt_frames=FRAMES // 2,
            frames=FRAMES // 2,
        ),
    )


def demo_ingest() -> Ingest:
    """Clips of 8 frames of 64 px (8 x 8 tokens); the paper has 16 of 128.

    Every 2nd frame instead of every 4th, because the built-in clips last seconds.

    Command: toto ingest demo --videos DIR --out runs/data
    """
    return Ingest(
        dataset=SampleClips(name="clips"),
        collection=CollectionConfig(
            frames=FRAMES,
            stride=2,
            held_out_share=0.25,
            side_px=SIDE_PX,
            digits=MovingDigitsConfig(frames=FRAMES, side_px=SIDE_PX),
            digit_clips=DigitClips(pretrain=2900, train=600, selection=200, test=300),
        ),
    )


def demo_probe() -> Probe:
    """Digit and motion class of moving digits, at every layer, three seeds.

    Command: toto probe --run-folder runs/demo/pretrain --shards runs/demo/shards/moving-digits
    """
    return Probe(
        run_folder=RUN / "pretrain",
        shards=str(RUN / "shards/moving-digits"),
        tasks=(Task(name="digit", classes=10), Task(name="motion", classes=len(MOTIONS))),
        fit=FitConfig(epochs=20),
    )
