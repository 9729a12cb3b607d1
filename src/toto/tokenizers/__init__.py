"""Tokenizers: frames to discrete ids and back. Registered means tested."""

from toto.tokenizers.base import Tokenizer
from toto.tokenizers.dvae import DVAE, DVAEConfig
from toto.tokenizers.files import SHIPPED, TOKENIZERS, load_tokenizer, save_tokenizer
from toto.tokenizers.grey import Grey, GreyConfig
from toto.tokenizers.quantised import Quantised
from toto.tokenizers.vqgan import VQGAN, VQGANConfig
from toto.tokenizers.vqvae import VQVAE, VQVAEConfig

__all__ = [
    "DVAE",
    "SHIPPED",
    "TOKENIZERS",
    "VQGAN",
    "VQVAE",
    "DVAEConfig",
    "Grey",
    "GreyConfig",
    "Quantised",
    "Tokenizer",
    "VQGANConfig",
    "VQVAEConfig",
    "load_tokenizer",
    "save_tokenizer",
]
