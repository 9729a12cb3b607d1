import dataclasses
from typing import Any

import pytest
import torch

from toto.tokenizers import DVAEConfig
from toto.tokenizers.dvae import Block, map_pixels, unmap_pixels

SMALL = DVAEConfig(vocab_size=64, width=8, decoder_stem=8, blocks_per_group=1)


def made_frames(count: int = 16, side_px: int = 32) -> torch.Tensor:
    """Smooth pictures that differ, so that patches are as alike as those of real frames."""
    coarse = torch.rand(count, 3, side_px // 8, side_px // 8)
    smooth = torch.nn.functional.interpolate(coarse, size=side_px, mode="bilinear")
    return (255 * smooth).byte().permute(0, 2, 3, 1).contiguous()


def test_the_full_size_has_the_published_parameters() -> None:
    """Those of the released encoder and decoder."""
    with torch.device("meta"):
        model = DVAEConfig().build()
    counts = {
        name: (sum(p.numel() for p in part.parameters()), len(list(part.parameters())))
        for name, part in (("encoder", model.encoder), ("decoder", model.decoder))
    }
    assert counts == {"encoder": (53_786_240, 74), "decoder": (43_829_766, 76)}
    assert model.vocab_size == 8192
    assert model.patch_px == 8


@pytest.mark.parametrize("blocks_per_group", [1, 2, 3])
def test_the_residual_is_scaled_by_the_square_of_the_depth(blocks_per_group: int) -> None:
    model = DVAEConfig(
        vocab_size=8, width=4, decoder_stem=4, blocks_per_group=blocks_per_group
    ).build()
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    assert len(blocks) == 2 * 4 * blocks_per_group
    assert {block.gain for block in blocks} == {1 / (4 * blocks_per_group) ** 2}


def test_fresh_weights_have_the_published_deviation() -> None:
    model = DVAEConfig(vocab_size=512, width=32, blocks_per_group=1).build()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert not parameter.any(), name
        elif parameter.numel() > 20_000:
            fan_in = parameter[0].numel()
            # 2 %: four deviations of the estimate from 20,000 weights.
            assert parameter.std().item() == pytest.approx(fan_in**-0.5, rel=0.02), name


def test_mapping_pixels_is_undone() -> None:
    frames = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    mapped = map_pixels(frames)
    assert mapped.shape == (1, 3, 16, 16)
    assert mapped.min().item() == pytest.approx(0.1)
    assert mapped.max().item() == pytest.approx(0.9)
    assert torch.equal(unmap_pixels(mapped), frames)


def test_unmapping_clamps_to_bytes() -> None:
    pixels = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]).view(1, 1, 1, 5).expand(-1, 3, -1, -1)
    assert unmap_pixels(pixels)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_encoding_and_decoding_keep_no_gradient() -> None:
    model = SMALL.build()
    frames = made_frames(2)
    assert not model.decode(model.encode(frames)).requires_grad
    assert model.logits(map_pixels(frames)).requires_grad


def test_placed_codes_are_used_and_random_ones_are_not() -> None:
    model, frames = SMALL.build(), made_frames(64)
    held_out = made_frames(64)
    before = len(model.encode(held_out).unique())
    model.place_codes(frames, sharpness=20.0, generator=torch.Generator().manual_seed(0))
    after = len(model.encode(held_out).unique())
    assert before < SMALL.vocab_size / 2
    assert after > 0.9 * SMALL.vocab_size


def test_a_placed_code_answers_to_its_own_patch() -> None:
    """As many patches as codes: each patch must be nearest to itself."""
    model, frames = SMALL.build(), made_frames(4)  # 4 x 16 patches
    model.place_codes(frames, sharpness=20.0, generator=torch.Generator().manual_seed(0))
    assert sorted(model.encode(frames).flatten().tolist()) == list(range(64))


def test_sharpness_is_the_mean_gap_between_codes() -> None:
    model, frames = SMALL.build(), made_frames(4)
    model.place_codes(frames, sharpness=20.0, generator=torch.Generator().manual_seed(0))
    scores = model.logits(map_pixels(frames)).permute(0, 2, 3, 1).reshape(64, 64)
    own = scores.max(1, keepdim=True).values
    assert (own - scores).mean().item() == pytest.approx(20.0, rel=1e-3)


def test_rejects_too_few_patches_to_place_codes_on() -> None:
    with pytest.raises(ValueError, match="48 patches are too few to start 64 codes from"):
        SMALL.build().place_codes(made_frames(3), sharpness=20.0, generator=torch.Generator())


def test_the_digest_changes_with_any_weight() -> None:
    model = DVAEConfig(vocab_size=8, width=4, decoder_stem=4, blocks_per_group=1).build()
    before = model.digest()
    for parameter in model.parameters():
        with torch.no_grad():
            parameter[(-1,) * parameter.ndim] += 1e-3
        assert model.digest() != before
        before = model.digest()


def test_an_encoder_alone_gives_the_same_ids_and_refuses_to_draw() -> None:
    whole, frames = SMALL.build(), made_frames(2)
    alone = dataclasses.replace(SMALL, decoder=False).build()
    alone.encoder.load_state_dict(whole.encoder.state_dict())
    assert not [name for name in alone.state_dict() if name.startswith("decoder")]
    ids = alone.encode(frames)
    assert torch.equal(ids, whole.encode(frames))
    with pytest.raises(ValueError, match=r"converted from an encoder alone.*OpenAI's decoder.pkl"):
        alone.decode(ids)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 1}, "vocab_size 1 must be at least 2"),
        ({"width": 18}, "width 18 is not a multiple of 4"),
        ({"width": 0}, "width 0 must be at least 1"),
        ({"decoder_stem": 0}, "decoder_stem 0 must be at least 1"),
        ({"blocks_per_group": 0}, "blocks_per_group 0 must be at least 1"),
    ],
)
def test_rejects(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DVAEConfig(**fields)
