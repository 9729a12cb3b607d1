"""What a decoder keeps of the positions already read, in memory laid out once."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(kw_only=True, slots=True, eq=False)
class KVCache:
    """Static cache of all layers.

    Attributes:
        keys: keys as attention takes them, so rotated where positions are, [layers B N context K].
        values: values, same shape.
        length: positions read so far.
        endless: whether positions beyond the model's context may follow.
    """

    keys: Float[Tensor, "Z B N M K"]
    values: Float[Tensor, "Z B N M K"]
    length: int = 0
    endless: bool = False

    @classmethod
    def empty(
        cls,
        *,
        layers: int,
        batch: int,
        heads: int,
        context: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "KVCache":
        """Make a cache with room for `context` positions."""
        shape = (layers, batch, heads, context, head_width)
        return cls(
            keys=torch.zeros(shape, dtype=dtype, device=device),
            values=torch.zeros(shape, dtype=dtype, device=device),
        )

    def repeated(self, times: int) -> "KVCache":
        """Give each sequence as many rows, one after the other; alone, the cache itself."""
        if times == 1:
            return self
        filled = (self.keys[:, :, :, : self.length], self.values[:, :, :, : self.length])
        layers, batch, *rest = self.keys.shape
        keys, values = (self.keys.new_zeros(layers, batch * times, *rest) for _ in filled)
        for whole, part in zip((keys, values), filled, strict=True):
            whole[:, :, :, : self.length] = part.repeat_interleave(times, dim=1)
        return KVCache(keys=keys, values=values, length=self.length)

    def write(
        self, layer: int, k_BNLK: Float[Tensor, "B N L K"], v_BNLK: Float[Tensor, "B N L K"]
    ) -> tuple[Float[Tensor, "B N P K"], Float[Tensor, "B N P K"]]:
        """Put new positions behind the old ones of one layer; return all of them, old and new.

        `length` moves only when the model has been through every layer.
        """
        end = self.length + k_BNLK.shape[2]
        self.keys[layer, :, :, self.length : end] = k_BNLK
        self.values[layer, :, :, self.length : end] = v_BNLK
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def seen(self, new: int) -> Bool[Tensor, "L P"] | None:
        """Which of the positions that `write` returns each of so many new ones sees; None: all."""
        if new == 1:
            return None
        positions = torch.arange(self.length + new, device=self.keys.device)
        return positions[None] <= positions[-new:, None]


@dataclass(kw_only=True, slots=True, eq=False)
class RecurrentState:
    """What a recurrent decoder knows of all it has read: as large after one token as after many.

    Attributes:
        states: of the recurrence, behind the last position, fp32, [layers B I M]: I channels with
            M numbers each.
        inputs: the last inputs of each layer's convolution, oldest first, [layers B I kernel - 1].
        length: positions read so far.
        endless: whether positions beyond the model's context may follow; the recurrence has no end.
    """

    states: Float[Tensor, "Z B I M"]
    inputs: Float[Tensor, "Z B I P"]
    length: int = 0
    endless: bool = False

    @classmethod
    def empty(
        cls,
        *,
        layers: int,
        batch: int,
        channels: int,
        state_size: int,
        kernel: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "RecurrentState":
        """Make the state before the first token; `dtype` is that of the inputs."""
        shape = (layers, batch, channels)
        return cls(
            states=torch.zeros((*shape, state_size), device=device),
            inputs=torch.zeros((*shape, kernel - 1), dtype=dtype, device=device),
        )

    def repeated(self, times: int) -> "RecurrentState":
        """Give each sequence as many rows, one after the other; alone, the state itself."""
        if times == 1:
            return self
        return RecurrentState(
            states=self.states.repeat_interleave(times, dim=1),
            inputs=self.inputs.repeat_interleave(times, dim=1),
            length=self.length,
        )
