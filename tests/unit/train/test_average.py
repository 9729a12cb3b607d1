import pytest
import torch
from torch import nn

from toto.train.average import Average


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def shifted(model: nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


@pytest.mark.parametrize(
    ("decay", "step", "kept"),
    # At step n the share kept is the smaller of the decay and (1 + n) / (10 + n).
    [(0.999, 1, 2 / 11), (0.999, 8, 9 / 18), (0.5, 1, 2 / 11), (0.5, 100, 0.5), (0.0, 7, 0.0)],
)
def test_one_update_by_hand(decay: float, step: int, kept: float) -> None:
    trained = model()
    average = Average(trained, decay)
    before = [p.clone() for p in trained.parameters()]
    shifted(trained, 3.0)
    average.update(trained, step)
    for averaged, old in zip(average.model.parameters(), before, strict=True):
        torch.testing.assert_close(averaged, old + (1 - kept) * 3.0)


def test_weights_that_no_gradient_moves_are_copied() -> None:
    trained = model()
    trained[0].weight.requires_grad_(False)
    average = Average(trained, 0.9)
    shifted(trained, 1.0)
    average.update(trained, 1)
    assert torch.equal(average.model[0].weight, trained[0].weight)
    assert not torch.equal(average.model[0].bias, trained[0].bias)


def test_buffers_are_copied() -> None:
    trained = model()
    average = Average(trained, 0.9)
    trained(torch.randn(5, 2))  # moves the norm's running mean and its count
    average.update(trained, 1)
    for averaged, current in zip(average.model.buffers(), trained.buffers(), strict=True):
        assert torch.equal(averaged, current)
    assert average.model[1].num_batches_tracked == 1


def test_it_is_a_model_of_its_own_in_evaluation_mode() -> None:
    trained = model().train()
    average = Average(trained, 0.9)
    before = average.model[0].weight.clone()
    shifted(trained, 1.0)
    assert torch.equal(average.model[0].weight, before)
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())
    assert trained.training
    assert all(p.requires_grad for p in trained.parameters())


def test_restored_it_goes_on_the_same() -> None:
    trained = model()
    one = Average(trained, 0.9)
    shifted(trained, 1.0)
    one.update(trained, 1)
    saved = {name: tensor.clone() for name, tensor in one.tensors().items()}
    other = Average(model(), 0.9)
    other.restore(saved)
    shifted(trained, -0.3)
    for average in (one, other):
        average.update(trained, 2)
    ours, theirs = one.tensors(), other.tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
