import pytest
import torch

from toto.probe.cells import rgb_cells, tokenizer_cells
from toto.tokenizers import load_tokenizer
from toto.tokenizers.quantised import nearest
from toto.tokenizers.vqvae import VQVAEConfig


def noise(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)


def test_a_cell_is_its_own_pixels() -> None:
    frame = noise(16, 24)
    got = rgb_cells(frame, 8)
    assert got.shape == (2, 3, 192)
    changed = frame.clone()
    changed[8, 16] = 255 - changed[8, 16]
    different = (rgb_cells(changed, 8) != got).any(-1)
    assert different.nonzero().tolist() == [[1, 2]]
    grey = rgb_cells(torch.tensor([124, 116, 104], dtype=torch.uint8).expand(8, 8, 3), 8)
    assert grey.abs().max() < 0.01  # ImageNet's mean colour


def test_a_tokenizers_cells_are_what_codes_are_nearest_to() -> None:
    torch.manual_seed(0)
    config = VQVAEConfig(vocab_size=32, width=16, residual_width=8, halvings=2)
    tokenizer, frame = config.build().eval(), noise(16, 24)
    got = tokenizer_cells(tokenizer, frame)
    assert got.shape == (4, 6, 16)
    ids = nearest(got.flatten(0, 1), tokenizer.codes).view(4, 6)
    assert torch.equal(ids.int(), tokenizer.encode(frame[None])[0])


def test_rejects_cells_that_do_not_cover_the_frame() -> None:
    with pytest.raises(ValueError, match="cells of 8 px do not cover a frame of 20x16 px"):
        rgb_cells(noise(16, 20), 8)


def test_rejects_a_tokenizer_without_vectors() -> None:
    with pytest.raises(ValueError, match="tokenizer 'grey' has no vectors before its codes"):
        tokenizer_cells(load_tokenizer("grey"), noise(16, 16))
