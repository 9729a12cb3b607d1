"""The loader against the fastest consumer it is meant for: `base` on an H200 at 50 % of its FLOPs.

One process, one thread, whole sequences of 16 frames of 16 x 16 codes, files in the page cache: 32
a batch from the paper's mixture, three sources of videos and one of images, of which a sequence
takes sixteen from anywhere. A resume opens the sets anew, which hashes every shard it touches, and
begins at a step far on. Each round ends with one, so that it counts.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.side_by_side import line
from toto.data.layout import Layout, LayoutConfig
from toto.data.loader import Loader
from toto.data.records import ClipRecord, Description
from toto.data.shards import write_shard
from toto.data.token_set import TokenSet, shard_name, write_index
from toto.models.flops import model_cost
from toto.recipes.pretrain import base
from toto.types import TokenGrid

H200_FLOPS = 790e12
"""Dense bf16 that large matrix products reach on it, not the 989e12 of the data sheet."""
CODES, GRID, SHARDS = 8192, (16, 16), 4
CLIPS, CLIP_FRAMES, IMAGES = 64, 64, 4096
"""Of each shard."""
BATCH, STEPS, ROUNDS = 32, 150, 5
MIXTURE = {"imagenet": 20, "kinetics": 10, "ego4d": 10, "howto100m": 60}
"""Shares in per cent; the first is the source of images."""


def run() -> Iterator[str]:
    """Yield what is needed, then what the loader gives."""
    torch.set_num_threads(1)
    sequence = base().model.context
    needed = 0.5 * H200_FLOPS / model_cost(base().model).train_flops_a_token / sequence
    yield f"base on an H200 at 50 % reads {needed:.0f} sequences/s"
    with tempfile.TemporaryDirectory(prefix="toto-bench-") as folder:
        paths = [Path(folder, name) for name in MIXTURE]
        for number, path in enumerate(paths):
            write_set(path, "video" if number else "images")
        for names, shown in (
            (["howto100m"], "videos"),
            (["imagenet"], "images, 16 a sequence"),
            (list(MIXTURE), "the paper's mixture"),
        ):
            chosen = [Path(folder, name) for name in names]
            weights = [float(MIXTURE[name]) for name in names]
            rates, resumes_s = [], []
            for turn in range(ROUNDS + 1):
                cpu_s, resume_s = one_round(chosen, weights, first_step=turn * 1_000_003)
                rates.append(BATCH * STEPS / cpu_s / needed)
                resumes_s.append(resume_s)
            yield line(f"loader, {shown}, resume included / base on an H200", rates[1:])
            share = min(resumes_s[1:]) / (BATCH * STEPS)
            yield (
                f"  {1e6 * BATCH / needed / max(rates):.0f} us a batch of {BATCH}; a resume of "
                f"{len(chosen) * SHARDS} shards takes {1e3 * min(resumes_s[1:]):.0f} ms, "
                f"{1e6 * share:.0f} us a sequence of these"
            )


def one_round(
    paths: Sequence[Path], weights: Sequence[float], *, first_step: int
) -> tuple[float, float]:
    """Open, go to a step and read from it on.

    Returns:
        CPU time of all, and of it until the first batch is there, in seconds.
    """
    began = time.process_time()
    sets = [TokenSet(path) for path in paths]
    layout = Layout(LayoutConfig(), codes=CODES, frame_tokens=GRID[0] * GRID[1])
    loader = Loader(sets, weights, layout, seed=0)
    batches = loader.batches(batch=BATCH, first_step=first_step)
    next(batches)
    resumed = time.process_time()
    for _ in range(STEPS - 1):
        next(batches)
    return time.process_time() - began, resumed - began


def write_set(path: Path, kind: str) -> None:
    """Write random codes as clips of several frames, or as images of one."""
    clips, frames = (CLIPS, CLIP_FRAMES) if kind == "video" else (IMAGES, 1)
    description = Description(
        tokenizer="random",
        tokenizer_digest="0" * 64,
        vocab_size=CODES,
        patch_px=8,
        grid=GRID,
        kind=kind,
        precision="fp32",
        resize_filter="none",
        decoder="none",
    )
    for shard in range(SHARDS):
        write_shard(
            path / shard_name(shard),
            description,
            (random_clip(f"{shard}/{clip}", frames) for clip in range(clips)),
        )
    write_index(path)


def random_clip(name: str, frames: int) -> tuple[TokenGrid, ClipRecord]:
    """Draw the codes of one clip."""
    ids = torch.randint(CODES, (frames, *GRID), dtype=torch.int32)
    record = ClipRecord(
        source="random",
        clip=name,
        source_sha256=None,
        frame_indices=tuple(range(0, 4 * frames, 4)),
        times_s=tuple(index * 4 / 30 for index in range(frames)),
        side_px=128,
        crop=(0.5, 0.5),
    )
    return TokenGrid(ids=ids, vocab_size=CODES), record
