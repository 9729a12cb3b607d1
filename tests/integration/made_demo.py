"""The demo at a hundredth of its size, and the videos it runs over."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from toto.jobs.demo import Demo
from toto.probe.fit import FitConfig
from toto.recipes import DEMO, PRETRAIN
from toto.recipes.data import own_videos
from toto.tokenizers import VQVAEConfig, save_tokenizer
from toto.train.learner import FrameBatch
from toto.train.quantisation import QuantisationConfig
from toto.video.collection import DigitClips

SIDE_PX, FRAMES = 32, 4


def moving_picture(frames: int, speed: int) -> np.ndarray:
    """Ramps of colour that drift, u8 [T 72 96 3]: every frame and every place differs."""
    time, y, x = np.mgrid[:frames, :72, :96]
    colours = [2 * x + 5 * speed * time, 3 * y + 3 * time, x + y + 7 * time]
    return (np.stack(colours, axis=-1) % 256).astype(np.uint8)


def save_small_tokenizer(folder: Path) -> None:
    """A VQ-VAE of 32 codes whose network is random and whose codes are centres of what it says."""
    torch.manual_seed(0)
    model = VQVAEConfig(
        vocab_size=32, code_width=4, width=32, residual_width=8, encoder_blocks=1, decoder_blocks=1
    ).build()
    frames = torch.from_numpy(moving_picture(40, 1)[:, :SIDE_PX, :SIDE_PX].copy())
    learner = QuantisationConfig(free_share=0.0).build(model, frames, steps=10, seed=0)
    learner.objective(model, FrameBatch(frames=frames, step=0))
    save_tokenizer(model, folder)


def demo_over(videos: Path, tokenizer: Path) -> Demo:
    """The demo's stages, each a hundredth of its size."""
    whole, tiny = DEMO["demo"](), PRETRAIN["tiny"]()
    collection = whole.ingest.collection
    return replace(
        whole,
        ingest=replace(
            own_videos(whole.ingest, videos),
            collection=replace(
                collection,
                frames=FRAMES,
                side_px=SIDE_PX,
                digits=replace(
                    collection.digits, frames=FRAMES, side_px=SIDE_PX, digit_px=16, speeds_px=(4,)
                ),
                digit_clips=DigitClips(pretrain=24, train=24, selection=16, test=16),
            ),
        ),
        tokenizer=replace(
            whole.tokenizer, tokenizer=str(tokenizer), clip_frames=64, digit_frames=64
        ),
        tokenize=replace(whole.tokenize, tokenizer=str(tokenizer)),
        pretrain=replace(
            tiny,
            model=replace(tiny.model, vocab_size=35, context=66),
            steps=6,
            save_every=3,
            validate_every=3,
        ),
        probe=replace(whole.probe, fit=FitConfig(epochs=1), seeds=(0, 1)),
        track=replace(whole.track, selection_clips=2, test_clips=3),
        generate=replace(
            whole.generate, prompt_frames=2, frames=2, real_clips=1, digit_clips=2, pictures=2
        ),
    )
