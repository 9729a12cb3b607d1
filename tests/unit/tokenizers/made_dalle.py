"""Stand-ins for the DALL-E package, whose pickles hold whole modules of these names.

They have the attributes of the real ones and compute nothing; `installed` makes `dall_e`
importable, as it must be while such a pickle is written (never while it is read).
"""

import sys
import types
from collections import OrderedDict

import pytest
import torch
from torch import nn


class Conv2d(nn.Module):
    def __init__(self, n_in: int, n_out: int, kw: int) -> None:
        super().__init__()
        self.n_in, self.n_out, self.kw = n_in, n_out, kw
        self.use_float16, self.device, self.requires_grad = True, torch.device("cpu"), False
        self.w = nn.Parameter(torch.randn(n_out, n_in, kw, kw), requires_grad=False)
        self.b = nn.Parameter(torch.randn(n_out), requires_grad=False)


def residual(n_in: int, n_out: int, kernels: tuple[int, ...]) -> nn.Sequential:
    sides = [n_in, *[n_out // 4] * 3, n_out]
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number, kw in enumerate(kernels, start=1):
        parts[f"relu_{number}"] = nn.ReLU()
        parts[f"conv_{number}"] = Conv2d(sides[number - 1], sides[number], kw)
    return nn.Sequential(parts)


class EncoderBlock(nn.Module):
    kernels = (3, 3, 3, 1)

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.n_in, self.n_out, self.post_gain, self.device = n_in, n_out, 1 / 64, None
        self.id_path = Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        self.res_path = residual(n_in, n_out, self.kernels)


class DecoderBlock(EncoderBlock):
    kernels = (1, 3, 3, 3)


def groups(
    block: type[EncoderBlock], n_in: int, widths: list[int], count: int, end: tuple[str, nn.Module]
) -> OrderedDict[str, nn.Module]:
    made: OrderedDict[str, nn.Module] = OrderedDict()
    for group, width in enumerate(widths, start=1):
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(1, count + 1):
            parts[f"block_{number}"] = block(n_in, width)
            n_in = width
        if group < len(widths):
            parts[end[0]] = end[1]
        made[f"group_{group}"] = nn.Sequential(parts)
    return made


class Encoder(nn.Module):
    def __init__(self, n_hid: int, vocab_size: int, n_blk_per_group: int) -> None:
        super().__init__()
        self.n_hid, self.vocab_size, self.device = n_hid, vocab_size, torch.device("cpu")
        widths = [n_hid, 2 * n_hid, 4 * n_hid, 8 * n_hid]
        blocks = OrderedDict(input=Conv2d(3, n_hid, 7))
        blocks |= groups(EncoderBlock, n_hid, widths, n_blk_per_group, ("pool", nn.MaxPool2d(2)))
        out = OrderedDict(relu=nn.ReLU(), conv=Conv2d(8 * n_hid, vocab_size, 1))
        self.blocks = nn.Sequential(OrderedDict(**blocks, output=nn.Sequential(out)))


class Decoder(nn.Module):
    def __init__(self, n_init: int, n_hid: int, vocab_size: int, n_blk_per_group: int) -> None:
        super().__init__()
        self.n_init, self.n_hid, self.vocab_size = n_init, n_hid, vocab_size
        widths = [8 * n_hid, 4 * n_hid, 2 * n_hid, n_hid]
        blocks = OrderedDict(input=Conv2d(vocab_size, n_init, 1))
        end = ("upsample", nn.Upsample(scale_factor=2, mode="nearest"))
        blocks |= groups(DecoderBlock, n_init, widths, n_blk_per_group, end)
        out = OrderedDict(relu=nn.ReLU(), conv=Conv2d(n_hid, 6, 1))
        self.blocks = nn.Sequential(OrderedDict(**blocks, output=nn.Sequential(out)))


PLACES = {
    Encoder: "dall_e.encoder",
    EncoderBlock: "dall_e.encoder",
    Decoder: "dall_e.decoder",
    DecoderBlock: "dall_e.decoder",
    Conv2d: "dall_e.utils",
}


def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package be importable until the test ends."""
    for name in ("dall_e", *set(PLACES.values())):
        module = types.ModuleType(name)
        module.__file__ = __file__  # torch's old format stores the classes' source.
        monkeypatch.setitem(sys.modules, name, module)
    for cls, place in PLACES.items():
        monkeypatch.setattr(cls, "__module__", place)
        setattr(sys.modules[place], cls.__name__, cls)


def pair(vocab_size: int = 24, n_hid: int = 4, count: int = 1) -> tuple[Encoder, Decoder]:
    """An encoder and its decoder, with random weights and biases."""
    return Encoder(n_hid, vocab_size, count), Decoder(8, n_hid, vocab_size, count)
