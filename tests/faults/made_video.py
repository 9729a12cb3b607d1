"""Short videos of drifting noise, each seed another."""

from pathlib import Path

import numpy as np

from toto.video.write import write_mp4


def picture(frames: int, seed: int) -> np.ndarray:
    """Coarse noise that drifts, u8 [T 48 64 3]."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 24, 3), dtype=np.uint8)
    large = noise.repeat(4, axis=0).repeat(4, axis=1)
    return np.stack([large[:, n % 32 : n % 32 + 64] for n in range(frames)])


def write(path: Path, *, frames: int, seed: int) -> None:
    """Write such a video at 12 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, picture(frames, seed), fps=12)
