"""Frames to codes by the full-size dVAE: ours against OpenAI's `DALL-E` package, same weights.

Four frames of 128 px a call, one thread, no gradients on either side. Each side gets the pictures
in the layout of its own examples: ours bytes as a decoder gives them, the package floats with the
channels first. (With its channels last in memory the package happens to be faster, and ours 1.8 and
3.4 times as fast as it.) The package is installed without its dependencies, into a folder of its
own: it declares torchvision, which must not come in.
"""

import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.side_by_side import PACKAGES, line, ratio
from toto.tokenizers import DVAEConfig
from toto.tokenizers.fused import fast_encode

FRAMES, SIDE_PX = 4, 128


def smooth_frames() -> Tensor:
    """Frames of random coarse colours with a little noise, u8 [T H W 3]."""
    coarse = F.interpolate(torch.rand(FRAMES, 3, 16, 16), size=SIDE_PX, mode="bilinear")
    mixed = 0.8 * coarse + 0.2 * torch.rand(coarse.shape)
    return (255 * mixed).byte().permute(0, 2, 3, 1).contiguous()


@torch.no_grad()
def run() -> Iterator[str]:
    """Yield one line a precision."""
    sys.path.append(str(PACKAGES))
    try:
        import dall_e
    except ModuleNotFoundError as error:
        raise SystemExit(f"no {error.name}: `make bench` installs the DALL-E package") from error
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours = DVAEConfig(decoder=False).build().eval().requires_grad_(False)
    package = dall_e.Encoder().eval().requires_grad_(False)
    names = {".weight": ".w", ".bias": ".b"}
    weights = {}
    for name, weight in ours.encoder.state_dict().items():
        stem, dot, kind = name.rpartition(".")
        weights[stem + names[dot + kind]] = weight
    package.load_state_dict(weights)
    frames = smooth_frames()

    pictures = (frames.permute(0, 3, 1, 2).float() / 255).contiguous()

    def scores() -> Tensor:
        return package(dall_e.map_pixels(pictures))

    theirs = scores().argmax(1)
    for precision in ("fp32", "bf16"):
        encode = fast_encode(ours, precision)
        same = encode(frames) == theirs
        assert precision != "fp32" or same.all(), "fp32 gives other codes than the package"
        yield line(
            f"dVAE encoder, {precision} / DALL-E package ({100 * same.float().mean():.2f} % equal)",
            ratio(lambda encode=encode: encode(frames), lambda: scores().argmax(1)),
        )
