"""The discrete VAE against independent code, on the same random weights.

The encoder against transformers' FLAVA codebook, which is DALL-E's encoder; the decoder, which no
library has, against a computation from its published description (docs/paper.md, K rows).
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from toto.tokenizers import DVAE, DVAEConfig
from toto.tokenizers.dvae import map_pixels
from toto.tokenizers.fused import fast_encode

CONFIG = DVAEConfig(vocab_size=96, width=16, decoder_stem=12, blocks_per_group=2)
NEAR_TIE = 2e-6
"""What two sums of the same numbers in fp32 may differ by, at scores of about 1."""


@pytest.fixture
def dvae() -> DVAE:
    model = CONFIG.build().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(std=0.1)  # all zero would hide a missing one
        elif "res_path" in name:
            parameter.mul_(4)  # or the gain of 1/64 would hide what the path does
    return model


def frames(*, count: int, side_px: int) -> Tensor:
    side = side_px // 8
    colours = torch.rand(count, side, side, 3).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return ((0.8 * colours + 0.2 * torch.rand(colours.shape)) * 255).byte()


def flava_twin(dvae: DVAE) -> Any:
    """FLAVA's codebook with the weights of our encoder."""
    pytest.importorskip("transformers", reason="needs the extra `hub`")
    from transformers.models.flava import modeling_flava

    twin = modeling_flava.FlavaImageCodebook(
        modeling_flava.FlavaImageCodebookConfig(
            hidden_size=CONFIG.width,
            vocab_size=CONFIG.vocab_size,
            num_blocks_per_group=CONFIG.blocks_per_group,
        )
    ).eval()
    theirs = {}
    for name, weight in dvae.encoder.state_dict().items():
        parts = name.split(".")
        if parts[1].startswith("group"):
            parts.insert(2, "group")
        if "res_path" in parts:
            parts.insert(parts.index("res_path") + 1, "path")
        theirs[".".join(parts)] = weight
    twin.load_state_dict(theirs)
    return twin


@torch.no_grad()
@pytest.mark.parametrize(
    "tokens", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)], ids=["1e5", "1e6"]
)
def test_codes_are_those_of_flava(dvae: DVAE, tokens: int) -> None:
    twin = flava_twin(dvae)
    fast = fast_encode(dvae)
    done, ties, used = 0, 0, torch.zeros(CONFIG.vocab_size, dtype=torch.bool)
    while done < tokens:
        made = frames(count=10, side_px=256)
        pixels = map_pixels(made)
        theirs = twin(pixels)
        codes = theirs.argmax(1)
        if not done:
            assert torch.equal(codes, twin.get_codebook_indices(pixels))
            torch.testing.assert_close(dvae.logits(pixels), theirs, rtol=1e-5, atol=1e-5)
        best = theirs.topk(2, dim=1).values
        clear = best[:, 0] - best[:, 1] > NEAR_TIE
        for encoded in (dvae.encode(made), fast(made)):
            assert torch.equal(encoded[clear].long(), codes[clear])
        done += codes.numel()
        ties += int((~clear).sum())
        used[codes.flatten()] = True
    assert used.sum() > 10
    assert ties < 1e-4 * done


def expected_density(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """1x1 stem; four groups of pre-activation bottlenecks, doubled between; ReLU and 1x1 to 6."""

    def conv(x: Tensor, name: str) -> Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        side = weight.shape[-1]
        # As a product with unfolded patches, not as a convolution.
        columns = F.unfold(F.pad(x, [side // 2] * 4), side)
        return (weight.flatten(1) @ columns + bias[:, None]).view(len(x), -1, *x.shape[2:])

    x = torch.zeros(len(ids), CONFIG.vocab_size, *ids.shape[1:])
    x.scatter_(1, ids[:, None].long(), 1.0)
    x = conv(x, "blocks.input")
    blocks = 4 * CONFIG.blocks_per_group
    for group in range(1, 5):
        for block in range(1, CONFIG.blocks_per_group + 1):
            name = f"blocks.group_{group}.block_{block}"
            residual = x
            for number, side in enumerate((1, 3, 3, 3), start=1):
                layer = f"{name}.res_path.conv_{number}"
                assert weights[f"{layer}.weight"].shape[-1] == side
                residual = conv(residual.clamp_min(0), layer)
            widened = f"{name}.id_path.weight" in weights
            x = (conv(x, f"{name}.id_path") if widened else x) + residual / blocks**2
        if group < 4:
            rows = torch.arange(2 * x.shape[2]) // 2
            columns = torch.arange(2 * x.shape[3]) // 2
            x = x[:, :, rows][:, :, :, columns]
    return conv(x.clamp_min(0), "blocks.output.conv")


@torch.no_grad()
def test_the_decoder_is_the_published_one(dvae: DVAE) -> None:
    ids = torch.randint(CONFIG.vocab_size, (2, 3, 4), dtype=torch.int32)
    codes = F.one_hot(ids.long(), CONFIG.vocab_size).permute(0, 3, 1, 2).float()
    location, log_scale = dvae.density(codes)
    expected = expected_density(dvae.decoder.state_dict(), ids)
    assert expected.std() > 0.1
    torch.testing.assert_close(location, expected[:, :3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_scale, expected[:, 3:], rtol=1e-4, atol=1e-4)
    # Pixels: the sigmoid of the location, brought back from [0.1, 0.9] to bytes.
    drawn = ((expected[:, :3].sigmoid() - 0.1) / 0.8).clamp(0, 1) * 255
    difference = dvae.decode(ids).permute(0, 3, 1, 2).float() - drawn
    assert difference.abs().max() < 0.51
