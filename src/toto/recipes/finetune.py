"""Fine-tuning: the paper's two protocols, and one for tests.

What the paper leaves open is said in each. Shards and run are named by the command.
"""

from dataclasses import replace
from pathlib import Path

from toto.jobs.finetune import Finetune
from toto.probe.classifier import HeadConfig
from toto.tasks.classification import Task
from toto.train.augmentation import AugmentationConfig
from toto.train.mixing import MixingConfig
from toto.train.optimizer import AdamWConfig

RUN = Path("runs/demo/pretrain")
SHARDS = "runs/demo/shards/moving-digits"


def mae_base() -> Finetune:
    """`base`, all weights, on ImageNet-1k with attention in both directions (T13, P8).

    The paper says that it fine-tunes with full attention and compares with MAE's table of ViT-B;
    all else here is MAE's recipe for those numbers: 100 epochs, 1,024 images a step, 5e-4 for 256
    of them, layer decay .65, weight decay .05, drop path .1, mixup .8, cutmix 1, RandAugment 9 with
    deviation .5, erasing .25, label smoothing .1, 5 epochs of warm-up, averages pooled, no
    clipping. Pixels are changed before the frozen tokenizer reads them, so that the shards must
    keep frames.

    Expected: 82.6 % on ImageNet-1k. Not run by us at this size.
    Command: torchrun -m toto finetune mae-base --run-folder runs/base --shards SHARDS
    """
    lr = 5e-4 * 1024 / 256
    return Finetune(
        run_folder=RUN,
        shards=SHARDS,
        task=Task(name="class", classes=1000),
        epochs=100,
        warmup_epochs=5,
        batch=1024,
        lr=lr,
        floor=1e-6 / lr,
        layer_decay=0.65,
        optimizer=AdamWConfig(betas=(0.9, 0.999), weight_decay=0.05),
        clip_norm=0.0,
        drop_path=0.1,
        label_smoothing=0.1,
        augmentation=AugmentationConfig(
            crop_area=(0.08, 1.0), flip=0.5, operations=2, magnitude=9.0, erase=0.25
        ),
        mixing=MixingConfig(mixup=0.8, cutmix=1.0),
    )


def paper_probes() -> Finetune:
    """ImageNet-1k by stopped probes, while the backbone goes on with the next token (T7, P1).

    The paper's: an attention probe behind every layer, 90 epochs, 6e-5, layer decay .9, 32 x 32
    places and RoPE base 50,000. Ours: AdamW as in pre-training, 256 images a step, 5 epochs of
    warm-up and a cosine, crops and flips, the probes at the full rate. A sequence is one image of
    1,024 places, within the context that the run has.

    Expected: 64.7, 71.1 and 75.3 % for base, large and 1b. Not run by us at this size.
    Command: torchrun -m toto finetune paper-probes --run-folder runs/base --shards SHARDS
    """
    return Finetune(
        run_folder=RUN,
        shards=SHARDS,
        task=Task(name="class", classes=1000),
        protocol="stop-gradient",
        attention="causal",
        head=HeadConfig(pooling="attention"),
        rope_base=50_000.0,
        epochs=90,
        warmup_epochs=5,
        batch=256,
        lr=6e-5,
        layer_decay=0.9,
        augmentation=AugmentationConfig(crop_area=(0.08, 1.0), flip=0.5),
    )


def kinetics() -> Finetune:
    """Kinetics-400 by the same protocol: 16 frames, every 4th, 128 px, 4,096 tokens (P2.1).

    The schedule is not in the paper; that of ImageNet is ours to take, with 64 clips a step and the
    rotary base of the run. Training reads a random stretch of each clip, cropped and flipped; the
    score is of one view, the middle, and not yet of the paper's 10 x 3.

    Expected: 59.3, 65.3 and 74.4 % for base, large and 1b, by 30 views. Not run by us at this size.
    Command: torchrun -m toto finetune kinetics --run-folder runs/base --shards SHARDS
    """
    return replace(
        paper_probes(),
        task=Task(name="class", classes=400),
        frames=16,
        rope_base=0.0,
        batch=64,
        augmentation=AugmentationConfig(crop_area=(0.5, 1.0), flip=0.5),
    )


def tiny() -> Finetune:
    """Seconds on any machine, on the demo's digits; tests train it, and nothing of it compares.

    Command: toto finetune tiny --run-folder runs/demo/pretrain
    """
    return Finetune(
        run_folder=RUN,
        shards=SHARDS,
        task=Task(name="digit", classes=10),
        epochs=2,
        warmup_epochs=0,
        batch=4,
        lr=1e-3,
        layer_decay=0.75,
        log_every=1,
        save_every=5,
    )
