"""The dVAE's encoder at the speed of the processor, for jobs that turn many frames into tokens.

Convolutions at torch's own pace spend a third to a half of their time around the arithmetic:
weights are laid out anew on every call, ReLU and residual are passes over memory of their own, and
large batches leave the cache, and kernels of one pixel go to a slower library on AMD. Here the
weights are laid out once, ReLU and residual happen inside oneDNN's convolution, and few frames are
taken at once. Nothing is compiled, so it starts at once. `make bench` prints the ratio to the
DALL-E package.

In fp32 all is bit for bit the plain module's but the sums of the one-pixel kernels, which are added
in another order. That moves a score by about its last digit and could exchange two codes that score
the same to there; frames with such a place are encoded again by the plain module.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32, UInt8
from torch import Tensor, nn

from toto.runtime.devices import Precision
from toto.tokenizers.base import Tokenizer, check_frames
from toto.tokenizers.dvae import DVAE, Block, map_pixels

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
WIDEST = 2**22
"""Numbers in the largest activation: one frame of 128 px at the published width. It stays in the
cache, and below the size (32 MiB) from which glibc asks the kernel for fresh pages every time."""
NEAR_TIE = 4e-6
"""Share of the scores' range within which two count as equal in fp32: more than twice the most that
another order of the sums moved one (1.8e-6 of it, over random weights of three widths)."""
PLANNED_PX = 128
"""Side of the frames that the weights are laid out for; others give the same, a little slower."""

Encode = Callable[[UInt8[Tensor, "T H W 3"]], Int32[Tensor, "T Y X"]]


def fast_encode(tokenizer: Tokenizer, precision: Precision = "fp32") -> Encode:
    """Return the fastest way on this machine to turn frames into the tokenizer's ids.

    Make it anew when the weights change: it holds a copy of them.

    Args:
        tokenizer: a dVAE is made faster on a CPU; any other encodes as it does itself.
        precision: fp32 gives the tokenizer's own ids. bf16, for a dVAE on a CPU only, is about
            twice as fast and gives other ids where two codes score nearly the same; tokens of
            both kinds should not be mixed.

    Raises:
        ValueError: if the precision is unknown, or bf16 is asked of another tokenizer or of a
            processor that cannot compute in it.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r} is unknown; use 'fp32' or 'bf16'")
    fusible = isinstance(tokenizer, DVAE) and _on_onednn(tokenizer)
    if precision == "bf16":
        if not fusible:
            raise ValueError(
                f"tokenizer {tokenizer.name!r} cannot encode in bf16 here: that is for a dVAE on "
                "a CPU that torch drives with oneDNN; use precision fp32"
            )
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise ValueError("this processor does not compute in bf16; use precision fp32")
    if isinstance(tokenizer, DVAE) and fusible:
        return FusedEncoder(tokenizer, DTYPES[precision])
    return tokenizer.encode


def _on_onednn(tokenizer: DVAE) -> bool:
    return torch.backends.mkldnn.is_available() and (
        next(tokenizer.parameters()).device.type == "cpu"
    )


