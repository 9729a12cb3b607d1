"""Complete, named configs. A variant is `dataclasses.replace` of another recipe."""

from collections.abc import Callable
from typing import Any

from toto.recipes.data import ingest
from toto.recipes.demo import demo, demo_ingest, demo_probe
from toto.recipes.pretrain import base, large, one_b, patch_dvae, patch_patch, tiny
from toto.recipes.pretrain import demo as demo_pretrain
from toto.recipes.tokenizer import demo as demo_tokenizer
from toto.recipes.tokenizer import dvae, shipped, vqgan

PRETRAIN: dict[str, Callable[[], Any]] = {
    "base": base,
    "large": large,
    "1b": one_b,
    "patch-patch": patch_patch,
    "patch-dvae": patch_dvae,
    "demo": demo_pretrain,
    "tiny": tiny,
}
INGEST: dict[str, Callable[[], Any]] = {"paper": ingest, "demo": demo_ingest}
TOKENIZER: dict[str, Callable[[], Any]] = {
    "paper": dvae,
    "vqgan": vqgan,
    "shipped": shipped,
    "demo": demo_tokenizer,
}
DEMO: dict[str, Callable[[], Any]] = {"demo": demo}

__all__ = ["DEMO", "INGEST", "PRETRAIN", "TOKENIZER", "demo_probe"]
