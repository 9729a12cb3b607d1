"""The discrete VAE against the published package itself, `DALL-E` 0.1, on the same weights.

Skipped where the package is not installed; `make bench` puts it into the environment's
`bench-packages`, without the torchvision that it declares. FLAVA's copy of the encoder is what the
default suite compares with (test_dvae_against_flava.py).
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from toto.tokenizers import DVAE, DVAEConfig
from toto.tokenizers.dvae import map_pixels, unmap_pixels
from toto.tokenizers.fused import fast_encode

CONFIG = DVAEConfig(width=32, decoder_stem=16)


@pytest.fixture
def dall_e(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(sys.prefix) / "bench-packages")])
    return pytest.importorskip("dall_e", reason="the DALL-E package comes with `make bench`")


@pytest.fixture
def dvae() -> DVAE:
    """Random weights, the codes placed: else a random encoder says the same few of all patches."""
    model = CONFIG.build().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(std=0.1)  # all zero would hide a missing one
        elif "res_path" in name:
            parameter.mul_(2)
    model.place_codes(made_frames(34), sharpness=20.0, generator=torch.Generator().manual_seed(0))
    return model


def made_frames(count: int) -> Tensor:
    """Random colours at three scales and a little noise, u8 [T 128 128 3]."""
    mixed = 0.1 * torch.rand(count, 3, 128, 128)
    for side, share in ((2, 0.4), (8, 0.3), (32, 0.2)):
        mixed += share * F.interpolate(torch.rand(count, 3, side, side), 128, mode="bilinear")
    return (255 * mixed).byte().permute(0, 2, 3, 1).contiguous()


def load(twin: Any, ours: torch.nn.Module) -> Any:
    """Give the package's module our weights, whose names differ in their last word alone."""
    weights = {}
    for name, weight in ours.state_dict().items():
        stem, _, kind = name.rpartition(".")
        weights[f"{stem}.{kind[0]}"] = weight
    twin.load_state_dict(weights)
    return twin.eval().requires_grad_(False)


def compare(dvae: DVAE, dall_e: Any, tokens: int, tolerance: float = 1e-5) -> None:
    """Encode frames on both sides until so many tokens are compared."""
    twin = load(dall_e.Encoder(n_hid=CONFIG.width), dvae.encoder)
    fast = fast_encode(dvae)
    done, used = 0, torch.zeros(CONFIG.vocab_size, dtype=torch.bool)
    while done < tokens:
        frames = made_frames(4)
        theirs = twin(dall_e.map_pixels(frames.permute(0, 3, 1, 2).float() / 255))
        scale = theirs.abs().max()
        assert (dvae.logits(map_pixels(frames)) - theirs).abs().max() <= tolerance * scale
        codes = theirs.argmax(1)
        for encoded in (dvae.encode(frames), fast(frames)):
            assert torch.equal(encoded.long(), codes)
        done += codes.numel()
        used[codes.flatten()] = True
    assert used.sum() > 1000


@torch.no_grad()
def test_codes_are_those_of_the_package(dvae: DVAE, dall_e: Any) -> None:
    compare(dvae, dall_e, tokens=10_000)


@pytest.mark.slow
@torch.no_grad()
def test_a_million_codes_are_those_of_the_package(dvae: DVAE, dall_e: Any) -> None:
    compare(dvae, dall_e, tokens=1_000_000)


@torch.no_grad()
def test_pixels_are_those_of_the_package(dvae: DVAE, dall_e: Any) -> None:
    twin = load(dall_e.Decoder(n_init=CONFIG.decoder_stem, n_hid=CONFIG.width), dvae.decoder)
    ids = torch.randint(CONFIG.vocab_size, (8, 16, 16), dtype=torch.int32)
    codes = F.one_hot(ids.long(), CONFIG.vocab_size).permute(0, 3, 1, 2).float()
    theirs = twin(codes)
    location, log_scale = dvae.density(codes)
    torch.testing.assert_close(torch.cat([location, log_scale], 1), theirs, rtol=1e-5, atol=1e-5)
    drawn = torch.sigmoid(theirs[:, :3])
    assert drawn.std() > 0.01
    torch.testing.assert_close(torch.sigmoid(location), drawn, rtol=0, atol=1e-5)
    difference = dvae.decode(ids).int() - unmap_pixels(drawn).int()
    assert difference.abs().max() <= 1  # a byte: the difference of 1e-5 may cross a half
    assert difference.ne(0).float().mean() < 1e-3
    theirs_unmapped = dall_e.unmap_pixels(drawn).permute(0, 2, 3, 1)
    assert (dvae.decode(ids).float() / 255 - theirs_unmapped).abs().max() < 0.51 / 255
