"""`toto.json` of an exported model: what a run folder needs beside the weights.

On import it comes from anyone, so that everything is checked where it is made.
"""

import re
from dataclasses import dataclass
from typing import Any

from toto.data.layout import Layout, LayoutConfig
from toto.models import DecoderConfig
from toto.models.export import Dtype
from toto.types import SPECIALS

SCHEMA = 1
RECORD = "toto.json"
IMPORTED = "imported-model"
"""Result of a run that was imported; it holds the record."""
UNKNOWN = "unknown"
"""Licence, where nobody has stated one."""
TOKENIZER_FILES = ("tokenizer.json", "weights.safetensors", "foreign.json", "MODEL_CARD.md")
"""What a tokenizer's folder may hold; no other file of it is copied."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ -]{0,99}")
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerRecord:
    """Which tokenizer gives the ids that the model reads."""

    name: str
    sha256: str
    """Of its configuration and weights, as `Tokenizer.digest` gives it."""
    patch_px: int | None
    """Side of the square of pixels that one code stands for; null if the tokenizer is not ours."""
    files: dict[str, str]
    """sha256 of each of its files, by name."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"tokenizer {self.name!r} is not a plain name")
        strange = sorted(self.files.keys() - set(TOKENIZER_FILES))
        if strange:
            raise ValueError(f"tokenizer file {strange[0]!r} is not one that a tokenizer has")
        _require_hashes({"tokenizer": self.sha256, **self.files})


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecord:
    """What the training run left on disk of itself, as it left it."""

    recipe: dict[str, Any]
    """Its config, without the place where the shards lay."""
    numbers: dict[str, Any]
    """What was measured: name to number, or to numbers of each frame."""
    trained_by: dict[str, Any]
    """Version, commit and machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """All of `toto.json`: what a run folder needs beside the weights, and where they are from."""

    schema: int
    step: int
    """Optimizer steps behind the weights; 0 if that is not known."""
    dtype: Dtype
    model: dict[str, Any]
    """Config of the decoder, without muP."""
    layout: LayoutConfig
    grid: tuple[int, int]
    """Rows and columns of codes in a frame."""
    precision: str
    """What the run computed in."""
    tokenizer: TokenizerRecord
    weights: dict[str, str]
    """sha256 of each file of weights, by name."""
    training: TrainingRecord | None
    """Null if the weights were changed since, or the run said nothing."""
    imported: bool
    """Whether the run was itself imported, so that this machine measured none of the numbers."""
    folded: bool
    """Whether muP's attention scale was folded into the queries' weights."""
    license: str

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema {self.schema} is not {SCHEMA}, which this toto reads")
        if not 0 <= self.step < 10**12:
            raise ValueError(f"step {self.step} must lie in 0..{10**12}")
        if not _NAME.fullmatch(self.license):
            raise ValueError(
                f"license {self.license!r} is not a plain name; use one such as apache-2.0"
            )
        strange = sorted(name for name in self.weights if not WEIGHTS.fullmatch(name))
        if strange:
            raise ValueError(f"weights {strange[0]!r} is not the name of a file of weights")
        _require_hashes(self.weights)


def fit(config: LayoutConfig, grid: tuple[int, int], model: DecoderConfig) -> Layout:
    """Give the sequence format of a model that reads ids.

    Args:
        config: frames and specials.
        grid: rows and columns of codes in a frame.
        model: whose vocabulary and context it has to fit.

    Raises:
        ValueError: if it does not.
    """
    rows, columns = grid
    codes = model.vocab_size - SPECIALS
    if min(grid) < 1 or codes < 1:
        raise ValueError(
            f"grid {rows} x {columns} and vocabulary {model.vocab_size}: a frame needs a code "
            f"and the {SPECIALS} special ids"
        )
    layout = Layout(config, codes=codes, frame_tokens=rows * columns)
    if layout.length > model.context:
        raise ValueError(
            f"{config.frames} frames of {rows} x {columns} codes do not fit a context of "
            f"{model.context}"
        )
    return layout


def _require_hashes(hashes: dict[str, str]) -> None:
    for name, sha256 in hashes.items():
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{name}: {sha256!r} is not a sha256")
