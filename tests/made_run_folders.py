"""Pre-training runs on disk, without the training: for tests of what opens them."""

from dataclasses import replace
from pathlib import Path

import torch

from toto.config import digest, to_dict
from toto.jobs.pretrain import Pretrain
from toto.models import Decoder, DecoderConfig
from toto.models.flops import model_cost
from toto.recipes import PRETRAIN
from toto.runtime import checkpoint
from toto.runtime.folder import RunFolder
from toto.tokenizers import load_tokenizer, save_tokenizer

GRID = (4, 4)
CODES = 16
"""Of the grey tokenizer."""


def strange(config: DecoderConfig) -> Decoder:
    """A model without gains of 1 and biases of 0, which would hide one that is misplaced."""
    model = config.build().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.uniform_(0.5, 1.5)
        elif name.endswith("bias") and "mixer" not in name:
            parameter.normal_(std=0.3)
        elif name.endswith(("mixer.select.weight", "mixer.step.weight", "mixer.output.weight")):
            # Or a Mamba with a tied head would say the same code again and again.
            parameter.mul_(8)
    return model


def save_run(out: Path, model: Decoder, *, step: int = 20, frames: int = 4) -> Pretrain:
    """Write what `toto pretrain` leaves of a run that ended at this step, with a few losses."""
    tiny = PRETRAIN["tiny"]()
    job = replace(
        tiny,
        shards="/home/somebody/shards",
        model=model.config,
        layout=replace(tiny.layout, frames=frames),
        steps=step,
    )
    with RunFolder.create(out, job, tensorboard=False) as folder:
        save_tokenizer(load_tokenizer("grey"), out / "tokenizer")
        described = {
            "model": to_dict(job.model),
            "layout": to_dict(job.layout),
            "patches": to_dict(job.patches),
            "grid": list(GRID),
            "parameters": model_cost(job.model).parameters,
            "precision": "fp32",
        }
        folder.write_result("model", described)
        folder.log(step=step // 2, loss=2.5)
        folder.log(step=step, loss=1.25, validation_loss=1.5)
        add_checkpoint(out, job, model, step)
        folder.write_result("pretrain", {"steps": step, "validation_loss": 1.5})
    return job


def add_checkpoint(out: Path, job: Pretrain, model: Decoder, step: int) -> None:
    """Write one more checkpoint of these weights."""
    checkpoint.save(
        out / "checkpoints",
        step,
        tensors={"model": model.state_dict(), "random": {"cpu": torch.get_rng_state()}},
        config_digest=digest(job),
    )
