"""What every tokenizer offers: frames to ids and back, frame by frame."""

import hashlib
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int32, UInt8
from torch import Tensor


@runtime_checkable
class Tokenizer(Protocol):
    """An image tokenizer: each frame alone becomes a grid of ids.

    Attributes:
        name: its key in `toto.tokenizers.TOKENIZERS`.
        vocab_size: how many codes it has.
        patch_px: side of the square of pixels that one code stands for.
    """

    name: str
    vocab_size: int
    patch_px: int

    def encode(self, frames: UInt8[Tensor, "T H W 3"]) -> Int32[Tensor, "T Y X"]:
        """Turn sRGB frames into ids; Y = H / patch_px, X = W / patch_px.

        Raises:
            ValueError: if a side is not a multiple of `patch_px`.
        """
        ...

    def decode(self, ids: Int32[Tensor, "T Y X"]) -> UInt8[Tensor, "T H W 3"]:
        """Draw the frames that the ids stand for.

        Raises:
            ValueError: if an id is outside [0, vocab_size).
        """
        ...

    def digest(self) -> str:
        """Return the sha256 of all that decides the ids: configuration and weights."""
        ...


def check_frames(frames: Tensor, patch_px: int) -> None:
    """Refuse frames that a grid of whole patches cannot cover.

    Raises:
        ValueError: if the frames are not u8 [T H W 3] with sides that are multiples of the patch.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(f"frames are u8 [T H W 3], got {frames.dtype} {tuple(frames.shape)}")
    height, width = frames.shape[1:3]
    if height % patch_px or width % patch_px:
        raise ValueError(
            f"frames of {width}x{height} px do not divide into patches of {patch_px} px; "
            f"resize them to a multiple of {patch_px}"
        )


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """Refuse ids that the tokenizer has no code for.

    Raises:
        ValueError: if the ids are not integers [T Y X] within the vocabulary.
    """
    if ids.ndim != 3 or ids.is_floating_point():
        raise ValueError(f"ids are integers [T Y X], got {ids.dtype} {tuple(ids.shape)}")
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= vocab_size):
        raise ValueError(
            f"ids {int(ids.min())}..{int(ids.max())} lie outside a vocabulary of {vocab_size}"
        )


def digest_of(description: str, weights: Mapping[str, Tensor]) -> str:
    """sha256 over a description and the bytes of all weights, by name."""
    sha = hashlib.sha256(description.encode())
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        sha.update(f"{name}|{value.dtype}|{tuple(value.shape)}".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