class FusedEncoder:
    """The encoder of a dVAE as a chain of oneDNN's convolutions.

    The residual's gain goes into the weights of its last convolution. At the published depth it is
    1 / 64, a power of two, so that no product is rounded differently.
    """

    def __init__(self, tokenizer: DVAE, dtype: torch.dtype) -> None:
        self.tokenizer, self.dtype = tokenizer, dtype
        self.channels = tokenizer.config.width
        blocks, side_px = tokenizer.encoder.get_submodule("blocks"), PLANNED_PX
        self.input = _Convolution(blocks.get_submodule("input"), dtype, side_px)
        self.groups: list[list[_Block]] = []
        for name, group in blocks.named_children():
            if name.startswith("group"):
                made = [
                    _fuse(part, dtype, side_px)
                    for part in group.children()
                    if isinstance(part, Block)
                ]
                self.groups.append(made)
                side_px //= 2
        self.output = _Convolution(blocks.get_submodule("output.conv"), dtype, 2 * side_px)

    @torch.no_grad()
    def __call__(self, frames: UInt8[Tensor, "T H W 3"]) -> Int32[Tensor, "T Y X"]:
        """Take the best code at each place.

        Raises:
            ValueError: if a side is not a multiple of the patch.
        """
        check_frames(frames, self.tokenizer.patch_px)
        height, width = frames.shape[1:3]
        parts = frames.split(max(1, WIDEST // (self.channels * height * width)))
        return torch.cat([self._codes(part) for part in parts])

    def _codes(self, frames: UInt8[Tensor, "T H W 3"]) -> Int32[Tensor, "T Y X"]:
        # The maximum of bf16 is 5 times slower to find than that of the same numbers in fp32.
        scores = self.logits(frames).float()
        best, codes = scores.max(1)
        if self.dtype == torch.float32:
            # 50 times faster than the extremes of the whole in one call.
            spread = best.amax() - scores.amin(1).amin()
            second = scores.scatter_(1, codes[:, None], -torch.inf).amax(1)
            tied = (best - second <= NEAR_TIE * spread).any((1, 2))
            if tied.any():
                codes[tied] = self.tokenizer.encode(frames[tied]).long()
        return codes.int()

    def logits(self, frames: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "T V Y X"]:
        """Score every code at every place, in this encoder's precision."""
        x = self.input(map_pixels(frames).to(self.dtype, memory_format=torch.channels_last))
        for number, blocks in enumerate(self.groups):
            x = F.max_pool2d(x, 2) if number else x
            for block in blocks:
                x = block(x)
        return self.output(x.relu_())


class _Convolution:
    """A 'same' convolution whose weights are laid out for oneDNN, with what follows it inside."""

    def __init__(
        self, layer: nn.Module, dtype: torch.dtype, side_px: int, *, gain: float = 1.0
    ) -> None:
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        self.bias = (gain * layer.bias.detach()).to(dtype)
        weight = (gain * layer.weight.detach()).to(dtype, memory_format=torch.channels_last)
        margin = layer.kernel_size[0] // 2
        # Padding, stride, dilation, groups, as every one of oneDNN's operators takes them.
        self.shape = ([margin, margin], [1, 1], [1, 1], 1)
        padding, stride, dilation, groups = self.shape
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight, padding, stride, dilation, groups, [1, weight.shape[1], side_px, side_px]
        )

    def __call__(self, x: Tensor, then: str = "none") -> Tensor:
        """Convolve; `then` is an activation, "none" or "relu"."""
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.shape, then, [], ""
        )

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """Add what the convolution makes of `x` to `total`, in place."""
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            total, x, self.weight, self.bias, *self.shape, "add", 1.0, None, [], None
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    widen: _Convolution | None
    first: _Convolution
    middle: tuple[_Convolution, ...]
    last: _Convolution

    def __call__(self, x: Tensor) -> Tensor:
        """Add the scaled residual to the (widened) input, which is overwritten."""
        hidden = self.first(x.relu(), then="relu")
        for layer in self.middle:
            hidden = layer(hidden, then="relu")
        return self.last.add_to(x if self.widen is None else self.widen(x), hidden)


def _fuse(block: Block, dtype: torch.dtype, side_px: int) -> _Block:
    first, *middle, last = (part for part in block.res_path if isinstance(part, nn.Conv2d))
    widen = block.id_path if isinstance(block.id_path, nn.Conv2d) else None
    return _Block(
        widen=_Convolution(widen, dtype, side_px) if widen else None,
        first=_Convolution(first, dtype, side_px),
        middle=tuple(_Convolution(layer, dtype, side_px) for layer in middle),
        last=_Convolution(last, dtype, side_px, gain=block.gain),
    )
