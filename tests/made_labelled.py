"""Labelled shards and fine-tunings of them, small enough for seconds."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from made_grey import of_grey
from made_run_folders import save_run
from toto.data.records import ClipRecord
from toto.data.shards import write_shard
from toto.data.token_set import write_index
from toto.jobs.finetune import Finetune
from toto.models import Decoder, DecoderConfig, Gpt2Config, LlamaConfig
from toto.probe.classifier import HeadConfig
from toto.recipes import FINETUNE
from toto.tasks.classification import Task
from toto.tokenizers import load_tokenizer
from toto.types import TokenGrid
from toto.video.manifest import Row, write_manifest

CLASSES = 3
LLAMA = LlamaConfig(vocab_size=19, width=32, depth=2, heads=2, mlp_width=64, context=66)
GPT2 = Gpt2Config(vocab_size=19, width=32, depth=2, heads=2, context=66)
PATCHES = replace(LLAMA, patch_values=3 * 8**2)
SPLITS = {"train": 14, "selection": 9, "test": 7}
"""Clips of each; no power of two divides all of them."""


def write_labelled(
    folder: Path,
    *,
    frames: bool = True,
    length: int = 4,
    longer: int = 0,
    kind: str = "video",
    shuffled: bool = False,
) -> Path:
    """Write clips of 4 x 4 codes of the grey tokenizer, brighter for each class.

    Args:
        folder: of the splits.
        frames: whether they are kept.
        length: frames of a clip.
        longer: how many more every second clip has.
        kind: of the shards.
        shuffled: whether the labels of the training clips are exchanged among them.
    """
    grey, draw = load_tokenizer("grey"), torch.Generator().manual_seed(0)
    description = of_grey(kind=kind)
    for name, count in SPLITS.items():
        clips = []
        for number in range(count):
            times = length + longer * (number % 2)
            label = number % CLASSES
            pixels = torch.randint(80, (times, 32, 32, 3), generator=draw) + 70 * label
            pixels = pixels.byte()
            if shuffled and name == "train":
                label = (number + number // CLASSES) % CLASSES
            record = ClipRecord(
                source=f"made/{name}#{number}",
                source_sha256=None,
                frame_indices=tuple(range(times)),
                times_s=tuple(range(times)),
                side_px=32,
                crop=(0.5, 0.5),
                labels={"shade": label},
            )
            grid = TokenGrid(ids=grey.encode(pixels), vocab_size=grey.vocab_size)
            clips.append((grid, record, pixels if frames else None))
        write_shard(folder / name / "00000", description, clips)
        write_index(folder / name)
    return folder


def write_lost(folder: Path, lost: dict[str, tuple[str, str]]) -> None:
    """Write a manifest of clips that no shard holds.

    Args:
        folder: of the manifest.
        lost: status and split of each, by its name.
    """
    rows = [
        Row(
            source="made",
            path=clip,
            clip=clip,
            sha256=None,
            status=status,
            stage="open",
            reason="not there",
            split=split,
        )
        for clip, (status, split) in lost.items()
    ]
    write_manifest(folder / "manifest.parquet", rows)


def write_run(out: Path, config: DecoderConfig = LLAMA) -> Decoder:
    """Write a pre-training run of a model with fresh weights."""
    torch.manual_seed(1)
    model = config.build()
    save_run(out, model)
    return model


def tiny(run: Path, shards: Path, **changes: Any) -> Finetune:
    """Recipe tiny on these clips, in fp32."""
    job = replace(
        FINETUNE["tiny"](),
        run_folder=run,
        shards=str(shards),
        task=Task(name="shade", classes=CLASSES),
        precision="fp32",
        epochs=3,
    )
    return replace(job, **changes)


def probes(run: Path, shards: Path, **changes: Any) -> Finetune:
    """The same by stopped probes."""
    stopped = {
        "protocol": "stop-gradient",
        "attention": "causal",
        "head": HeadConfig(pooling="attention", heads=2),
    }
    return tiny(run, shards, **{**stopped, **changes})


def losses(out: Path) -> list[tuple[int, str, str]]:
    """All losses, norms and accuracies of a run, by step, bit for bit."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["step"], name, float(line[name]).hex())
        for line in lines
        for name in ("loss", "grad_norm", "selection_accuracy", "selection_next_token_loss")
        if name in line
    ]


def weights_sha256(out: Path) -> str:
    """Of the newest checkpoint's weights."""
    newest = max((out / "checkpoints").glob("step-???????"))
    return hashlib.sha256((newest / "model.safetensors").read_bytes()).hexdigest()
