"""Reading sequences on and on: the decoder with its cache, in weights of fewer bits by choice.

A reader holds what has been read. Two do the same: one with the model's own lines, for every
decoder and device; one in C++ (`toto.models.built_reader`) for LLaMA on some CPUs.
"""

import copy
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from toto.models import Decoder, Llama
from toto.models.attention import bidirectional_attention
from toto.models.built_reader import MULTIPLE, BuiltReader
from toto.models.cache import KVCache, RecurrentState
from toto.models.rounding import WEIGHTS, Weights, rounded
from toto.runtime.cpu_library import compiler, suits
from toto.runtime.devices import compute


class PlainReader:
    """Reads with the model's own lines.

    Args:
        model: the decoder; it stays as it is.
        weights: what the matrices of its linear layers are rounded to. int8 saves no memory here:
            the rounded numbers are kept in bf16.
    """

    def __init__(self, model: Decoder, weights: Weights = "fp32") -> None:
        self.model = model if weights == "fp32" else _copy_in(weights, model)
        self.weights: Weights = weights
        self._cache: KVCache | RecurrentState | None = None

    @property
    def context(self) -> int:
        """Longest sequence that it can read, in tokens."""
        return self.model.config.context

    @torch.no_grad()
    def start(self, prompt: Int64[Tensor, "C P"], futures: int = 1) -> Float[Tensor, "B V"]:
        """Begin anew: read prompts, and get ready to continue each in several ways.

        Args:
            prompt: C sequences of P tokens.
            futures: rows to come of each prompt, which is read once.

        Returns:
            Scores of the first new token of every row: the futures of prompt 0, then of prompt 1.

        Raises:
            ValueError: if the prompts exceed the context.
        """
        place = self.model.embedding.weight.device
        dtype = torch.float32 if self.weights == "fp32" else torch.bfloat16
        cache = self.model.new_cache(len(prompt), dtype)
        with self._computing(place):
            logits_CV = self.model(prompt.to(place), cache, only_last=True)[:, -1]
        self._cache = cache.repeated(futures)
        return logits_CV.float().repeat_interleave(futures, dim=0)

    @torch.no_grad()
    def read(self, ids: Int64[Tensor, "B L"]) -> Float[Tensor, "B L V"]:
        """Read the next tokens of every row; gives the scores of what follows each.

        Raises:
            ValueError: if the sequences exceed the context.
        """
        assert self._cache is not None, "start first"
        place = self.model.embedding.weight.device
        with self._computing(place):
            return self.model(ids.to(place), self._cache).float()

    def _computing(self, place: torch.device) -> AbstractContextManager[object]:
        return compute("fp32" if self.weights == "fp32" else "bf16", place)


Reader: TypeAlias = PlainReader | BuiltReader


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """Which reader was chosen.

    Attributes:
        built: whether the one in C++.
        why: a few words for the log.
    """

    built: bool
    why: str


def resolve_decoding(model: Decoder, weights: Weights) -> Decoding:
    """Decide which reader reads; the same each time for one model on one machine.

    Raises:
        ValueError: if the weights are of an unknown kind.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights {weights!r} are unknown; use {', '.join(map(repr, WEIGHTS))}")
    if weights == "fp32":
        return Decoding(built=False, why="fp32 is what the model's own lines compute in")
    if not isinstance(model, Llama):
        return Decoding(built=False, why=f"a {type(model).__name__} has no C++")
    config, place = model.config, model.embedding.weight.device.type
    if place != "cpu":
        return Decoding(built=False, why=f"the model is on {place}")
    if config.patch_values:
        return Decoding(built=False, why="the model reads patches")
    odd = [n for n in (config.width, config.head_width, config.mlp_width) if n % MULTIPLE]
    if odd:
        return Decoding(built=False, why=f"a width of {odd[0]} is no multiple of {MULTIPLE}")
    attentions: list[Any] = [getattr(block, "attention", None) for block in model.blocks]
    if any(attention.attend is bidirectional_attention for attention in attentions):
        return Decoding(built=False, why="it attends in both directions")
    if not suits():
        return Decoding(built=False, why="the processor lacks AVX512's bf16, or has AMX")
    if shutil.which(compiler()) is None:
        return Decoding(built=False, why=f"there is no C++ compiler ({compiler()})")
    return Decoding(built=True, why=f"{weights} on a processor with AVX512's bf16")


def open_reader(model: Decoder, weights: Weights = "fp32") -> Reader:
    """Make the reader that `resolve_decoding` chooses.

    Raises:
        ValueError: if the weights are of an unknown kind, or the compiler refuses the C++.
    """
    chosen = resolve_decoding(model, weights)
    if chosen.built and weights != "fp32" and isinstance(model, Llama):
        return BuiltReader(model, weights)
    return PlainReader(model, weights)


def _copy_in(weights: Weights, model: Decoder) -> Decoder:
    copied = copy.deepcopy(model)
    if copied.head is None:
        # What is looked up stays as it is.
        codes, width = copied.embedding.weight.shape
        copied.head = nn.Linear(width, codes, bias=False, device="meta")
        copied.head.weight = copied.embedding.weight
    for module in copied.modules():
        if isinstance(module, nn.Linear):
            weight = rounded(module.weight.detach(), weights)
            module.weight = nn.Parameter(weight, requires_grad=False)
            if module.bias is not None:
                bias = module.bias.detach().to(weight.dtype)
                module.bias = nn.Parameter(bias, requires_grad=False)
    return copied
