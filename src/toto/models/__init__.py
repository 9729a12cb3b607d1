"""Sequence models over token ids. Registered means tested."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

from toto.config import from_dict
from toto.models.gpt2 import Gpt2, Gpt2Config
from toto.models.llama import Llama, LlamaConfig
from toto.models.mamba import Mamba, MambaConfig

Decoder: TypeAlias = Llama | Gpt2 | Mamba
DecoderConfig: TypeAlias = LlamaConfig | Gpt2Config | MambaConfig

MODELS: dict[str, type[DecoderConfig]] = {
    "llama": LlamaConfig,
    "gpt2": Gpt2Config,
    "mamba": MambaConfig,
}
"""Name to config class; `config.build()` makes the model."""


def decoder_config(saved: Mapping[str, Any]) -> DecoderConfig:
    """Read what `to_dict` made of a decoder's config; its fields tell which one it is.

    Raises:
        ValueError: if a field is unknown or missing in the one that has most of them.
    """

    def shared(cls: type[DecoderConfig]) -> int:
        return len(set(saved) & {field.name for field in dataclasses.fields(cls)})

    return from_dict(max(MODELS.values(), key=shared), saved)


__all__ = [
    "MODELS",
    "Decoder",
    "DecoderConfig",
    "Gpt2",
    "Gpt2Config",
    "Llama",
    "LlamaConfig",
    "Mamba",
    "MambaConfig",
    "decoder_config",
]
