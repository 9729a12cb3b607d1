"""Mamba against transformers' plain path, an independent implementation, on the same weights."""

import pytest
import torch

from toto.models import Mamba, MambaConfig
from toto.models.sampling import SamplingConfig, continue_sequence

transformers = pytest.importorskip("transformers", reason="needs the extra `hub`")

LENGTH = 96
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
"""fp32: the same products in another order. Measured: 8e-6 on logits of deviation 3.7."""


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def ours(request: pytest.FixtureRequest) -> Mamba:
    config = MambaConfig(
        vocab_size=67,
        width=40,
        depth=3,
        context=LENGTH,
        state_size=7,
        kernel=5,
        tied=request.param,
        norm_eps=1e-4,
        init_std=0.5,
    )
    model = config.build().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        # All ones, or the same rates in each channel, would hide one that is misplaced.
        if name.endswith(("norm.weight", ".D")):
            parameter.uniform_(0.5, 1.5)
        elif name.endswith("A_log"):
            parameter.add_(torch.randn_like(parameter) / 2)
        elif name.endswith(("select.weight", "step.weight")):
            parameter.mul_(4)  # else hardly any selection
    return model


@pytest.fixture
def theirs(ours: Mamba) -> torch.nn.Module:
    config = ours.config
    twin = transformers.MambaForCausalLM(
        transformers.MambaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            state_size=config.state_size,
            expand=config.expand,
            conv_kernel=config.kernel,
            time_step_rank=config.step_rank,
            layer_norm_epsilon=config.norm_eps,
            tie_word_embeddings=config.tied,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    weights = {
        "backbone.embeddings.weight": ours.embedding.weight,
        "backbone.norm_f.weight": ours.norm.weight,
        "lm_head.weight": ours.embedding.weight if ours.head is None else ours.head.weight,
    }
    for number, block in enumerate(ours.blocks):
        mixer = block.mixer
        for name, weight in {
            "norm.weight": block.norm.weight,
            "mixer.in_proj.weight": mixer.input.weight,
            "mixer.conv1d.weight": mixer.convolution.weight,
            "mixer.conv1d.bias": mixer.convolution.bias,
            "mixer.x_proj.weight": mixer.select.weight,
            "mixer.dt_proj.weight": mixer.step.weight,
            "mixer.dt_proj.bias": mixer.step.bias,
            "mixer.A_log": mixer.A_log,
            "mixer.D": mixer.D,
            "mixer.out_proj.weight": mixer.output.weight,
        }.items():
            weights[f"backbone.layers.{number}.{name}"] = weight
    twin.load_state_dict(weights)
    return twin.eval()


@torch.no_grad()
def test_logits_match(ours: Mamba, theirs: torch.nn.Module) -> None:
    ids = torch.randint(ours.config.vocab_size, (2, LENGTH))
    logits = ours(ids)
    assert logits.std() > 1  # else any two models would agree
    torch.testing.assert_close(logits, theirs(ids).logits, **CLOSE)


@torch.no_grad()
def test_every_layer_matches(ours: Mamba, theirs: torch.nn.Module) -> None:
    ids = torch.randint(ours.config.vocab_size, (2, LENGTH))
    depth = ours.config.depth
    hidden = ours.hidden(ids, range(depth + 1))
    expected = theirs(ids, output_hidden_states=True).hidden_states
    # transformers leaves the embedding out and adds the last layer normalised.
    assert len(expected) == depth + 1
    for layer in range(depth):
        torch.testing.assert_close(hidden[layer + 1], expected[layer], **CLOSE)
    torch.testing.assert_close(ours.norm(hidden[depth]), expected[depth], **CLOSE)


def test_gradients_match(ours: Mamba, theirs: torch.nn.Module) -> None:
    """Autograd through transformers' loop against the gradient that is written out."""
    ours.requires_grad_(True)
    theirs.requires_grad_(True)
    ids = torch.randint(ours.config.vocab_size, (2, 40))
    weight = torch.randn(2, 40, ours.config.vocab_size)
    (ours(ids) * weight).mean().backward()
    (theirs(ids).logits * weight).mean().backward()
    blocks = zip(ours.blocks, theirs.get_submodule("backbone.layers").children(), strict=True)
    for mine, other in ((a.mixer, b.mixer) for a, b in blocks):
        for ours_grad, theirs_grad in (
            (mine.input.weight.grad, other.in_proj.weight.grad),
            (mine.convolution.weight.grad, other.conv1d.weight.grad),
            (mine.select.weight.grad, other.x_proj.weight.grad),
            (mine.step.weight.grad, other.dt_proj.weight.grad),
            (mine.step.bias.grad, other.dt_proj.bias.grad),
            (mine.A_log.grad, other.A_log.grad),
            (mine.D.grad, other.D.grad),
            (mine.output.weight.grad, other.out_proj.weight.grad),
        ):
            scale = theirs_grad.abs().max()
            assert scale > 0
            torch.testing.assert_close(ours_grad / scale, theirs_grad / scale, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_greedy_continuation_is_the_same(ours: Mamba, theirs: torch.nn.Module) -> None:
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
