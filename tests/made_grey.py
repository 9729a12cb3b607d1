"""How made tokens describe themselves, where the grey tokenizer stands for any."""

from dataclasses import replace
from typing import Any

from toto.data.records import Description
from toto.tokenizers import load_tokenizer


def of_grey(**changes: Any) -> Description:
    """Clips of 4 x 4 tokens of the grey tokenizer."""
    grey = load_tokenizer("grey")
    described = Description(
        tokenizer=grey.name,
        tokenizer_digest=grey.digest(),
        vocab_size=grey.vocab_size,
        patch_px=grey.patch_px,
        grid=(4, 4),
        kind="video",
        precision="fp32",
        resize_filter="none",
        decoder="none",
    )
    return replace(described, **changes)
