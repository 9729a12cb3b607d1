"""The decoder against transformers' LLaMA, an independent implementation, on the same weights."""

import pytest
import torch

from toto.models import Llama, LlamaConfig
from toto.models.sampling import SamplingConfig, continue_sequence

transformers = pytest.importorskip("transformers", reason="needs the extra `hub`")

WIDTH, LENGTH = 48, 96
# fp32, two layouts of the same products: the sums differ in their last bits only.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=[4 * WIDTH, 8 * WIDTH // 3], ids=["mlp 4 d", "mlp 8/3 d"])
def mlp_width(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def ours(request: pytest.FixtureRequest, mlp_width: int) -> Llama:
    config = LlamaConfig(
        vocab_size=67,
        width=WIDTH,
        depth=3,
        heads=4,
        mlp_width=mlp_width,
        context=LENGTH,
        tied=request.param,
        rope_base=5_000.0,
        norm_eps=1e-4,
        init_std=0.2,
    )
    model = config.build().eval().requires_grad_(False)
    for norm in [m for m in model.modules() if isinstance(m, torch.nn.RMSNorm)]:
        norm.weight.uniform_(0.5, 1.5)  # all ones would hide a misplaced norm
    return model


@pytest.fixture
def theirs(ours: Llama) -> torch.nn.Module:
    config = ours.config
    twin = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            rope_theta=config.rope_base,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
            tie_word_embeddings=config.tied,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    theirs = {"model.embed_tokens": ours.embedding.weight, "model.norm": ours.norm.weight}
    theirs["lm_head"] = ours.embedding.weight if ours.head is None else ours.head.weight
    for number, block in enumerate(ours.blocks):
        q, k, v = block.attention.qkv.weight.chunk(3)
        gate, up = block.mlp.gate_up.weight.chunk(2)
        for name, weight in {
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.attention.out.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.mlp.down.weight,
            "input_layernorm": block.attention_norm.weight,
            "post_attention_layernorm": block.mlp_norm.weight,
        }.items():
            theirs[f"model.layers.{number}.{name}"] = weight
    twin.load_state_dict({f"{name}.weight": weight for name, weight in theirs.items()})
    return twin.eval()


@torch.no_grad()
def test_logits_match(ours: Llama, theirs: torch.nn.Module) -> None:
    ids = torch.randint(ours.config.vocab_size, (2, LENGTH))
    logits = ours(ids)
    assert logits.std() > 0.1  # else any two models would agree
    torch.testing.assert_close(logits, theirs(ids).logits, **CLOSE)


@torch.no_grad()
def test_every_layer_matches(ours: Llama, theirs: torch.nn.Module) -> None:
    ids = torch.randint(ours.config.vocab_size, (2, LENGTH))
    depth = ours.config.depth
    hidden = ours.hidden(ids, range(depth + 1))
    expected = theirs(ids, output_hidden_states=True).hidden_states
    for layer in range(depth):
        torch.testing.assert_close(hidden[layer], expected[layer], **CLOSE)
    # transformers gives its last layer normalised, we give every layer as the stream has it.
    torch.testing.assert_close(ours.norm(hidden[depth]), expected[depth], **CLOSE)


@torch.no_grad()
def test_a_greedy_continuation_is_the_same(ours: Llama, theirs: torch.nn.Module) -> None:
    prompt = torch.randint(ours.config.vocab_size, (2, 40))
    new = LENGTH - prompt.shape[1]
    expected = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
    )
    drawn = continue_sequence(
        ours,
        prompt,
        tokens=new,
        codes=ours.config.vocab_size,
        config=SamplingConfig(temperature=0.0),
    )
    assert torch.equal(torch.stack(list(drawn), dim=1), expected[:, prompt.shape[1] :])
