"""Films of coloured squares and untrained backbones that read them: for tests of streams."""

from typing import Any

import torch
from torch import Tensor

from made_run_folders import CODES, GRID, strange
from toto.data.layout import Layout, LayoutConfig
from toto.models import DecoderConfig, Gpt2Config, LlamaConfig, MambaConfig
from toto.probe.backbone import Backbone
from toto.tokenizers import load_tokenizer

SIDE_PX, PATCH_PX = 32, 8
FRAME = GRID[0] * GRID[1]
WINDOW = 4
"""Frames that the contexts below hold."""
CONTEXT = 1 + WINDOW * FRAME + 1
SIZES: dict[str, Any] = {"width": 32, "depth": 3, "context": CONTEXT}
LLAMA = LlamaConfig(
    vocab_size=CODES + 3, heads=4, mlp_width=48, rope_base=500.0, init_std=0.2, **SIZES
)
PATCHES = LlamaConfig(
    vocab_size=CODES + 3,
    heads=2,
    mlp_width=48,
    init_std=0.1,
    patch_values=3 * PATCH_PX**2,
    **SIZES,
)
GPT2 = Gpt2Config(vocab_size=CODES + 3, heads=2, init_std=0.2, **SIZES)
MAMBA = MambaConfig(vocab_size=CODES + 3, state_size=5, init_std=0.2, **SIZES)
MODELS: dict[str, DecoderConfig] = {
    "llama": LLAMA,
    "patches": PATCHES,
    "gpt2": GPT2,
    "mamba": MAMBA,
}


def film(frames: int, seed: int = 0) -> Tensor:
    """Frames of squares of any colour, one a token, u8 [T H W 3]."""
    draw = torch.Generator().manual_seed(seed)
    colours = torch.randint(256, (frames, *GRID, 3), generator=draw).byte()
    return colours.repeat_interleave(PATCH_PX, 1).repeat_interleave(PATCH_PX, 2)


def backbone(config: DecoderConfig, **changes: Any) -> Backbone:
    """Weights that hide nothing, over the grey tokenizer."""
    layout = Layout(LayoutConfig(frames=WINDOW), codes=CODES, frame_tokens=FRAME)
    given = {"model": strange(config), "tokenizer": load_tokenizer("grey"), "layout": layout}
    return Backbone(**{**given, **changes})
