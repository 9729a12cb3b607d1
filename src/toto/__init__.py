"""Toto: autoregressive pre-training from videos (arXiv 2501.05453).

`toto.load(run)` opens a trained model with its tokenizer; `toto.load_tokenizer(name_or_path)`
opens a tokenizer alone. Everything else is reached through the rooms of this package. Torch is
imported at the first use, not here, so that `import toto` and `toto --help` stay quick.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toto.api import Toto, load, load_tokenizer

__version__ = "0.1.0"
__all__ = ["Toto", "__version__", "load", "load_tokenizer"]


def __getattr__(name: str) -> Any:
    if name in {"Toto", "load", "load_tokenizer"}:
        from toto import api

        return getattr(api, name)
    raise AttributeError(f"module 'toto' has no attribute {name!r}")
