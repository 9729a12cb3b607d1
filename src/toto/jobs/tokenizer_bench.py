"""`toto tokenizer bench`: several tokenizers on the same frames, side by side."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toto.jobs.measured_frames import MeasuredFrames, MeasuredSource
from toto.jobs.progress import Bar, bar
from toto.jobs.token_measures import (
    BATCH,
    STILL_FRAMES,
    STILL_IMAGES,
    Counted,
    clip_flips,
    describe,
    draws,
    halves_distance,
    ngram_counts,
    reconstruction,
    require_fit,
    still_flips,
)
from toto.report.token_plots import draw_comparison, draw_ngrams
from toto.report.token_tables import bench_table, row_label
from toto.runtime.devices import device
from toto.runtime.durable import write_bytes
from toto.runtime.folder import RunFolder
from toto.tokenizers import Tokenizer, load_tokenizer
from toto.tokenizers.files import BY_NAME

SHOWN = 8
BENCH_SIGMA = 1.0
"""Noise of the still clips, in grey levels: about what a camera's sensor adds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerBench(MeasuredSource):
    """Measure tokenizers on the same frames."""

    tokenizers: tuple[str, ...] = ()
    """Folders of trained tokenizers, or names; none takes all that can be opened by name."""

    def run(self, out: Path) -> dict[str, Any]:
        """Write `results/tokenizer_bench.json`, the table as `bench.md`, and the pictures.

        Raises:
            ValueError: if a tokenizer or the frames cannot be opened or do not fit each other.
        """
        given = self.tokenizers or BY_NAME
        tokenizers = {label: load_tokenizer(name) for label, name in labels(given).items()}
        for label, tokenizer in tokenizers.items():
            try:
                require_fit(tokenizer, self.side_px)
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from error
        self.require_files()
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("tokenizer_bench"):
                return folder.result("tokenizer_bench")
            frames, clips = self.read()
            rows, pictures = {}, {"original": frames.frames[frames.some(SHOWN)].numpy()}
            for label, tokenizer in tokenizers.items():
                with bar(label[-12:], _cost(tokenizer, frames, clips)) as progress:
                    row, drawn = _measure(tokenizer, frames, clips, progress)
                rows[label] = row
                if drawn is not None:
                    pictures[row_label(label, row)] = drawn
            result = {
                "frames": frames.summary(),
                "clips": None if clips is None else clips.summary(),
                "frechet_dct_halves": halves_distance(frames),
                "noise_sigma": BENCH_SIGMA,
                "threads": torch.get_num_threads(),
                "device": device().type,
                "batch": BATCH,
                "tokenizers": rows,
            }
            draw_comparison(out / "comparison.png", pictures, result["frames"])
            draw_ngrams(out / "ngrams.png", rows, result["frames"])
            write_bytes(out / "bench.md", bench_table(result).encode())
            folder.write_result("tokenizer_bench", result)
            return result


def labels(given: tuple[str, ...]) -> dict[str, str]:
    """Short names to tell tokenizers apart: the last part of the path where that is enough.

    Raises:
        ValueError: if one is given twice.
    """
    times = Counter(Path(name).name for name in given)
    short = {name if times[Path(name).name] > 1 else Path(name).name: name for name in given}
    if len(short) < len(given):
        twice = next(name for name, count in Counter(given).items() if count > 1)
        raise ValueError(f"tokenizer {twice!r} is given twice")
    return short


def _cost(tokenizer: Tokenizer, frames: MeasuredFrames, clips: MeasuredFrames | None) -> int:
    still = min(STILL_IMAGES, len(frames.frames)) * STILL_FRAMES
    others = len(clips.frames) if clips is not None and clips is not frames else 0
    return (1 + draws(tokenizer)) * len(frames.frames) + others + still


def _measure(
    tokenizer: Tokenizer, frames: MeasuredFrames, clips: MeasuredFrames | None, progress: Bar
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Give a tokenizer's row, and its reconstructions of the frames that are shown."""
    counted = Counted(tokenizer, progress)
    # The first frames also choose algorithms and fill caches; they are not timed.
    tokenizer.encode(frames.frames[:BATCH])
    began = time.perf_counter()
    ids = counted.encode(frames.frames)
    encode_s = time.perf_counter() - began
    drawn = counted.decode(ids) if draws(tokenizer) else None
    moving = None
    if clips is not None:
        moving = clip_flips(ids if clips is frames else counted.encode(clips.frames), clips.lengths)
    progress.advance(0, note="comparing pictures")
    close = None if drawn is None else reconstruction(frames, drawn)
    progress.advance(0, note="still clips")
    row = {
        "tokenizer": describe(tokenizer),
        "tokens": ids.numel(),
        "tokens_per_s": ids.numel() / encode_s,
        "ngrams": ngram_counts(ids, tokenizer.vocab_size),
        "reconstruction": close,
        "flips": {"still": still_flips(counted, frames, BENCH_SIGMA), "clips": moving},
    }
    return row, None if drawn is None else drawn[frames.some(SHOWN)].numpy()
