"""Sequence models over token ids. Registered means tested."""

from typing import Any

from toto.models.llama import Llama, LlamaConfig

MODELS: dict[str, type[Any]] = {
    "llama": LlamaConfig,
}
"""Name to config class; `config.build()` makes the model."""

__all__ = ["MODELS", "Llama", "LlamaConfig"]
