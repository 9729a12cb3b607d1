"""Tensors that ranks hold in blocks: what each rank writes of them, and any region read back.

A file holds whole tensors (`model.safetensors`), or one rank's blocks of sharded ones
(`model.rank-00001.safetensors`) with the place of each block in the file's header. Reading asks for
a region of the whole tensor and gathers it from whatever blocks hold it, so what one number of
ranks wrote, any other number reads, bit for bit.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor

Region = tuple[slice, ...]
"""A slice with start and stop for each dimension; () is the whole."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Block:
    """A part of a tensor that this rank alone writes.

    Attributes:
        values: the block.
        shape: of the whole tensor.
        offsets: where in the whole the block begins, one a dimension.
    """

    values: Tensor
    shape: tuple[int, ...]
    offsets: tuple[int, ...]

    @classmethod
    def own(cls, values: Tensor) -> "Block":
        """What only this rank has, all of it, such as its random state."""
        return cls(values=values, shape=tuple(values.shape), offsets=(0,) * values.ndim)


class Readable(Protocol):
    """What gives regions of a tensor: the tensor itself, or `Stored`."""

    @property
    def shape(self) -> torch.Size:
        """Of the whole tensor."""
        ...

    def __getitem__(self, region: Any, /) -> Tensor:
        """Read a region."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    file: Any
    name: str
    offsets: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A whole tensor in the files of a checkpoint; nothing is read before it is asked for.

    Attributes:
        shape: of the whole tensor.
    """

    shape: torch.Size
    _pieces: list[_Piece] = field(default_factory=list)

    def __getitem__(self, region: Region) -> Tensor:
        """Read a region from the blocks that hold it, to the CPU."""
        wanted = region or tuple(slice(0, size) for size in self.shape)
        sizes = [part.stop - part.start for part in wanted]
        answer: Tensor | None = None
        for piece in self._pieces:
            low = [max(o, part.start) for o, part in zip(piece.offsets, wanted, strict=True)]
            high = [
                min(o + size, part.stop)
                for o, size, part in zip(piece.offsets, piece.shape, wanted, strict=True)
            ]
            if any(a >= b for a, b in zip(low, high, strict=True)):
                continue
            values = _cut(piece, low, high)
            if answer is None:
                answer = torch.empty(sizes, dtype=values.dtype)
            answer[tuple(_from(low, high, [part.start for part in wanted]))] = values
        if answer is None:
            dtype = self._pieces[0].file.get_tensor(self._pieces[0].name).dtype
            answer = torch.empty(sizes, dtype=dtype)
        return answer

    @property
    def is_whole(self) -> bool:
        """Whether the blocks make up the whole tensor."""
        return sum(prod(piece.shape) for piece in self._pieces) == prod(self.shape)


def take(
    tensors: Mapping[str, Mapping[str, Tensor | Block]], *, rank: int = 0
) -> dict[str, dict[str, Tensor | Block]]:
    """Copy to the CPU what this rank has to write; training may go on once this returns.

    Every element is written by one rank: the first rank has the tensors that all hold alike, each
    rank its block of a sharded one, and of blocks that several hold (HSDP) the first of them.
    """
    taken: dict[str, dict[str, Tensor | Block]] = {}
    for group, named in tensors.items():
        taken[group] = {}
        for name, tensor in named.items():
            mine = tensor if isinstance(tensor, Block) else _mine(tensor, rank)
            if mine is not None:
                taken[group][name] = _copied(mine)
    return taken


def files(
    taken: Mapping[str, Mapping[str, Tensor | Block]], *, rank: int = 0
) -> Iterator[tuple[str, bytes]]:
    """Make the files that hold what `take` took, one after the other: name and content."""
    for group, named in taken.items():
        whole = {name: value for name, value in named.items() if isinstance(value, Tensor)}
        blocks = {name: value for name, value in named.items() if isinstance(value, Block)}
        if rank == 0 and (whole or not blocks):
            yield f"{group}.safetensors", safetensors.torch.save(whole, {"format": "pt"})
        if blocks:
            values = {name: block.values for name, block in blocks.items()}
            places = {name: [block.shape, block.offsets] for name, block in blocks.items()}
            # One entry: safetensors writes several in an order that differs from call to call, and
            # a step that is saved again must give the same bytes.
            header = {"blocks": json.dumps(places)}
            yield f"{group}.rank-{rank:05d}.safetensors", safetensors.torch.save(values, header)


def stored(paths: Iterable[Path]) -> dict[str, dict[str, Stored]]:
    """Find the tensors of a checkpoint's files, by group and name."""
    found: dict[str, dict[str, Stored]] = {}
    for path in paths:
        group = found.setdefault(path.name.partition(".")[0], {})
        file = safetensors.safe_open(path, "pt")
        places = json.loads((file.metadata() or {}).get("blocks", "{}"))
        for name in file.keys():  # noqa: SIM118 - it is a file, not a dict
            shape = tuple(file.get_slice(name).get_shape())
            whole, offsets = places.get(name, (shape, (0,) * len(shape)))
            tensor = group.setdefault(name, Stored(torch.Size(whole)))
            tensor._pieces.append(_Piece(file, name, tuple(offsets), shape))
    return found


def fill(target: Tensor, source: Readable) -> None:
    """Copy into a tensor of the same shape, or into this rank's block of a sharded one."""
    values, region = target, ()
    if sharded := _sharded(target):
        values = sharded.values
        region = tuple(
            slice(start, start + size)
            for start, size in zip(sharded.offsets, values.shape, strict=True)
        )
    with torch.no_grad():
        values.copy_(source[region])


def _sharded(tensor: Tensor) -> Block | None:
    """This rank's block of a DTensor, which shares its memory; None for any other tensor."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None  # there are no DTensors then, and importing them takes a while
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if not isinstance(tensor, DTensor):
        return None
    if any(placement.is_partial() for placement in tensor.placements):
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)} is {tensor.placements}, sums that are not "
            "added up yet; save it between two steps"
        )
    shape, offsets = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    with torch.no_grad():
        values = tensor.to_local()
    # An empty block has no place of its own; any will do that lies in the tensor.
    offsets = offsets if prod(shape) else (0,) * tensor.ndim
    return Block(values=values.view(shape), shape=tuple(tensor.shape), offsets=tuple(offsets))


def _mine(tensor: Tensor, rank: int) -> Tensor | Block | None:
    block = _sharded(tensor)
    if block is None:
        return tensor if rank == 0 else None
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor)
    place = tensor.device_mesh.get_coordinate()
    assert place is not None
    others = [where for where, p in zip(place, tensor.placements, strict=True) if p.is_replicate()]
    return None if any(others) else block


def _copied(value: Tensor | Block) -> Tensor | Block:
    if isinstance(value, Block):
        values = value.values.detach().to("cpu", copy=True).contiguous()
        return Block(values=values, shape=value.shape, offsets=value.offsets)
    return value.detach().to("cpu", copy=True).contiguous()


def _cut(piece: _Piece, low: list[int], high: list[int]) -> Tensor:
    mine = tuple(_from(low, high, piece.offsets))
    if all(part == slice(0, size) for part, size in zip(mine, piece.shape, strict=True)):
        return piece.file.get_tensor(piece.name)
    return piece.file.get_slice(piece.name)[mine]


def _from(low: list[int], high: list[int], origin: Iterable[int]) -> Iterator[slice]:
    for a, b, zero in zip(low, high, origin, strict=True):
        yield slice(a - zero, b - zero)
