"""Trainings of tokenizers: as published, and the one whose outcome ships."""

from pathlib import Path

from toto.jobs.tokenizer import TokenizerTraining
from toto.jobs.training_frames import TrainingFrames
from toto.tokenizers import DVAEConfig, VQGANConfig, VQVAEConfig
from toto.train.optimizer import AdamWConfig
from toto.train.quantisation import AdversarialConfig, QuantisationConfig
from toto.train.relaxation import RelaxationConfig


def dvae() -> TokenizerTraining:
    """The discrete VAE at its published size and with its published schedules, in fewer steps.

    Published: 3 M updates of 512 images of 256 px; here 20,000 of 32, and nobody has run it at
    this size.
    Command: toto tokenizer train paper --sources.images DIR --out runs/tokenizer
    """
    return TokenizerTraining(sources=TrainingFrames(side_px=128))


def vqgan() -> TokenizerTraining:
    """VQGAN f16 with 1024 codes: published size, codes by gradient, PatchGAN in the second half.

    Against the published: no perceptual loss, since it brings in the labels of ImageNet, and the
    paper gives that as its reason against VQGAN; codes start on k-means centres and restart when
    unused. Nobody has run it at this size.
    Command: toto tokenizer train vqgan --sources.images DIR --out runs/tokenizer
    """
    return TokenizerTraining(
        sources=TrainingFrames(side_px=256),
        model=VQGANConfig(),
        method=QuantisationConfig(
            reconstruction="absolute",
            commitment=0.25,
            codebook="gradient",
            adversarial=AdversarialConfig(weight=0.8),
        ),
        steps=100_000,
        batch=12,
        lr=5.4e-5,
        lr_floor=1.0,
        warmup_share=0.0,
        optimizer=AdamWConfig(betas=(0.5, 0.9), weight_decay=0.0),
    )


def shipped() -> TokenizerTraining:
    """The tokenizer in the package: 8 px a token, 8,192 codes, an hour on 2 CPU cores.

    The images are Tiny-ImageNet's (40 classes were used), the clips real ones of `toto ingest
    demo`. The model card beside the weights says what came out.
    Command: toto tokenizer train shipped --sources.images tiny-imagenet/train
        --sources.clips runs/data --out runs/tokenizer
    """
    return TokenizerTraining(
        sources=TrainingFrames(clip_frames=5000),
        model=VQVAEConfig(),
        method=QuantisationConfig(),
        steps=8000,
        batch=64,
        mirror=True,
        lr=2e-3,
        lr_floor=1e-3,
        warmup_share=0.01,
        clip_norm=1.0,
        optimizer=AdamWConfig(betas=(0.9, 0.99), weight_decay=1e-4),
        average_decay=0.998,
        half=True,
        measure_every=250,
        measure_frames=256,
        save_every=500,
    )


def demo() -> TokenizerTraining:
    """A discrete VAE of 0.3 M parameters and 512 codes, trained in under a minute.

    Against the published recipe: one block a group, codes started on patches, balance of the
    codes instead of the divergence, no average of the weights (docs/log.md, 2026-11-20).

    Command: toto tokenizer train demo --sources.clips runs/data --out runs/tokenizer
    """
    return TokenizerTraining(
        sources=TrainingFrames(clips=Path("runs/demo/data"), digit_frames=3000),
        model=DVAEConfig(vocab_size=512, width=16, decoder_stem=128, blocks_per_group=1),
        method=RelaxationConfig(
            temperature_share=0.8, kl_weight=0.0, balance_weight=0.1, sharpness=20.0
        ),
        steps=400,
        batch=32,
        lr=6e-3,
        lr_floor=0.05,
        average_decay=0.0,
        measure_every=50,
        save_every=100,
    )
