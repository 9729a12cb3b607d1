"""Complete, named configs. A variant is `dataclasses.replace` of another recipe."""

from collections.abc import Callable
from typing import Any

from toto.recipes.ablations import (
    ablation,
    dvae_16_to_32,
    dvae_32,
    gpt2,
    mamba,
    patch_dvae,
    patch_patch,
)
from toto.recipes.data import ingest
from toto.recipes.demo import demo, demo_ingest, demo_probe
from toto.recipes.finetune import (
    frozen_attention,
    frozen_linear,
    kinetics,
    kinetics_mlp,
    mae_base,
    paper_probes,
)
from toto.recipes.finetune import tiny as tiny_finetune
from toto.recipes.pretrain import base, frames_32, large, one_b, tiny, tiny_gpt2, tiny_mamba
from toto.recipes.pretrain import demo as demo_pretrain
from toto.recipes.probe import classes
from toto.recipes.scaling import a1, a2, a3, a4, a5, a6
from toto.recipes.tokenizer import demo as demo_tokenizer
from toto.recipes.tokenizer import dvae, shipped, vqgan

PRETRAIN: dict[str, Callable[[], Any]] = {
    "base": base,
    "large": large,
    "1b": one_b,
    "frames-32": frames_32,
    "ablation": ablation,
    "patch-patch": patch_patch,
    "patch-dvae": patch_dvae,
    "gpt2": gpt2,
    "mamba": mamba,
    "dvae-32": dvae_32,
    "16-to-32": dvae_16_to_32,
    "a1": a1,
    "a2": a2,
    "a3": a3,
    "a4": a4,
    "a5": a5,
    "a6": a6,
    "demo": demo_pretrain,
    "tiny": tiny,
    "tiny-gpt2": tiny_gpt2,
    "tiny-mamba": tiny_mamba,
}
INGEST: dict[str, Callable[[], Any]] = {"paper": ingest, "demo": demo_ingest}
TOKENIZER: dict[str, Callable[[], Any]] = {
    "paper": dvae,
    "vqgan": vqgan,
    "shipped": shipped,
    "demo": demo_tokenizer,
}
FINETUNE: dict[str, Callable[[], Any]] = {
    "mae-base": mae_base,
    "paper-probes": paper_probes,
    "frozen-linear": frozen_linear,
    "frozen-attention": frozen_attention,
    "kinetics": kinetics,
    "kinetics-mlp": kinetics_mlp,
    "tiny": tiny_finetune,
}
PROBE: dict[str, Callable[[], Any]] = {"demo": demo_probe, "classes": classes}
DEMO: dict[str, Callable[[], Any]] = {"demo": demo}

__all__ = ["DEMO", "FINETUNE", "INGEST", "PRETRAIN", "PROBE", "TOKENIZER", "demo_probe"]
