"""GPT-2 against transformers' GPT2LMHeadModel, with our sines for its learned positions."""

import pytest
import torch

from toto.models import Gpt2, Gpt2Config
from toto.models.gpt2 import sine_table
from toto.models.sampling import SamplingConfig, continue_sequence

transformers = pytest.importorskip("transformers", reason="needs the extra `hub`")

LENGTH = 96
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
"""fp32: the same products in another order. Measured: 4e-6 on logits of deviation 2."""


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def ours(request: pytest.FixtureRequest) -> Gpt2:
    config = Gpt2Config(
        vocab_size=67,
        width=48,
        depth=3,
        heads=4,
        context=LENGTH,
        tied=request.param,
        norm_eps=1e-4,
        init_std=0.3,
        position_scale=2.0,
    )
    model = config.build().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        # Ones and zeros would hide a norm or a bias that is misplaced.
        if name.endswith("norm.weight"):
            parameter.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            parameter.normal_(std=0.3)
    return model


@pytest.fixture
def theirs(ours: Gpt2) -> torch.nn.Module:
    config = ours.config
    twin = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_embd=config.width,
            n_layer=config.depth,
            n_head=config.heads,
            n_positions=config.context,
            layer_norm_epsilon=config.norm_eps,
            tie_word_embeddings=config.tied,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    weights = {
        "transformer.wte.weight": ours.embedding.weight,
        "transformer.wpe.weight": ours.positions(range(config.context)),
        "transformer.ln_f.weight": ours.norm.weight,
        "transformer.ln_f.bias": ours.norm.bias,
        "lm_head.weight": ours.embedding.weight if ours.head is None else ours.head.weight,
    }
    for number, block in enumerate(ours.blocks):
        for name, part in {
            "ln_1": block.attention_norm,
            "attn.c_attn": block.attention.qkv,
            "attn.c_proj": block.attention.out,
            "ln_2": block.mlp_norm,
            "mlp.c_fc": block.mlp.up,
            "mlp.c_proj": block.mlp.down,
        }.items():
            # GPT-2's matrices stand the other way round.
            weight = part.weight.T if part.weight.ndim == 2 else part.weight
            weights[f"transformer.h.{number}.{name}.weight"] = weight
            weights[f"transformer.h.{number}.{name}.bias"] = part.bias
    twin.load_state_dict(weights)
    return twin.eval()


@torch.no_grad()
def test_logits_match(ours: Gpt2, theirs: torch.nn.Module) -> None:
    ids = torch.randint(ours.config.vocab_size, (2, LENGTH))
    logits = ours(ids)
    assert logits.std() > 1  # else any two models would agree
    torch.testing.assert_close(logits, theirs(ids).logits, **CLOSE)


@torch.no_grad()
def test_every_layer_matches(ours: Gpt2, theirs: torch.nn.Module) -> None:
    ids = torch.randint(ours.config.vocab_size, (2, LENGTH))
    depth = ours.config.depth
    hidden = ours.hidden(ids, range(depth + 1))
    expected = theirs(ids, output_hidden_states=True).hidden_states
    for layer in range(depth):
        torch.testing.assert_close(hidden[layer], expected[layer], **CLOSE)
    # transformers gives its last layer normalised, we give every layer as the stream has it.
    torch.testing.assert_close(ours.norm(hidden[depth]), expected[depth], **CLOSE)


@torch.no_grad()
def test_a_greedy_continuation_is_the_same(ours: Gpt2, theirs: torch.nn.Module) -> None:
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


def test_positions_are_the_transformers_sines() -> None:
    """Section 3.5 of arXiv 1706.03762, number by number in double precision."""
    table = sine_table(range(3, 9), 8)
    for row, place in enumerate(range(3, 9)):
        for channel in range(8):
            angle = torch.tensor(place / 10_000 ** (channel // 2 * 2 / 8), dtype=torch.float64)
            expected = angle.cos() if channel % 2 else angle.sin()
            assert table[row, channel].item() == pytest.approx(expected.item(), abs=1e-6)
