"""A tokenizer's training that was stopped or killed ends as the one that was left alone."""

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from toto.jobs import tokenizer
from toto.jobs.tokenizer import TokenizerTraining
from toto.jobs.training import StoppedError
from toto.jobs.training_frames import TrainingFrames
from toto.runtime import durable
from toto.tokenizers import DVAEConfig, VQGANConfig, VQVAEConfig
from toto.train.adversarial import DiscriminatorConfig
from toto.train.quantisation import AdversarialConfig, QuantisationConfig
from toto.train.relaxation import RelaxationConfig

pytestmark = pytest.mark.faults
STEPS = 10
CRASH = "checkpoint.before_rename:2"
VQVAE = VQVAEConfig(
    vocab_size=64, code_width=4, width=8, residual_width=8, encoder_blocks=1, decoder_blocks=1
)
VQGAN = VQGANConfig(
    vocab_size=16,
    channels=32,
    multipliers=(1, 1),
    blocks_per_level=1,
    attention_levels=(),
    z_channels=4,
    code_width=4,
)
KINDS: dict[str, dict[str, Any]] = {
    # Codes are started anew all the time: they, too, must be the same.
    "vqvae": {
        "model": VQVAE,
        "method": QuantisationConfig(free_share=0.1, decay=0.5, restart_below=0.5),
    },
    "vqgan": {
        "model": VQGAN,
        "method": QuantisationConfig(
            codebook="gradient",
            free_share=0.1,
            adversarial=AdversarialConfig(
                weight=0.8, start_share=0.2, discriminator=DiscriminatorConfig(layers=1, channels=4)
            ),
        ),
    },
    "dvae": {
        "model": DVAEConfig(vocab_size=16, width=4, decoder_stem=8, blocks_per_group=1),
        "method": RelaxationConfig(sharpness=20.0),
    },
}


def training(kind: str, images: Path) -> TokenizerTraining:
    job = TokenizerTraining(
        sources=TrainingFrames(images=images, side_px=16, held_out_images=0.2, image_limit=20),
        steps=STEPS,
        batch=4,
        mirror=True,
        lr=3e-3,
        average_decay=0.9,
        measure_every=2,
        measure_frames=4,
        save_every=4,
        log_every=1,
        precision="fp32",
        **KINDS[kind],
    )
    return replace(job, half=kind == "vqvae")


def train(kind: str, images: Path, out: Path, crash_at: str = "") -> None:
    """Run in this process: the target of a process of its own, when it has to die."""
    torch.set_num_threads(1)
    os.environ["TOTO_CRASH_AT"] = crash_at
    try:
        training(kind, images).run(out)
    finally:
        del os.environ["TOTO_CRASH_AT"]


def logged(out: Path) -> list[dict[str, Any]]:
    """All that was measured, but for how many codes were started anew since the last time."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "restarted_codes"} for row in rows]


def sha256(out: Path) -> dict[str, str]:
    """Of what was saved: the tokenizer, and all that the last checkpoint carries."""
    files = [out / "weights.safetensors", *sorted((out / "checkpoints").glob("*/*.safetensors"))]
    return {
        file.relative_to(out).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def assert_same_end(out: Path, unbroken: Path) -> None:
    assert logged(out) == logged(unbroken)
    ours, theirs = sha256(out), sha256(unbroken)
    last = max(name for name in theirs if name.startswith("checkpoints/")).rpartition("/")[0]
    wanted = {
        name: found
        for name, found in theirs.items()
        if name.startswith(last) or name == "weights.safetensors"
    }
    assert len(wanted) > 3
    assert {name: ours[name] for name in wanted} == wanted
    results = [json.loads((run / "results/tokenizer.json").read_text()) for run in (out, unbroken)]
    assert results[0] == results[1]


@pytest.fixture(scope="module", autouse=True)
def _no_curve() -> Iterator[None]:
    """The picture of the curve takes longer than all else, and is none of this file's matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "draw_curve", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def unbroken(two_colours: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind that was left alone."""
    root = tmp_path_factory.mktemp("unbroken")
    for kind in KINDS:
        torch.manual_seed(5)  # it must not matter
        train(kind, two_colours, root / kind)
    return {kind: root / kind for kind in KINDS}


@pytest.mark.parametrize(("kind", "step"), [("vqvae", 1), ("vqgan", 7), ("dvae", 3)])
def test_stopped_and_resumed(
    kind: str,
    step: int,
    two_colours: Path,
    unbroken: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append, out = durable.append, tmp_path / "run"

    def stop_at_its_line(path: Path, data: bytes) -> None:
        append(path, data)
        if path.name == "metrics.jsonl" and json.loads(data)["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "append", stop_at_its_line)
        with pytest.raises(StoppedError, match=f"stopped at step {step}; saved in "):
            train(kind, two_colours, out)
    assert not (out / "tokenizer.json").exists()
    torch.manual_seed(6)
    train(kind, two_colours, out)
    assert_same_end(out, unbroken[kind])


def test_killed_and_resumed(two_colours: Path, unbroken: dict[str, Path], tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toto.jobs.tokenizer"])
    out = tmp_path / "run"
    child = context.Process(target=train, args=("vqgan", two_colours, out, CRASH))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert not (out / "results" / "tokenizer.json").exists()
    train("vqgan", two_colours, out)
    assert_same_end(out, unbroken["vqgan"])


def test_the_adversary_and_the_restarts_took_part(unbroken: dict[str, Path]) -> None:
    """Else the runs above would say nothing of them."""
    lines = (unbroken["vqvae"] / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert sum(row.get("restarted_codes", 0) for row in rows) > 0
    (carried,) = (unbroken["vqgan"] / "checkpoints").glob("step-0000008/learner.safetensors")
    tensors = load_file(carried)
    assert any(
        name.startswith("adversarial/optimizer/") and tensor.abs().sum() > 0
        for name, tensor in tensors.items()
    )
