from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toto.tokenizers.vqgan import VQGANConfig
from toto.train.adversarial import (
    Adversarial,
    Discriminator,
    DiscriminatorConfig,
    balance,
    hinge,
)
from toto.train.loop import train_steps
from toto.train.optimizer import AdamWConfig

SMALL = DiscriminatorConfig(layers=2, channels=8)


def adversarial(*, start_step: int = 0, weight: float = 0.8, lr: float = 1e-2) -> Adversarial:
    discriminator = SMALL.build()
    optimizer = AdamWConfig(betas=(0.5, 0.9), weight_decay=0.0).build(discriminator)
    return Adversarial(
        discriminator, optimizer, schedule=lambda _: lr, start_step=start_step, weight=weight
    )


class Painter(nn.Module):
    """Stands for a tokenizer: two convolutions, the second its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.last(F.silu(self.first(pixels)))


def pixels(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(4, 3, 4, 4, generator=generator)
    return 2 * F.interpolate(coarse, size=32, mode="bilinear") - 1


def state(of: Adversarial) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in of.tensors().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_the_published_size() -> None:
    with torch.device("meta"):
        model = DiscriminatorConfig().build()
    assert sum(p.numel() for p in model.parameters()) == 2_765_633
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.ndim == 4}
    assert shapes == {
        "main.0.weight": (64, 3, 4, 4),
        "main.2.weight": (128, 64, 4, 4),
        "main.5.weight": (256, 128, 4, 4),
        "main.8.weight": (512, 256, 4, 4),
        "main.11.weight": (1, 512, 4, 4),
    }


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_scores_are_those_of_a_patch_discriminator(layers: int) -> None:
    model = DiscriminatorConfig(layers=layers, channels=4).build()
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    pictures = torch.rand(2, 3, 3 * 2**layers, 4 * 2**layers)
    x = pictures.double()
    convolutions = [name[:-7] for name, tensor in weights.items() if tensor.ndim == 4]
    assert len(convolutions) == layers + 2
    widths = [len(weights[f"{name}.weight"]) for name in convolutions]
    assert widths == [4 * min(2**n, 8) for n in range(layers + 1)] + [1]
    for number, name in enumerate(convolutions):
        x = F.conv2d(
            x,
            weights[f"{name}.weight"],
            weights.get(f"{name}.bias"),
            stride=2 if number < layers else 1,
            padding=1,
        )
        norm = f"main.{int(name.split('.')[1]) + 1}"
        if f"{norm}.running_mean" in weights:
            centred = x - x.mean((0, 2, 3), keepdim=True)
            x = centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
            x = (
                x * weights[f"{norm}.weight"][:, None, None]
                + weights[f"{norm}.bias"][:, None, None]
            )
        if number <= layers:
            x = torch.maximum(x, 0.2 * x)
    assert x.shape == (2, 1, 1, 2)
    torch.testing.assert_close(model(pictures).double(), x, rtol=1e-4, atol=1e-5)


def test_a_score_sees_its_patch_alone() -> None:
    """70 pixels with three layers, as in its first publication."""
    model = DiscriminatorConfig(layers=3, channels=4).build().eval()
    pictures = torch.rand(1, 3, 160, 160, requires_grad=True)
    scores = model(pictures)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    assert pictures.grad is not None
    rows = pictures.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == 70


def test_the_hinge() -> None:
    real, drawn = torch.tensor([3.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0, 1.0])
    # Real ones cost 0, 0.5 and 2; drawn ones 0, 1 and 2.
    assert hinge(real, drawn).item() == pytest.approx((2.5 / 3 + 1.0) / 2)


@pytest.mark.parametrize(
    ("by_reconstruction", "by_term", "expected"),
    [
        ([3.0, 4.0], [0.0, 2.0], 5 / 2.0001),
        ([3.0, 4.0], [0.0, 0.0], 1e4),
        ([0.3, 0.4], [0.0, 0.0], 0.5 / 1e-4),
        ([0.0, 0.0], [0.0, 2.0], 0.0),
    ],
)
def test_balance_is_the_ratio_of_gradients(
    by_reconstruction: list[float], by_term: list[float], expected: float
) -> None:
    last = torch.ones(2, requires_grad=True)
    reconstruction = (last * torch.tensor(by_reconstruction)).sum()
    term = (last * torch.tensor(by_term)).sum()
    weight = balance(reconstruction, term, last)
    assert weight.item() == pytest.approx(expected, rel=1e-5)
    assert not weight.requires_grad


@pytest.mark.parametrize("weight", [0.25, 0.8])
def test_the_term_pulls_on_the_last_layer_by_its_weight(weight: float) -> None:
    painter, critic = Painter(), adversarial(weight=weight)
    real = pixels()
    drawn = painter(real)
    reconstruction = (drawn - real).abs().mean()
    term = critic.generator_term(drawn, reconstruction, painter.last.weight, step=0)
    (pull,) = torch.autograd.grad(term, painter.last.weight, retain_graph=True)
    (by_pixels,) = torch.autograd.grad(reconstruction, painter.last.weight)
    # The published 1e-4 beside the term's own gradient norm takes a little away.
    assert (pull.norm() / by_pixels.norm()).item() == pytest.approx(weight, rel=2e-2)


def test_each_side_gets_its_own_gradient_only() -> None:
    painter, critic = Painter(), adversarial()
    real = pixels()
    drawn = painter(real)
    critic.discriminator_step(real, drawn, step=0)
    assert all(p.grad is None for p in painter.parameters())
    reconstruction = (drawn - real).abs().mean()
    term = critic.generator_term(drawn, reconstruction, painter.last.weight, step=0)
    term.backward()
    assert all(p.grad is not None for p in painter.parameters())
    assert all(p.grad is None and p.requires_grad for p in critic.discriminator.parameters())


def test_the_discriminator_learns_to_tell_noise_from_pictures() -> None:
    critic, noise = adversarial(), torch.Generator().manual_seed(1)
    losses = [
        critic.discriminator_step(
            pixels(step), 2 * torch.rand(4, 3, 32, 32, generator=noise) - 1, step=step
        ).item()
        for step in range(20)
    ]
    assert losses[0] > 0.5
    assert max(losses[-5:]) < 0.3  # 1 is chance


def test_its_rate_follows_the_schedule() -> None:
    critic = adversarial()
    critic.schedule = lambda step: 0.5**step
    critic.discriminator_step(pixels(), pixels(1), step=3)
    assert {group["lr"] for group in critic.optimizer.param_groups} == {0.125}


def test_nothing_happens_before_the_start() -> None:
    painter, critic = Painter(), adversarial(start_step=2)
    real = pixels()
    drawn = painter(real)
    reconstruction = (drawn - real).abs().mean()
    before = state(critic)
    for step in range(2):
        assert critic.discriminator_step(real, drawn, step=step) == 0
        term = critic.generator_term(drawn, reconstruction, painter.last.weight, step=step)
        assert term == 0
        assert not term.requires_grad
    assert same(before, state(critic))
    assert critic.discriminator_step(real, drawn, step=2) > 0
    assert critic.generator_term(drawn, reconstruction, painter.last.weight, step=2) != 0
    assert not same(before, state(critic))


def test_restored_it_goes_on_bit_for_bit() -> None:
    one, other = adversarial(), adversarial()
    for step in range(2):
        one.discriminator_step(pixels(step), pixels(step + 10), step=step)
    assert not same(state(one), state(other))
    other.restore(state(one))
    assert same(state(one), state(other))
    for step in range(2, 5):
        for critic in (one, other):
            critic.discriminator_step(pixels(step), pixels(step + 10), step=step)
    assert same(state(one), state(other))


def test_trains_a_tokenizer_in_the_ordinary_loop() -> None:
    config = VQGANConfig(
        vocab_size=8, channels=32, multipliers=(1, 1), blocks_per_level=1, attention_levels=()
    )
    model, critic = config.build(), adversarial(start_step=1, lr=1e-3)
    seen: list[tuple[float, float]] = []

    def batches() -> Iterator[tuple[int, Tensor]]:
        step = 0
        while True:
            yield step, pixels(step)
            step += 1

    def objective(model: nn.Module, batch: tuple[int, Tensor]) -> Tensor:
        step, real = batch
        drawn = model.draw(model.hidden(real))
        reconstruction = (drawn - real).abs().mean()
        told_apart = critic.discriminator_step(real, drawn, step=step)
        term = critic.generator_term(drawn, reconstruction, model.last_weight, step=step)
        seen.append((told_apart.item(), term.item()))
        return reconstruction + term

    optimizer = AdamWConfig(weight_decay=0.0).build(model)
    before = model.last_weight.clone()
    steps = list(
        train_steps(model, objective, batches(), optimizer, lambda _: 1e-3, steps=range(3))
    )
    assert [step.number for step in steps] == [1, 2, 3]
    assert seen[0] == (0, 0)
    assert all(loss > 0 and term != 0 for loss, term in seen[1:])
    assert not torch.equal(before, model.last_weight)


def test_mixed_precision_asks_the_discriminator_of_after_its_step() -> None:
    painter, critic = Painter(), adversarial()
    real = pixels()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = painter(real)
        reconstruction = (drawn - real).abs().mean()
        critic.discriminator_step(real, drawn, step=0)
        within = critic.generator_term(drawn, reconstruction, painter.last.weight, step=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fresh = critic.generator_term(drawn, reconstruction, painter.last.weight, step=0)
    assert within.item() == fresh.item()


def test_a_gradient_that_is_not_finite_changes_no_weight() -> None:
    critic = adversarial()
    before = [p.clone() for p in critic.discriminator.parameters()]
    with pytest.raises(RuntimeError, match="non-finite"):
        critic.discriminator_step(pixels(), torch.full((4, 3, 32, 32), torch.nan), step=0)
    after = critic.discriminator.parameters()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(("layers", "least"), [(1, 6), (2, 12), (3, 24)])
def test_rejects_pictures_too_small_for_a_score(layers: int, least: int) -> None:
    model = Discriminator(DiscriminatorConfig(layers=layers, channels=4))
    assert model(torch.zeros(2, 3, least, least)).shape == (2, 1, 1, 1)
    with pytest.raises(
        ValueError,
        match=rf"pictures of {least}x{least - 1} px are too small for this discriminator, which "
        rf"needs {least} px a side; give it fewer layers",
    ):
        model(torch.zeros(2, 3, least - 1, least))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"layers": 0}, "layers 0 must be at least 1"), ({"channels": 0}, "channels 0 must be")],
)
def test_rejects(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiscriminatorConfig(**fields)


@pytest.mark.parametrize("fields", [{"start_step": -1}, {"weight": -0.5}])
def test_rejects_negative_settings(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        adversarial(**fields)


def test_rejects_the_state_of_another_discriminator() -> None:
    critic = adversarial()
    good = state(critic)
    with pytest.raises(ValueError, match="generator/x is neither the discriminator's nor its"):
        critic.restore({**good, "generator/x": torch.zeros(1)})
    missing = {name: t for name, t in good.items() if name != "discriminator/main.0.bias"}
    misshapen = {**good, "discriminator/main.0.bias": torch.zeros(3)}
    for tensors in (missing, misshapen):
        with pytest.raises(ValueError, match=r"not this discriminator's weights: main\.0\.bias; "):
            critic.restore(tensors)
    with pytest.raises(ValueError, match="optimizer state: missing"):
        critic.restore({name: t for name, t in good.items() if "optimizer/main.0.bias" not in name})
    assert same(good, state(critic))
