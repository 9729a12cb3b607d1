"""Pictures with the spectrum of photographs, and copies of them, for the leak guard's tests."""

import io

import numpy as np
from PIL import Image

SIDE = 160


def picture(seed: int) -> np.ndarray:
    """Grey picture of many waves, the longer the stronger, u8 [160 160]."""
    draw = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None]) * SIDE
    waves = np.fft.fft2(draw.normal(size=(SIDE, SIDE))) / np.maximum(frequency, 1) ** 1.5
    found = np.fft.ifft2(waves).real
    return np.clip(128 + 45 * found / found.std(), 0, 255).astype(np.uint8)


def film(seed: int, frames: int = 5) -> np.ndarray:
    """Different pictures, one after the other, u8 [T 160 160]."""
    return np.stack([picture(100 * seed + number) for number in range(frames)])


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """What the decoder's scan makes of frames: whole, squashed to 64 x 64."""
    size, filter_ = (64, 64), Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, filter_)) for frame in frames])


def jpeg(frames: np.ndarray, quality: int = 30) -> np.ndarray:
    found = []
    for frame in frames:
        data = io.BytesIO()
        Image.fromarray(frame).save(data, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(data)))
    return np.stack(found)


def part(frames: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """A crop, in percent."""
    rows = slice(SIDE * top // 100, SIDE * (top + height) // 100)
    return frames[:, rows, SIDE * left // 100 : SIDE * (left + width) // 100]


def letterboxed(frames: np.ndarray) -> np.ndarray:
    return np.pad(frames, ((0, 0), (SIDE // 6, SIDE // 6), (0, 0)))


def pillarboxed(frames: np.ndarray) -> np.ndarray:
    return np.pad(frames, ((0, 0), (0, 0), (SIDE // 6, SIDE // 6)))


def scaled(frames: np.ndarray, gain: float) -> np.ndarray:
    return np.clip(frames * gain, 0, 255).astype(np.uint8)
