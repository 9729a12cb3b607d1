"""What every registered tokenizer must do, whatever is inside."""

from pathlib import Path
from typing import Any

import pytest
import torch

from toto.tokenizers import TOKENIZERS, Tokenizer, load_tokenizer, save_tokenizer

SMALL: dict[str, dict[str, Any]] = {
    "dvae": {"vocab_size": 64, "width": 8, "decoder_stem": 8, "blocks_per_group": 1},
    "vqgan": {
        "vocab_size": 64,
        "channels": 32,
        "multipliers": (1, 1, 1),
        "blocks_per_level": 1,
        "attention_levels": (),
        "z_channels": 8,
        "code_width": 8,
    },
    "vqvae": {"vocab_size": 64, "width": 32, "residual_width": 8, "code_width": 4},
}
"""Sizes that are fast, for those whose defaults are not."""


@pytest.fixture(params=sorted(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param](**SMALL.get(request.param, {})).build()


def noise(tokenizer: Tokenizer, frames: int = 3, rows: int = 2, columns: int = 3) -> torch.Tensor:
    side = tokenizer.patch_px
    return torch.randint(256, (frames, rows * side, columns * side, 3), dtype=torch.uint8)


def test_is_a_tokenizer_of_its_name(tokenizer: Tokenizer) -> None:
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.name in TOKENIZERS


def test_ids_are_a_grid_within_the_vocabulary(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(noise(tokenizer))
    assert ids.shape == (3, 2, 3)
    assert ids.dtype == torch.int32
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size
    assert len(ids.unique()) > 1


def test_decoding_gives_frames_of_the_same_size(tokenizer: Tokenizer) -> None:
    frames = noise(tokenizer)
    drawn = tokenizer.decode(tokenizer.encode(frames))
    assert drawn.shape == frames.shape
    assert drawn.dtype == torch.uint8


def test_every_code_can_be_drawn(tokenizer: Tokenizer) -> None:
    ids = torch.arange(tokenizer.vocab_size, dtype=torch.int32).view(1, 1, -1)
    side = tokenizer.patch_px
    assert tokenizer.decode(ids).shape == (1, side, tokenizer.vocab_size * side, 3)


def test_a_frame_reads_the_same_alone_as_in_a_clip(tokenizer: Tokenizer) -> None:
    frames = noise(tokenizer, frames=70)  # more than are encoded at once
    ids = tokenizer.encode(frames)
    for number in (0, 1, 63, 64, 69):
        alone = tokenizer.encode(frames[number : number + 1])
        assert torch.equal(ids[number : number + 1], alone)


def test_a_frame_is_drawn_the_same_alone_as_in_a_clip(tokenizer: Tokenizer) -> None:
    ids = torch.randint(tokenizer.vocab_size, (66, 2, 2), dtype=torch.int32)
    drawn = tokenizer.decode(ids)
    for number in (0, 64, 65):
        alone = tokenizer.decode(ids[number : number + 1])
        # One byte: a convolution of one frame may add in another order and round the other way.
        assert (drawn[number].int() - alone[0].int()).abs().max() <= 1


def test_the_order_of_the_frames_does_not_matter(tokenizer: Tokenizer) -> None:
    frames = noise(tokenizer, frames=5)
    assert torch.equal(tokenizer.encode(frames.flip(0)), tokenizer.encode(frames).flip(0))


def test_the_digest_is_of_this_tokenizer_alone(tokenizer: Tokenizer) -> None:
    others = [TOKENIZERS[name](**SMALL.get(name, {})).build() for name in TOKENIZERS]
    assert tokenizer.digest() == tokenizer.digest()
    others = [other.digest() for other in others if other.name != tokenizer.name]
    assert tokenizer.digest() not in others


def test_is_read_back_as_it_was_saved(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    frames = noise(tokenizer)
    ids = tokenizer.encode(frames)
    assert type(loaded) is type(tokenizer)
    assert loaded.digest() == tokenizer.digest()
    assert torch.equal(loaded.encode(frames), ids)
    assert torch.equal(loaded.decode(ids), tokenizer.decode(ids))


@pytest.mark.parametrize("excess", [(1, 0), (0, 1)])
def test_rejects_frames_of_no_whole_number_of_patches(
    tokenizer: Tokenizer, excess: tuple[int, int]
) -> None:
    side = tokenizer.patch_px
    height, width = 2 * side + excess[0], 2 * side + excess[1]
    with pytest.raises(
        ValueError,
        match=rf"frames of {width}x{height} px do not divide into patches of {side} px; resize",
    ):
        tokenizer.encode(torch.zeros(1, height, width, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 16, 16, 3), torch.float32),
        ((1, 16, 16, 3), torch.int32),
        ((16, 16, 3), torch.uint8),
        ((1, 3, 16, 16), torch.uint8),
        ((1, 16, 16, 1), torch.uint8),
    ],
)
def test_rejects_what_are_not_frames(
    tokenizer: Tokenizer, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    with pytest.raises(ValueError, match=r"frames are u8 \[T H W 3\], got torch\."):
        tokenizer.encode(torch.zeros(shape, dtype=dtype))


def test_rejects_ids_outside_the_vocabulary(tokenizer: Tokenizer) -> None:
    last = tokenizer.vocab_size
    for low, high in ((-1, 0), (0, last)):
        with pytest.raises(
            ValueError, match=rf"ids {low}\.\.{high} lie outside a vocabulary of {last}"
        ):
            tokenizer.decode(torch.tensor([[[low, high]]], dtype=torch.int32))


@pytest.mark.parametrize(
    "ids", [torch.zeros(2, 2, dtype=torch.int32), torch.zeros(1, 2, 2)], ids=["2-D", "floats"]
)
def test_rejects_what_are_not_ids(tokenizer: Tokenizer, ids: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"ids are integers \[T Y X\], got torch\."):
        tokenizer.decode(ids)
