"""The fast ways to encode: the same codes in fp32, nearly the same in bf16, refused elsewhere."""

import dataclasses
from typing import Any

import pytest
import torch

from toto.tokenizers import DVAE, DVAEConfig, Grey, Quantised, VQGANConfig
from toto.tokenizers import batch as batch_module
from toto.tokenizers import fused as fused_module
from toto.tokenizers.batch import ENCODE_PX, frames_at_once
from toto.tokenizers.fused import FusedEncoder, fast_encode

SMALL = DVAEConfig(vocab_size=64, width=16, decoder_stem=8, blocks_per_group=1)

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch without oneDNN"
)


def needs_bf16() -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor does not compute in bf16")


def made_frames(count: int, height_px: int = 32, width_px: int = 48) -> torch.Tensor:
    coarse = torch.rand(count, 3, height_px // 8, width_px // 8)
    smooth = torch.nn.functional.interpolate(coarse, size=(height_px, width_px), mode="bilinear")
    return (255 * smooth).byte().permute(0, 2, 3, 1).contiguous()


def dvae(**fields: Any) -> DVAE:
    """Fresh weights, biases too, with the codes placed so that most of them are used."""
    model = dataclasses.replace(SMALL, **fields).build().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(std=0.1)  # all zero would hide a missing one
        elif "res_path" in name:
            parameter.mul_(4)  # or the gain would hide what the path does
    model.place_codes(made_frames(16), sharpness=20.0, generator=torch.Generator().manual_seed(0))
    return model


@needs_onednn
@pytest.mark.parametrize("fields", [{}, {"blocks_per_group": 2}, {"width": 4}, {"width": 20}])
def test_fp32_scores_and_codes_are_the_plain_ones(fields: dict[str, Any]) -> None:
    model, frames = dvae(**fields), made_frames(40)
    fast = fast_encode(model)
    assert isinstance(fast, FusedEncoder)
    scores = model.logits(fused_module.map_pixels(frames))
    torch.testing.assert_close(fast.logits(frames), scores, rtol=1e-4, atol=1e-3)
    codes = fast(frames)
    assert codes.dtype == torch.int32
    assert len(codes.unique()) > 20
    assert torch.equal(codes, model.encode(frames))


@needs_onednn
def test_bf16_codes_are_nearly_those_of_fp32() -> None:
    needs_bf16()
    model, frames = DVAEConfig(vocab_size=512, width=32).build().eval(), made_frames(40)
    fast = fast_encode(model, "bf16")
    assert isinstance(fast, FusedEncoder)
    assert fast.logits(frames[:1]).dtype == torch.bfloat16
    same = fast(frames) == model.encode(frames)
    assert same.float().mean() > 0.9


@needs_onednn
def test_the_frames_taken_at_once_change_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, frames = fast_encode(dvae()), made_frames(5)
    together = fast(frames)
    monkeypatch.setattr(fused_module, "WIDEST", 1)
    assert torch.equal(fast(frames), together)


@needs_onednn
def test_frames_with_a_tie_are_encoded_by_the_plain_module(monkeypatch: pytest.MonkeyPatch) -> None:
    model, frames = dvae(), made_frames(4)
    fast = fast_encode(model)
    asked: list[int] = []

    def plain(tied: torch.Tensor) -> torch.Tensor:
        asked.append(len(tied))
        return torch.full((len(tied), 4, 6), 63, dtype=torch.int32)

    monkeypatch.setattr(model, "encode", plain)
    monkeypatch.setattr(fused_module, "NEAR_TIE", 2.0)  # any two scores are within it
    assert fast(frames).eq(63).all()
    assert sum(asked) == 4
    monkeypatch.setattr(fused_module, "NEAR_TIE", -1.0)
    assert not fast(frames).eq(63).all()
    assert sum(asked) == 4


@needs_onednn
def test_it_refuses_frames_of_no_whole_number_of_patches() -> None:
    with pytest.raises(ValueError, match="frames of 33x32 px do not divide into patches of 8 px"):
        fast_encode(dvae())(torch.zeros(1, 32, 33, 3, dtype=torch.uint8))


def test_other_tokenizers_encode_as_they_do() -> None:
    grey = Grey()
    assert fast_encode(grey) == grey.encode


def test_without_onednn_fp32_is_the_plain_way_and_bf16_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = dvae()
    assert fast_encode(model) == model.encode
    with pytest.raises(ValueError, match=r"'dvae' cannot encode in bf16 here.*use precision fp32"):
        fast_encode(model, "bf16")


def test_bf16_is_refused_of_other_tokenizers_and_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="tokenizer 'grey' cannot encode in bf16 here"):
        fast_encode(Grey(), "bf16")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    with pytest.raises(ValueError, match="this processor does not compute in bf16; use precision"):
        fast_encode(dvae(), "bf16")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision 'fp16' is unknown; use 'fp32' or 'bf16'"):
        fast_encode(Grey(), "fp16")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("side_px", "frames"), [(128, 16), (256, 4), (64, 64), (1024, 1)])
def test_frames_at_once_are_bound_by_their_pixels(side_px: int, frames: int) -> None:
    assert frames_at_once(side_px, side_px) == frames
    assert frames * side_px**2 <= max(ENCODE_PX, side_px**2)


SMALL_VQGAN = VQGANConfig(
    vocab_size=32,
    channels=32,
    multipliers=(1, 1),
    blocks_per_level=1,
    attention_levels=(1,),
    z_channels=8,
    code_width=8,
)


@pytest.mark.parametrize("make", [SMALL.build, SMALL_VQGAN.build], ids=["dvae", "vqgan"])
def test_the_batch_never_changes_an_id(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model: DVAE | Quantised = make().eval()
    frames = made_frames(5)
    ids = model.encode(frames)
    monkeypatch.setattr(batch_module, "ENCODE_PX", 1)
    assert torch.equal(model.encode(frames), ids)
