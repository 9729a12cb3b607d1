"""V-JEPA 2's attentive probe gives what transformers' own gives, with the same weights."""

import pytest
import torch

from toto.probe.attentive import AttentivePool

WIDTH, HEADS = 24, 3
NAMES = {
    "layer_norm1": "norm",
    "layer_norm2": "mlp_norm",
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.out_proj": "out",
    "cross_attn.q_proj": "query",
    "cross_attn.k_proj": "key",
    "cross_attn.v_proj": "value",
    "mlp.fc1": "widen",
    "mlp.fc2": "narrow",
}


def ours_of(theirs: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Their weights by our names; a bias of the keys changes nothing and has no place here."""
    found = {}
    for name, weight in theirs.state_dict().items():
        parts = name.replace("self_attention_layers", "blocks")
        parts = parts.replace("cross_attention_layer", "crossed").replace("query_tokens", "query")
        for their_name, our_name in NAMES.items():
            parts = parts.replace(f".{their_name}.", f".{our_name}.")
        if not parts.endswith("key.bias"):
            found[parts] = weight
    return found


@torch.no_grad()
def test_it_pools_as_transformers_does() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2AttentivePooler

    config = transformers.VJEPA2Config(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_pooler_layers=3, layer_norm_eps=1e-5
    )
    torch.manual_seed(0)
    theirs = VJEPA2AttentivePooler(config).eval()
    for name, parameter in theirs.named_parameters():
        # Gains of 1 and biases of 0 would hide one that is misplaced.
        parameter.copy_(torch.randn_like(parameter) * 0.3 + ("norm" in name))
    ours = AttentivePool(WIDTH, HEADS).eval()
    ours.load_state_dict(ours_of(theirs))
    stream = torch.randn(2, 7, WIDTH)
    torch.testing.assert_close(ours(stream), theirs(stream), rtol=1e-4, atol=1e-4)
    other = torch.cat([-stream[:, :1], stream[:, 1:]], dim=1)
    assert not torch.allclose(ours(other), ours(stream), atol=1e-2)


def test_it_is_larger_than_the_papers_head_by_far() -> None:
    """Three blocks of 12 D^2 and one of 11 D^2, against keys and values of 2 D^2."""
    matrices = sum(p.numel() for p in AttentivePool(WIDTH, HEADS).parameters() if p.ndim == 2)
    assert matrices == (3 * 12 + 11) * WIDTH**2
