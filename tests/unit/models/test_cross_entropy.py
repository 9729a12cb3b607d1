from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toto.models import MODELS, DecoderConfig, Gpt2Config, LlamaConfig, MambaConfig
from toto.models import cross_entropy as module
from toto.models.cross_entropy import CrossEntropy
from toto.train.objectives import next_token, token_losses
from toto.types import Batch

VOCAB, WIDTH = 37, 16


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three places at a time, so that 20 places make parts of which the last is shorter."""
    monkeypatch.setattr(module, "CPU_SCORES", 3 * VOCAB)


def made() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stream = torch.randn(2, 10, WIDTH, requires_grad=True)
    readout = torch.randn(VOCAB, WIDTH, requires_grad=True)
    return stream, readout, torch.randint(VOCAB, (2, 10)), torch.rand(2, 10)


def plain(stream: Tensor, readout: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    scores = F.linear(stream, readout).float().flatten(0, 1)
    losses = F.cross_entropy(scores, targets.flatten(), reduction="none")
    return (losses * weight.flatten()).sum()


def test_the_loss_and_its_gradients_are_those_of_all_scores_at_once() -> None:
    stream, readout, targets, weight = made()
    loss = CrossEntropy()(stream, readout, targets, weight)
    expected = plain(stream, readout, targets, weight)
    torch.testing.assert_close(loss, expected)
    # Scaled, as a part of an accumulated step is.
    found = torch.autograd.grad(loss / 4, (stream, readout))
    wanted = torch.autograd.grad(expected / 4, (stream, readout))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_in_bf16_gradients_stay_fp32_and_near_those_of_fp32() -> None:
    stream, readout, targets, weight = made()
    exact = torch.autograd.grad(plain(stream, readout, targets, weight), (stream, readout))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CrossEntropy()(stream, readout, targets, weight)
    assert loss.dtype == torch.float32
    found = torch.autograd.grad(loss, (stream, readout))
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        # bf16 keeps 8 bits: 2^-8 = 0.4 % a number; of a whole gradient no more than twice that.
        assert (one - other).norm() < 2**-7 * other.norm()


def test_extreme_scores_stay_finite() -> None:
    stream, readout, targets, weight = made()
    loss = CrossEntropy()(1e4 * stream, readout, targets, weight)
    gradient = torch.autograd.grad(loss, readout)[0]
    assert loss.isfinite()
    assert gradient.isfinite().all()


DECODERS: dict[str, DecoderConfig] = {
    "llama": LlamaConfig(vocab_size=VOCAB, width=WIDTH, depth=2, heads=2, mlp_width=24, context=10),
    "gpt2": Gpt2Config(vocab_size=VOCAB, width=WIDTH, depth=2, heads=2, context=10),
    "mamba": MambaConfig(vocab_size=VOCAB, width=WIDTH, depth=2, context=10),
}


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_training_step_is_that_of_the_losses_one_by_one(name: str, tied: bool) -> None:
    model = replace(DECODERS[name], tied=tied).build()
    batch = Batch(ids=torch.randint(VOCAB, (2, 11)), weight=torch.rand(2, 10))
    loss = next_token(model, batch)
    expected = (token_losses(model, batch) * batch.weight).sum() / batch.weight.sum()
    torch.testing.assert_close(loss, expected)
    found, wanted = gradients(loss, model), gradients(expected, model)
    for weight in wanted:
        torch.testing.assert_close(found[weight], wanted[weight], rtol=1e-4, atol=1e-6, msg=weight)
