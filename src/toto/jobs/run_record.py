"""What a pre-training run writes down when it begins, for whoever opens its model."""

import json
from collections.abc import Sequence
from pathlib import Path

from toto.config import to_dict
from toto.data.remote import copy_folder
from toto.data.shards import Shard
from toto.data.token_set import TokenSet
from toto.jobs.pretrain import Pretrain
from toto.models.flops import model_cost
from toto.runtime.devices import Precision
from toto.runtime.folder import RunFolder
from toto.tokenizers import load_tokenizer


def describe(
    folder: RunFolder,
    job: Pretrain,
    shards: Sequence[Shard | TokenSet],
    *,
    grid: tuple[int, int],
    precision: Precision,
) -> None:
    """Write what a later job needs to open the model, and a copy of its tokenizer.

    Args:
        folder: of the run.
        job: the run's config.
        shards: what it trains on, in the order of its mixture.
        grid: rows and columns of a frame's tokens.
        precision: that it computes in.

    Raises:
        ValueError: if the run began with other data, or the tokenizer is not the shards' own.
    """
    _require_same_data(folder, job, shards)
    copy_folder(job.shards, "tokenizer", folder.path / "tokenizer")
    _require_tokenizer(folder.path / "tokenizer", shards[0].description.tokenizer_digest)
    folder.write_result(
        "model",
        {
            "model": to_dict(job.model),
            "layout": to_dict(job.layout),
            "patches": to_dict(job.patches),
            "grid": list(grid),
            "parameters": model_cost(job.model).parameters,
            "precision": precision,
        },
    )


def _require_same_data(
    folder: RunFolder, job: Pretrain, shards: Sequence[Shard | TokenSet]
) -> None:
    """Write down what the sources held when the run began, or refuse others."""
    # What is held out is no part of what a step sees, and may come later.
    now = {
        source.name: tokens.sha256
        for source, tokens in zip(job.mixture, shards, strict=True)
        if isinstance(tokens, TokenSet)
    }
    if not folder.has_result("data"):
        folder.write_result("data", {"sources": now})
        return
    for name, sha256 in folder.result("data")["sources"].items():
        if now[name] != sha256:
            raise ValueError(
                f"source {name} is not what this run began with: its index was {sha256[:12]} "
                f"and is {now[name][:12]} in {job.shards}; bring the old shards back, or "
                "begin another run with --out"
            )


def _require_tokenizer(folder: Path, digest: str) -> None:
    """Refuse a tokenizer that did not make the shards; nothing else vouches for that folder.

    Raises:
        ValueError: if its own digest is another; imported tokens say theirs beside them.
    """
    foreign = folder / "foreign.json"
    if foreign.is_file():
        found = json.loads(foreign.read_bytes())["digest"]
    else:
        found = load_tokenizer(folder).digest()
    if found != digest:
        raise ValueError(f"{folder} is not the tokenizer that made the shards; copy it again")
