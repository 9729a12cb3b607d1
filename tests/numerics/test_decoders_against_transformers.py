"""Our decoders against transformers', independent implementations, on the same weights."""

import itertools
from collections.abc import Callable
from functools import partial

import pytest
import torch
from made_twins import LENGTH, Twins, gpt2, llama, mamba

from toto.models import MODELS, Mamba
from toto.models.decoding import open_reader
from toto.models.sampling import Draws, SamplingConfig, continue_sequence

transformers = pytest.importorskip("transformers", reason="needs the extra `hub`")

MAKERS: dict[str, Callable[..., Twins]] = {
    "llama, mlp 4 d": partial(llama, mlp_width=4 * 48),
    "llama, mlp 8/3 d": partial(llama, mlp_width=8 * 48 // 3),
    "gpt2": gpt2,
    "mamba": mamba,
}
MADE = {
    f"{name}, {'tied' if tied else 'untied'}": partial(make, tied=tied)
    for (name, make), tied in itertools.product(MAKERS.items(), (True, False))
}


def test_every_registered_model_is_here() -> None:
    assert {name.split(",")[0] for name in MAKERS} == MODELS.keys()


@pytest.fixture(params=MADE)
def twins(request: pytest.FixtureRequest) -> Twins:
    return MADE[request.param](transformers)


def tokens(length: int = LENGTH) -> torch.Tensor:
    return torch.randint(67, (2, length))


def assert_close(found: torch.Tensor, expected: torch.Tensor, twins: Twins) -> None:
    torch.testing.assert_close(found, expected, rtol=twins.close, atol=twins.close)


@torch.no_grad()
def test_logits_match(twins: Twins) -> None:
    ids = tokens()
    logits = twins.ours(ids)
    assert logits.std() > twins.deviation
    assert_close(logits, twins.theirs(ids).logits, twins)


@torch.no_grad()
def test_every_layer_matches(twins: Twins) -> None:
    ids, depth = tokens(), twins.ours.config.depth
    hidden = twins.ours.hidden(ids, range(depth + 1))
    *streams, last = twins.theirs(ids, output_hidden_states=True).hidden_states
    assert len(streams) == depth
    for layer, stream in enumerate(streams, start=twins.first):
        assert_close(hidden[layer], stream, twins)
    # transformers gives its last layer normalised, we give every layer as the stream has it.
    assert_close(twins.ours.norm(hidden[depth]), last, twins)


@torch.no_grad()
def test_a_greedy_continuation_is_the_same(twins: Twins) -> None:
    prompt = tokens(40)
    new = LENGTH - prompt.shape[1]
    expected = twins.theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
    )
    drawn = continue_sequence(
        open_reader(twins.ours),
        prompt,
        tokens=new,
        codes=twins.ours.config.vocab_size,
        config=SamplingConfig(temperature=0.0),
        draws=Draws(0, clips=len(prompt), futures=1),
    )
    found = torch.stack([token.ids for token in drawn], dim=1)
    assert torch.equal(found, expected[:, prompt.shape[1] :])


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_gradients_of_a_mamba_match(tied: bool) -> None:
    """Autograd through transformers' loop against the gradient that is written out."""
    twins = mamba(transformers, tied=tied)
    ours, theirs = twins.ours.requires_grad_(True), twins.theirs.requires_grad_(True)
    assert isinstance(ours, Mamba)
    ids = tokens(40)
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
