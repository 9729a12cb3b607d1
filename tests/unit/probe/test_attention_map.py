"""The weights that are shown, against those by which the model itself mixes values."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from toto.data.layout import Layout, LayoutConfig
from toto.models import DecoderConfig, Gpt2Config, LlamaConfig, MambaConfig
from toto.models.attention import set_direction
from toto.models.mup import MuP
from toto.probe.attention_map import queries_and_keys
from toto.probe.backbone import Backbone
from toto.tokenizers import load_tokenizer

GRID = (3, 2, 4)
CODES = 16
CONTEXT = 1 + 3 * 2 * 4
LLAMA = LlamaConfig(
    vocab_size=CODES + 3, width=24, depth=2, heads=3, mlp_width=32, context=CONTEXT, init_std=0.4
)
MODELS: dict[str, DecoderConfig] = {
    "llama": LLAMA,
    "llama under muP": LlamaConfig(
        vocab_size=CODES + 3,
        width=24,
        depth=2,
        heads=3,
        mlp_width=32,
        context=CONTEXT,
        init_std=0.4,
        mup=MuP(base_width=12, base_heads=2),
    ),
    "gpt2": Gpt2Config(
        vocab_size=CODES + 3, width=24, depth=2, heads=3, context=CONTEXT, init_std=0.4
    ),
}


def backbone_of(config: DecoderConfig, *, bidirectional: bool = False) -> Backbone:
    model = config.build().eval().requires_grad_(False)
    attention = "bidirectional" if bidirectional else "causal"
    set_direction(model, attention)
    layout = Layout(LayoutConfig(frames=GRID[0]), codes=CODES, frame_tokens=GRID[1] * GRID[2])
    return Backbone(
        model=model, tokenizer=load_tokenizer("grey"), layout=layout, attention=attention
    )


def mixed_by(backbone: Backbone, clip: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """A layer's values [N L K] and what its kernel makes of them [L D], in the model's own pass."""
    attention = backbone.model.blocks[layer - 1].attention
    assert isinstance(attention, nn.Module)
    seen: dict[str, Tensor] = {}
    hooks = [
        attention.qkv.register_forward_hook(lambda *call: seen.update(qkv=call[2])),
        attention.out.register_forward_hook(lambda *call: seen.update(mixed=call[1][0])),
    ]
    backbone.token_features(clip[None], [backbone.depth])
    for hook in hooks:
        hook.remove()
    values_LD = seen["qkv"][0].chunk(3, dim=-1)[2]
    return values_LD.unflatten(-1, (attention.heads, -1)).transpose(0, 1), seen["mixed"][0]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_the_weights_are_those_the_model_mixes_by(
    name: str, layer: int, bidirectional: bool
) -> None:
    backbone = backbone_of(MODELS[name], bidirectional=bidirectional)
    clip = torch.randint(CODES, GRID)
    values_NLK, mixed_LD = mixed_by(backbone, clip, layer)
    asked = queries_and_keys(backbone, clip, layer)
    for position, place in enumerate(itertools.product(*map(range, GRID)), start=1):
        gaze = asked.gaze(*place)
        weights_NL = torch.cat([gaze.start[:, None], gaze.patches.flatten(1)], dim=1)
        torch.testing.assert_close(weights_NL.sum(-1), torch.ones(3))
        mixed_NK = torch.einsum("nl,nlk->nk", weights_NL, values_NLK)
        torch.testing.assert_close(mixed_NK.flatten(), mixed_LD[position], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_seen_that_comes_later(name: str) -> None:
    asked = queries_and_keys(backbone_of(MODELS[name]), torch.randint(CODES, GRID), 2)
    patches = asked.gaze(1, 0, 2).patches.flatten(1)
    own = 1 * 8 + 0 * 4 + 2
    assert bool((patches[:, : own + 1] > 0).all())
    assert not bool(patches[:, own + 1 :].any())


def test_a_model_that_attends_both_ways_sees_what_comes_later() -> None:
    asked = queries_and_keys(backbone_of(LLAMA, bidirectional=True), torch.randint(CODES, GRID), 1)
    assert bool((asked.gaze(0, 0, 0).patches > 0).all())


def test_refuses_what_has_no_attention() -> None:
    clip = torch.randint(CODES, GRID)
    mamba = MambaConfig(vocab_size=CODES + 3, width=24, depth=2, context=CONTEXT)
    with pytest.raises(ValueError, match="a Mamba has no attention to look at"):
        queries_and_keys(backbone_of(mamba), clip, 1)
    for layer in (0, 3):
        with pytest.raises(ValueError, match=rf"layer {layer} is not in 1\.\.2"):
            queries_and_keys(backbone_of(LLAMA), clip, layer)
    for place in ((3, 0, 0), (0, 2, 0), (0, 0, -1)):
        with pytest.raises(ValueError, match="is not in a clip of"):
            queries_and_keys(backbone_of(LLAMA), clip, 1).gaze(*place)
