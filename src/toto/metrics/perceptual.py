"""How close frames look, by the features of a network that was trained to name pictures."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn

BATCH = 16
"""Frames that are compared at once; bounds memory."""
# Mean and spread of the pictures that both networks learned from, for pixels in [-1, 1].
_MEAN, _SPREAD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_SMALLEST = 1e-10


class Convolution(NamedTuple):
    """One convolution of a network, with the rectifier behind it."""

    place: int
    """Its number in the published network, where rectifiers and poolings are counted too."""
    channels: int
    side_px: int
    stride: int
    padding: int
    pooling: int
    """Side of the maximum, at stride 2, that comes before it; 0 is none."""
    compared: bool
    """Whether features are read behind it."""


def _vgg() -> tuple[Convolution, ...]:
    blocks = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    found, place = [], 0
    for number, (channels, convolutions) in enumerate(blocks):
        for of_block in range(convolutions):
            pooling = 2 if number and not of_block else 0
            last = of_block == convolutions - 1
            found.append(Convolution(place, channels, 3, 1, 1, pooling, last))
            place += 3 if last else 2
    return tuple(found)


NETWORKS: dict[str, tuple[Convolution, ...]] = {
    "alex": (
        Convolution(0, 64, 11, 4, 2, 0, True),
        Convolution(3, 192, 5, 1, 2, 3, True),
        Convolution(6, 384, 3, 1, 1, 3, True),
        Convolution(8, 256, 3, 1, 1, 0, True),
        Convolution(10, 256, 3, 1, 1, 0, True),
    ),
    "vgg": _vgg(),
}
"""AlexNet and VGG-16 up to their last convolution, as torchvision numbers their layers."""
SMALLEST_SIDE_PX = {"alex": 31, "vgg": 16}


class PerceptualDistance(nn.Module):
    """LPIPS: squared differences of unit-length features, weighted by channel, over five layers.

    The value is LPIPS of the given weights and of no others; what is published under that name has
    those of `lpips` 0.1. The weights are tensors by name, as torchvision and the `lpips` package
    name them: `features.N.weight` or `net.sliceK.N.weight` with biases, and
    `linK.model.1.weight`. Other names are passed over.

    Source:
        Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric,
        arXiv 1801.03924; names and constants of github.com/richzhang/PerceptualSimilarity.

    Attributes:
        network: `alex` or `vgg`, told from the shape of the first weight.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights.

        Args:
            state: tensors by name, of the network and of the channels' weights together.

        Raises:
            ValueError: if one is missing or of another shape.
        """
        super().__init__()
        named = {found: value for name, value in state.items() if (found := _own_name(name))}
        first = named.get("0.weight")
        side_px = 0 if first is None else first.shape[-1]
        sides = {layers[0].side_px: name for name, layers in NETWORKS.items()}
        if side_px not in sides:
            raise ValueError(
                "no network's first weight, features.0.weight of AlexNet or VGG-16, among "
                f"{len(state)} tensors; give the network's file beside that of the channels"
            )
        self.network = sides[side_px]
        channels, taps = 3, 0
        for layer in NETWORKS[self.network]:
            shape = (layer.channels, channels, layer.side_px, layer.side_px)
            self._take(named, f"{layer.place}.weight", shape)
            self._take(named, f"{layer.place}.bias", shape[:1])
            if layer.compared:
                self._take(named, f"lin{taps}", (1, layer.channels, 1, 1))
                taps += 1
            channels = layer.channels
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1))
        self.register_buffer("spread", torch.tensor(_SPREAD).view(3, 1, 1))

    @torch.no_grad()
    def forward(
        self, frames: UInt8[Tensor, "T H W 3"], other: UInt8[Tensor, "T H W 3"]
    ) -> Float64[Tensor, " T"]:
        """Compare frames with frames: 0 for equal ones, larger is farther.

        Raises:
            ValueError: if the shapes differ, or a side is too small for the network.
        """
        if frames.shape != other.shape:
            raise ValueError(f"frames {tuple(frames.shape)} against {tuple(other.shape)}")
        smallest_px = SMALLEST_SIDE_PX[self.network]
        if min(frames.shape[1:3]) < smallest_px:
            raise ValueError(
                f"LPIPS of {self.network} needs sides of at least {smallest_px} px, got "
                f"{tuple(frames.shape)}"
            )
        pairs = zip(frames.split(BATCH), other.split(BATCH), strict=True)
        return torch.cat([self._distance(a, b) for a, b in pairs])

    def _distance(self, a: Tensor, b: Tensor) -> Float64[Tensor, " T"]:
        total = torch.zeros(len(a), dtype=torch.float64, device=a.device)
        layers = zip(self._features(a), self._features(b), strict=True)
        for number, (x, y) in enumerate(layers):
            squares = (_unit(x) - _unit(y)).square()
            weighted = F.conv2d(squares, self.get_buffer(f"lin{number}"))
            total += weighted.mean((1, 2, 3)).double()
        return total

    def _features(self, frames: UInt8[Tensor, "T H W 3"]) -> list[Float[Tensor, "T C Y X"]]:
        pixels = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
        x = (pixels - self.get_buffer("mean")) / self.get_buffer("spread")
        read = []
        for layer in NETWORKS[self.network]:
            if layer.pooling:
                x = F.max_pool2d(x, layer.pooling, stride=2)
            weight = self.get_buffer(f"weight{layer.place}")
            bias = self.get_buffer(f"bias{layer.place}")
            x = F.conv2d(x, weight, bias, layer.stride, layer.padding).relu()
            if layer.compared:
                read.append(x)
        return read

    def _take(self, named: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> None:
        found = named.get(name)
        if found is None or tuple(found.shape) != shape:
            has = "missing" if found is None else f"of shape {list(found.shape)}"
            raise ValueError(
                f"weight {_published(name)} of LPIPS with {self.network} is {has}, not "
                f"{list(shape)}; give the files of network and channels, both of {self.network}"
            )
        place, _, kind = name.partition(".")
        self.register_buffer(f"{kind}{place}" if kind else name, found.detach().float())


def _unit(x: Float[Tensor, "T C Y X"]) -> Float[Tensor, "T C Y X"]:
    return x / (x.square().sum(1, keepdim=True).sqrt() + _SMALLEST)


def _own_name(name: str) -> str | None:
    """Give `0.weight` of the network and `lin0` of the channels, for any of the published names."""
    found = re.fullmatch(r"(?:features|net\.slice\d)\.(\d+\.(?:weight|bias))", name)
    if found:
        return found[1]
    found = re.fullmatch(r"(lin\d)\.model\.\d\.weight", name)
    return found[1] if found else None


def _published(name: str) -> str:
    return f"{name}.model.1.weight" if name.startswith("lin") else f"features.{name}"
