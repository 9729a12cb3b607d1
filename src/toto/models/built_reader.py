"""A LLaMA read in C++: one run through its packed weights for each new token of all rows.

`cpu_sources/decode.cpp` holds the step. torch's own product of a bf16 matrix with one row reaches
half of what memory gives (Zen 4 and 5, torch 2.13), and a step of a small model is nothing else.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from toto.models.llama import Block, Llama
from toto.models.rope import rotary_tables
from toto.models.rounding import int8_rows
from toto.runtime.cpu_library import load_library

MULTIPLE = 32
"""Widths of the stream, a head and the MLP have to be multiples of it: outputs of a block."""
PIECE = 128
"""Tokens of a prompt that are read at once."""
SOURCES = [Path(__file__).with_name("cpu_sources") / name for name in ("decode.cpp", "lanes.h")]


@cache
def build() -> None:
    """Compile the sources and declare their operators, once a process.

    Raises:
        ValueError: if the compiler refuses them.
    """
    load_library("decode", SOURCES, instead="use weights 'fp32'")


class BuiltReader:
    """Reads a LLaMA with packed weights; the answers are those of `PlainReader` but for rounding.

    Args:
        model: whose sizes are multiples of `MULTIPLE`, on the CPU; it stays as it is.
        weights: what its matrices are rounded to.
    """

    def __init__(self, model: Llama, weights: Literal["bf16", "int8"]) -> None:
        build()
        config = self.config = model.config
        self.weights: Literal["bf16", "int8"] = weights
        self._embedding = model.embedding.weight.detach()
        self._matrices, self._scales = _packed(model, weights)
        norms = [
            norm for block in _blocks(model) for norm in (block.attention_norm, block.mlp_norm)
        ]
        gains = [norm.weight.detach() for norm in (*norms, model.norm)]
        self._gains = torch.stack(gains)
        self._angles = rotary_tables(config.context, config.head_width, config.rope_base)
        scale = config.mup.attention_scale(config.width, config.heads)
        self._scale = config.head_width**-0.5 if scale is None else scale
        self.length = 0
        self._keys, self._values = self._room(0)

    @property
    def context(self) -> int:
        """Longest sequence that it can read, in tokens."""
        return self.config.context

    @torch.no_grad()
    def start(self, prompt: Int64[Tensor, "C P"], futures: int = 1) -> Float[Tensor, "B V"]:
        """Do what `PlainReader.start` does."""
        self.length = 0
        self._keys, self._values = self._room(len(prompt))
        *pieces, last = prompt.split(PIECE, dim=1)
        for piece in pieces:
            self._read(piece, scored=0)
        logits_CV = self._read(last, scored=1)[:, 0]
        if futures > 1:
            keys, values = self._keys, self._values
            self._keys, self._values = self._room(len(prompt) * futures)
            # Only what is filled; the rest of the room costs no memory until it is.
            blocks, pairs = -(-self.length // MULTIPLE), -(-self.length // 2)
            self._keys[:, :, :, :blocks] = keys[:, :, :, :blocks].repeat_interleave(futures, dim=1)
            self._values[..., :pairs, :, :] = values[..., :pairs, :, :].repeat_interleave(
                futures, dim=1
            )
        return logits_CV.repeat_interleave(futures, dim=0)

    @torch.no_grad()
    def read(self, ids: Int64[Tensor, "B L"]) -> Float[Tensor, "B L V"]:
        """Do what `PlainReader.read` does."""
        return self._read(ids, scored=ids.shape[1])

    def forget(self, tokens: int) -> None:
        """Take back the newest tokens that were read, of every row."""
        assert 0 <= tokens <= self.length
        self.length -= tokens

    def _read(self, ids: Int64[Tensor, "B L"], *, scored: int) -> Float[Tensor, "B S V"]:
        total = self.length + ids.shape[1]
        if total > self.context:
            raise ValueError(f"{total} tokens do not fit a context of {self.context}")
        logits = torch.ops.toto_decode.read_tokens(
            F.embedding(ids, self._embedding),
            self._matrices,
            self._scales,
            self._gains,
            *self._angles,
            self._keys,
            self._values,
            self.length,
            self.config.mlp_width,
            self.config.vocab_size,
            self._scale,
            self.config.norm_eps,
            scored,
        )
        self.length = total
        return logits

    def _room(self, rows: int) -> tuple[Tensor, Tensor]:
        """Empty keys and values of all layers, as the C++ lays them out."""
        shape, head_width = (self.config.depth, rows, self.config.heads), self.config.head_width
        blocks, block = -(-self.context // MULTIPLE), (MULTIPLE, 2)
        pairs = blocks * MULTIPLE // 2
        return (
            torch.zeros(*shape, blocks, head_width // 2, *block, dtype=torch.bfloat16),
            torch.zeros(*shape, head_width // MULTIPLE, pairs, *block, dtype=torch.bfloat16),
        )


def _blocks(model: Llama) -> Iterator[Block]:
    for block in model.blocks:
        assert isinstance(block, Block)
        yield block


def _matrices(model: Llama) -> Iterator[Tensor]:
    """All matrices in the order in which a step reads them."""
    for block in _blocks(model):
        yield block.attention.qkv.weight
        yield block.attention.out.weight
        yield block.mlp.gate_up.weight
        yield block.mlp.down.weight
    yield model.embedding.weight if model.head is None else model.head.weight


def _packed(model: Llama, weights: Literal["bf16", "int8"]) -> tuple[Tensor, Tensor]:
    """Matrices in blocks of outputs and pairs of inputs, one behind the other; their scales."""
    sizes = [
        (len(matrix) + -len(matrix) % MULTIPLE) * matrix.shape[1] for matrix in _matrices(model)
    ]
    dtype = torch.int8 if weights == "int8" else torch.bfloat16
    packed = torch.ops.toto_decode.large_pages(sum(sizes) * dtype.itemsize).view(dtype)
    scales = []
    for part, matrix in zip(packed.split(sizes), _matrices(model), strict=True):
        rows = F.pad(matrix.detach(), (0, 0, 0, -len(matrix) % MULTIPLE))
        if weights == "int8":
            rows, scale = int8_rows(rows)
            scales.append(scale)
        blocks = rows.unflatten(0, (-1, MULTIPLE)).unflatten(2, (-1, 2)).transpose(1, 2)
        part.view(blocks.shape).copy_(blocks)
    return packed, torch.cat(scales) if scales else torch.empty(0)
