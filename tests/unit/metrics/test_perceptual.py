import re

import pytest
import torch
from torch import Tensor, nn

from toto.metrics.perceptual import PerceptualDistance

ALEX = [
    nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
    nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
    nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
    nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
    nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
]  # fmt: skip
VGG_PLAN = [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512]
READ = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
"""Places of the rectifiers whose output the paper compares: conv1 to conv5, conv1_2 to conv5_3."""
SLICES = {"alex": (0, 2, 5, 8, 10), "vgg": (0, 4, 9, 16, 23)}
"""Where the slices of the `lpips` package begin."""


def vgg() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for wanted in VGG_PLAN:
        if not wanted:
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers += [nn.Conv2d(channels, wanted, 3, padding=1), nn.ReLU()]
        channels = wanted
    return layers


@pytest.fixture(scope="module", params=["alex", "vgg"])
def published(request: pytest.FixtureRequest) -> tuple[str, nn.Sequential, list[Tensor]]:
    """A network with random weights as torchvision lays it out, and channels' weights."""
    torch.manual_seed(0)
    features = nn.Sequential(*(ALEX if request.param == "alex" else vgg()))
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, std=0.1)
    widths = [features[place - 1].out_channels for place in READ[request.param]]
    return request.param, features, [torch.rand(1, width, 1, 1) for width in widths]


def state_of(features: nn.Sequential, channels: list[Tensor]) -> dict[str, Tensor]:
    """The two files side by side: torchvision's, and the small one of the `lpips` package."""
    network = {f"features.{name}": value for name, value in features.state_dict().items()}
    classifier = {"classifier.1.weight": torch.zeros(2, 2)}
    return network | classifier | {f"lin{n}.model.1.weight": w for n, w in enumerate(channels)}


@torch.no_grad()
def by_definition(
    name: str, features: nn.Sequential, channels: list[Tensor], frames: Tensor, other: Tensor
) -> Tensor:
    """Equation 1 of the paper, place by place, with the package's scaling of its input."""
    totals = []
    for pair in zip(frames, other, strict=True):
        outputs = []
        for frame in pair:
            pixels = 2 * frame.double().permute(2, 0, 1) / 255 - 1
            shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]]).double()
            x = ((pixels - shift[:, None, None]) / scale[:, None, None])[None].float()
            read = []
            for place, layer in enumerate(features):
                x = layer(x)
                if place in READ[name]:
                    read.append(x[0].double())
            outputs.append(read)
        total = 0.0
        for a, b, weight in zip(*outputs, channels, strict=True):
            _, rows, columns = a.shape
            summed = 0.0
            for y in range(rows):
                for x in range(columns):
                    one, two = a[:, y, x], b[:, y, x]
                    gap = one / (one.norm() + 1e-10) - two / (two.norm() + 1e-10)
                    summed += float((weight.flatten().double() * gap**2).sum())
            total += summed / (rows * columns)
        totals.append(total)
    return torch.tensor(totals, dtype=torch.float64)


def noise(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


def test_it_is_that_of_the_definition(published: tuple[str, nn.Sequential, list[Tensor]]) -> None:
    name, features, channels = published
    distance = PerceptualDistance(state_of(features, channels))
    assert distance.network == name
    frames, other = noise(2, 48, 40, 3), noise(2, 48, 40, 3)
    expected = by_definition(name, features, channels, frames, other)
    torch.testing.assert_close(distance(frames, other), expected, rtol=1e-4, atol=1e-6)
    assert expected.min() > 0.01


def test_the_packages_own_names_give_the_same(
    published: tuple[str, nn.Sequential, list[Tensor]],
) -> None:
    name, features, channels = published
    state = state_of(features, channels)
    whole = {"scaling_layer.shift": torch.zeros(1)}
    for key, value in state.items():
        found = re.fullmatch(r"features\.(\d+)\.(\w+)", key)
        if found:
            number = sum(int(found[1]) >= start for start in SLICES[name])
            whole[f"net.slice{number}.{found[1]}.{found[2]}"] = value
        elif key.startswith("lin"):
            whole[key] = value
            whole[f"lins.{key[3]}.model.1.weight"] = torch.zeros_like(value)
    frames, other = noise(1, 32, 32, 3), noise(1, 32, 32, 3)
    one, two = PerceptualDistance(state), PerceptualDistance(whole)
    assert torch.equal(one(frames, other), two(frames, other))


def test_equal_frames_are_at_no_distance_and_order_does_not_matter(
    published: tuple[str, nn.Sequential, list[Tensor]],
) -> None:
    _, features, channels = published
    distance = PerceptualDistance(state_of(features, channels))
    frames, other = noise(17, 32, 32, 3), noise(17, 32, 32, 3)
    assert torch.equal(distance(frames, frames), torch.zeros(17, dtype=torch.float64))
    torch.testing.assert_close(distance(frames, other), distance(other, frames))
    nearer = (0.9 * frames.float() + 0.1 * other.float()).byte()
    assert (distance(frames, nearer) < distance(frames, other)).all()


def test_weights_that_are_not_there_are_named(
    published: tuple[str, nn.Sequential, list[Tensor]],
) -> None:
    name, features, channels = published
    state = state_of(features, channels)
    small = {key: value for key, value in state.items() if key.startswith("lin")}
    with pytest.raises(ValueError, match=r"no network's first weight.*among 5 tensors; give"):
        PerceptualDistance(small)
    with pytest.raises(ValueError, match=f"lin2.model.1.weight of LPIPS with {name} is missing"):
        PerceptualDistance({k: v for k, v in state.items() if not k.startswith("lin2")})
    wrong = {**state, "lin0.model.1.weight": torch.zeros(1, 5, 1, 1)}
    with pytest.raises(ValueError, match=r"of shape \[1, 5, 1, 1\], not \[1, 64, 1, 1\]"):
        PerceptualDistance(wrong)


def test_frames_that_cannot_be_compared_are_refused(
    published: tuple[str, nn.Sequential, list[Tensor]],
) -> None:
    name, features, channels = published
    distance = PerceptualDistance(state_of(features, channels))
    with pytest.raises(ValueError, match=r"frames \(1, 32, 32, 3\) against \(2, 32, 32, 3\)"):
        distance(noise(1, 32, 32, 3), noise(2, 32, 32, 3))
    side = {"alex": 31, "vgg": 16}[name]
    assert distance(noise(1, side, side, 3), noise(1, side, side, 3)).isfinite().all()
    with pytest.raises(ValueError, match=f"LPIPS of {name} needs sides of at least {side} px"):
        distance(noise(1, side - 1, 40, 3), noise(1, side - 1, 40, 3))
