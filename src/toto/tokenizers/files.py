"""A tokenizer on disk: a folder of `tokenizer.json` and `weights.safetensors`.

The JSON names the tokenizer, holds its config and the digest of the weights, which is checked
whenever the folder is opened: a token means nothing without the exact weights that made it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from toto.config import from_dict, to_dict
from toto.runtime.durable import write_bytes, write_json
from toto.tokenizers.base import Tokenizer
from toto.tokenizers.dvae import DVAEConfig
from toto.tokenizers.grey import GreyConfig
from toto.tokenizers.vqgan import VQGANConfig
from toto.tokenizers.vqvae import VQVAEConfig

SCHEMA = 1
TOKENIZERS: dict[str, type[Any]] = {
    "grey": GreyConfig,
    "dvae": DVAEConfig,
    "vqgan": VQGANConfig,
    "vqvae": VQVAEConfig,
}
"""Name to config class; `config.build()` makes the tokenizer."""
SHIPPED = "toto-8k"
"""The tokenizer that comes with the package; its folder holds its model card."""
WEIGHTLESS = frozenset({"grey"})
"""Those that have none."""
BY_NAME = (SHIPPED, *sorted(WEIGHTLESS))
"""Those that can be opened by name alone."""


def save_tokenizer(tokenizer: Any, folder: Path, *, half: bool = False) -> None:
    """Write a tokenizer into `folder`, weights first, so that the JSON is what makes it count.

    Args:
        tokenizer: any of `TOKENIZERS`.
        folder: made if need be.
        half: store the weights in fp16; they must be of that precision already.

    Raises:
        ValueError: if fp16 would change a weight, and with it the codes.
    """
    description = {
        "schema": SCHEMA,
        "name": tokenizer.name,
        "config": to_dict(tokenizer.config),
        "digest": tokenizer.digest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, nn.Module):
        weights = {k: v.detach().cpu().contiguous() for k, v in tokenizer.state_dict().items()}
        if half:
            rounded = {name: weight.half() for name, weight in weights.items()}
            changed = [k for k, v in weights.items() if not torch.equal(v, rounded[k].float())]
            if changed:
                raise ValueError(f"{changed[0]} is not in fp16; round the weights first")
            weights = rounded
        write_bytes(folder / "weights.safetensors", save(weights))
    write_json(folder / "tokenizer.json", description)


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """Open a tokenizer by name (`toto-8k`, `grey`) or by the folder that holds it.

    Raises:
        ValueError: if there is none of that name or in that folder, or if its weights are not
            those that its description names.
    """
    name = str(name_or_path)
    if name in WEIGHTLESS:
        return TOKENIZERS[name]().build()
    folder = Path(__file__).parent / SHIPPED if name == SHIPPED else Path(name_or_path)
    described = folder / "tokenizer.json"
    if (folder / "foreign.json").is_file():
        raise ValueError(
            f"{folder}: its tokens were imported and their tokenizer is not part of toto; such a "
            "model can be trained and compared by loss, not decoded or probed"
        )
    if not described.is_file():
        trained = " (it needs trained weights: give their folder)" if name in TOKENIZERS else ""
        raise ValueError(
            f"no tokenizer {name!r}{trained}: known by name: {', '.join(BY_NAME)}; "
            "or give a folder with tokenizer.json, as `toto tokenizer train` writes"
        )
    try:
        description = json.loads(described.read_text())
        kind, saved, config = (description[key] for key in ("name", "digest", "config"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{described}: not a tokenizer's description ({error!r})") from error
    if description.get("schema") != SCHEMA or kind not in TOKENIZERS:
        raise ValueError(
            f"{described}: tokenizer {kind!r}, schema {description.get('schema')!r}; this version "
            f"reads schema {SCHEMA} of {', '.join(sorted(TOKENIZERS))}"
        )
    try:
        tokenizer: Tokenizer = from_dict(TOKENIZERS[kind], config).build()
    except ValueError as error:
        raise ValueError(f"{described}: not a config of tokenizer {kind!r}: {error}") from error
    if isinstance(tokenizer, nn.Module):
        weights = folder / "weights.safetensors"
        try:
            tokenizer.load_state_dict(load_file(weights))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{weights}: not the weights of this tokenizer: {reason}") from error
        tokenizer.eval().requires_grad_(False)
    if tokenizer.digest() != saved:
        raise ValueError(
            f"{folder}: the weights do not match the digest in tokenizer.json; "
            "the folder is damaged, copy or train it again"
        )
    return tokenizer
