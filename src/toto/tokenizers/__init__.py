"""Tokenizers: frames to discrete ids and back. Registered means tested."""

from toto.tokenizers.base import Tokenizer
from toto.tokenizers.dvae import DVAE, DVAEConfig
from toto.tokenizers.files import TOKENIZERS, load_tokenizer, save_tokenizer
from toto.tokenizers.grey import Grey, GreyConfig

__all__ = [
    "DVAE",
    "TOKENIZERS",
    "DVAEConfig",
    "Grey",
    "GreyConfig",
    "Tokenizer",
    "load_tokenizer",
    "save_tokenizer",
]
