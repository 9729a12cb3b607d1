"""Complete, named configs. A variant is `dataclasses.replace` of another recipe."""

from collections.abc import Callable
from typing import Any

from toto.recipes.demo import demo, demo_probe
from toto.recipes.pretrain import base, large, one_b, tiny
from toto.recipes.pretrain import demo as demo_pretrain

PRETRAIN: dict[str, Callable[[], Any]] = {
    "base": base,
    "large": large,
    "1b": one_b,
    "demo": demo_pretrain,
    "tiny": tiny,
}
DEMO: dict[str, Callable[[], Any]] = {"demo": demo}

__all__ = ["DEMO", "PRETRAIN", "demo_probe"]
