"""How a codebook learns, on a tokenizer of one pixel a code: every number is known by hand."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toto.tokenizers import VQGANConfig, VQVAEConfig
from toto.tokenizers.quantised import Quantised, nearest, signed
from toto.train.adversarial import DiscriminatorConfig
from toto.train.learner import FrameBatch
from toto.train.quantisation import AdversarialConfig, Quantisation, QuantisationConfig

PLAIN = QuantisationConfig(free_share=0.0, restart_below=0.0)
"""Codes from the first step on, none of them started anew."""


@dataclass(frozen=True)
class PixelConfig:
    codes: int = 4


class Pixels(Quantised):
    """Vectors are a pixel's colour times a factor, pictures the codes over another."""

    name = "pixels"

    def __init__(self, codes: int = 4) -> None:
        super().__init__()
        self.config, self.vocab_size, self.patch_px = PixelConfig(codes), codes, 1
        self.inwards = nn.Parameter(torch.tensor(1.0))
        self.outwards = nn.Parameter(torch.tensor(1.0))
        self.codebook = nn.Embedding(codes, 3)

    @property
    def codes(self) -> Tensor:
        return self.codebook.weight

    @property
    def last_weight(self) -> Tensor:
        return self.outwards

    def hidden(self, pixels: Tensor) -> Tensor:
        return pixels * self.inwards

    def draw(self, vectors: Tensor) -> Tensor:
        self.drawn = vectors
        return vectors * self.outwards


def frames(*greys: int, side_px: int = 1) -> Tensor:
    """One frame a grey level, of that level throughout."""
    levels = torch.tensor(greys, dtype=torch.uint8)
    return levels[:, None, None, None].repeat(1, side_px, side_px, 3)


def grey(level: float) -> float:
    """Value of a grey byte as a pixel in [-1, 1]."""
    return level / 127.5 - 1


FOUR = frames(0, 85, 170, 255)


def started(config: QuantisationConfig, model: Quantised, steps: int = 100) -> Quantisation:
    """A learner whose codes lie on the four grey levels, in this order."""
    learner = config.build(model, FOUR, steps=steps, seed=0)
    learner.objective(model, FrameBatch(frames=FOUR, step=learner.start))
    levels = signed(FOUR).flatten(1)
    with torch.no_grad():
        model.codes.copy_(levels)
    learner.counts_V.fill_(1.0)
    learner.sums_VC.copy_(levels)
    return learner


def test_codes_start_as_centres_of_what_the_encoder_says() -> None:
    model = Pixels()
    learner = PLAIN.build(model, FOUR, steps=10, seed=0)
    with torch.no_grad():
        model.codes.fill_(9.0)
    learner.objective(model, FrameBatch(frames=FOUR, step=0))
    # k-means may leave two codes on one level; all of them are on one of the four.
    distances = torch.cdist(model.codes, signed(FOUR).flatten(1)).amin(1)
    assert distances.max() < 1e-5
    assert len(model.codes.unique(dim=0)) > 1


def test_before_their_start_no_codes_are_used() -> None:
    model = Pixels()
    learner = replace(PLAIN, free_share=0.1).build(model, FOUR, steps=20, seed=0)
    assert learner.start == 2
    before = model.codes.clone()
    for step in (0, 1):
        loss = learner.objective(model, FrameBatch(frames=FOUR, step=step))
        assert torch.equal(model.drawn, signed(FOUR))
        # Nothing is lost without codes; what stays keeps the vectors short.
        assert loss.item() == pytest.approx(1e-3 * signed(FOUR).square().mean().item())
    assert torch.equal(model.codes, before)
    learner.objective(model, FrameBatch(frames=FOUR, step=2))
    assert not torch.equal(model.codes, before)


def test_a_code_moves_to_the_average_of_its_vectors() -> None:
    """Two steps of decay 0.9 by hand: a fair part of four vectors on four codes is one."""
    model = Pixels()
    learner = started(replace(PLAIN, decay=0.9), model)
    # Three vectors choose the first code, one the last, and none the two between.
    learner.objective(model, FrameBatch(frames=frames(0, 6, 12, 252), step=1))
    count = 0.9 * 1 + 0.1 * 3
    total = 0.9 * grey(0) + 0.1 * (grey(0) + grey(6) + grey(12))
    assert learner.counts_V.tolist() == pytest.approx([count, 0.9, 0.9, 1.0])
    assert model.codes[0].tolist() == pytest.approx([total / count] * 3, rel=1e-5)
    assert model.codes[1].tolist() == pytest.approx([grey(85)] * 3, rel=1e-5)
    last = 0.9 * grey(255) + 0.1 * grey(252)
    assert model.codes[3].tolist() == pytest.approx([last] * 3, rel=1e-5)
    learner.objective(model, FrameBatch(frames=frames(0, 0, 0, 0), step=2))
    count, total = 0.9 * count + 0.1 * 4, 0.9 * total + 0.1 * 4 * grey(0)
    assert learner.counts_V.tolist() == pytest.approx([count, 0.81, 0.81, 0.9])
    assert model.codes[0].tolist() == pytest.approx([total / count] * 3, rel=1e-5)


def test_a_lost_code_is_put_on_a_vector_of_the_batch() -> None:
    model = Pixels()
    learner = started(replace(PLAIN, decay=0.5, restart_below=0.3), model)
    batch = frames(0, 3, 0, 3)
    learner.objective(model, FrameBatch(frames=batch, step=1))
    assert learner.restarted == 0  # after one step without a vector a code has 0.5 of its part
    learner.objective(model, FrameBatch(frames=batch, step=2))
    assert learner.restarted == 3
    fresh = model.codes[1:]
    assert torch.cdist(fresh, signed(batch).flatten(1)).amin(1).max() == 0
    assert learner.counts_V[1:].tolist() == [0.5] * 3
    assert torch.equal(learner.sums_VC[1:], 0.5 * fresh)
    measured = learner.measures(model, FOUR, 2)
    assert measured["restarted_codes"] == 3
    assert learner.measures(model, FOUR, 2)["restarted_codes"] == 0


def test_late_in_the_run_no_code_starts_anew() -> None:
    config = replace(PLAIN, decay=0.01, restart_below=0.3, restart_until=0.85)
    for step, expected in ((84, 3), (85, 0), (99, 0)):
        model = Pixels()
        learner = started(config, model)
        learner.objective(model, FrameBatch(frames=frames(0, 3, 0, 3), step=step))
        assert learner.restarted == expected, step


def test_codes_that_learn_by_gradient_start_anew_too() -> None:
    model = Pixels()
    learner = started(replace(PLAIN, decay=0.01, restart_below=0.3, codebook="gradient"), model)
    learner.objective(model, FrameBatch(frames=frames(0, 3, 0, 3), step=1))
    assert learner.restarted == 3


def test_a_restart_is_a_function_of_seed_and_step() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(len(found))
        model = Pixels()
        learner = started(replace(PLAIN, decay=0.01, restart_below=0.3), model)
        learner.objective(model, FrameBatch(frames=frames(0, 3, 6, 9), step=7))
        found.append(model.codes.detach().clone())
    assert torch.equal(*found)


def test_the_loss_is_its_terms_by_their_weights() -> None:
    model = Pixels()
    batch = frames(5, 80, 180, 250)
    vectors = signed(batch).flatten(1)
    for reconstruction, error in (("squared", F.mse_loss), ("absolute", F.l1_loss)):
        config = replace(PLAIN, codebook="gradient", commitment=0.3, reconstruction=reconstruction)
        learner = started(config, model)
        codes = model.codes[nearest(vectors, model.codes)]
        loss = learner.objective(model, FrameBatch(frames=batch, step=1))
        expected = error(codes, vectors) + 1.3 * F.mse_loss(codes, vectors)
        torch.testing.assert_close(loss, expected)


def test_the_gradient_goes_straight_through_to_the_encoder() -> None:
    """The decoder's gradient at the codes is taken for the one at the vectors."""
    model = Pixels()
    learner = started(replace(PLAIN, commitment=0.0), model)
    batch = frames(20, 70, 190, 240)
    loss = learner.objective(model, FrameBatch(frames=batch, step=1))
    loss.backward()
    pixels = signed(batch).flatten(1)
    codes = model.codes[nearest(pixels, model.codes)]
    # d/dw of mean (out * v - x)^2 with v = w x: 2 mean (out * code - x) out x, at w = out = 1.
    expected = 2 * ((codes - pixels) * pixels).mean()
    assert model.inwards.grad is not None
    torch.testing.assert_close(model.inwards.grad, expected)
    assert model.inwards.grad != 0


def test_commitment_pulls_the_vectors_and_not_the_codes() -> None:
    model = Pixels()
    learner = started(replace(PLAIN, codebook="gradient", commitment=0.0), model)
    batch = frames(20, 70, 190, 240)
    pulls = {}
    for commitment in (0.0, 1.0):
        model.zero_grad()
        learner.config = replace(PLAIN, codebook="gradient", commitment=commitment)
        learner.objective(model, FrameBatch(frames=batch, step=1)).backward()
        assert model.inwards.grad is not None
        assert model.codes.grad is not None
        pulls[commitment] = (model.inwards.grad.clone(), model.codes.grad.clone())
    assert not torch.equal(pulls[0.0][0], pulls[1.0][0])
    assert torch.equal(pulls[0.0][1], pulls[1.0][1])


@pytest.mark.parametrize(("codebook", "learnt"), [("gradient", True), ("average", False)])
def test_who_moves_the_codes(codebook: Any, learnt: bool) -> None:
    model = Pixels()
    learner = started(replace(PLAIN, codebook=codebook), model)
    before = model.codes.detach().clone()
    loss = learner.objective(model, FrameBatch(frames=frames(20, 70, 190, 240), step=1))
    loss.backward()
    assert model.codes.requires_grad == learnt
    assert (model.codes.grad is not None and bool(model.codes.grad.abs().sum() > 0)) == learnt
    assert torch.equal(model.codes, before) == learnt


def test_measures_by_hand() -> None:
    model = Pixels()
    learner = started(PLAIN, model)
    measured = learner.measures(model, frames(0, 85, 173, 255), 1)
    levels = [grey(0), grey(85), grey(173), grey(255)]
    mean = sum(levels) / 4
    assert measured == {
        "quantisation_error": pytest.approx((grey(173) - grey(170)) ** 2 / 4, rel=1e-4),
        "vector_variance": pytest.approx(sum((v - mean) ** 2 for v in levels) / 4, rel=1e-4),
        "restarted_codes": 0.0,
    }


SMALL = VQVAEConfig(
    vocab_size=8, code_width=4, width=8, residual_width=8, encoder_blocks=1, decoder_blocks=1
)
ADVERSARIAL = AdversarialConfig(
    weight=0.8, start_share=0.5, discriminator=DiscriminatorConfig(layers=1, channels=4)
)
NOISE = torch.randint(256, (6, 16, 16, 3), generator=torch.Generator().manual_seed(1)).byte()


def test_the_discriminator_takes_part_from_its_start_on() -> None:
    config = replace(PLAIN, adversarial=ADVERSARIAL)
    torch.manual_seed(1)
    model = SMALL.build()
    learner = config.build(model, NOISE, steps=4, seed=0)
    assert learner.adversarial is not None
    assert learner.adversarial.start_step == 2
    before = {name: t.clone() for name, t in learner.adversarial.tensors().items()}

    def same() -> bool:
        assert learner.adversarial is not None
        now = learner.adversarial.tensors()
        return all(torch.equal(now[name], before[name]) for name in before)

    def extra(step: int) -> float:
        """How much more a step costs than without a discriminator."""
        torch.manual_seed(1)
        twin = SMALL.build()
        twin.load_state_dict(model.state_dict())
        plain = PLAIN.build(twin, NOISE, steps=4, seed=0)
        plain.restore({name: t.clone() for name, t in learner.tensors().items() if "/" not in name})
        batch = FrameBatch(frames=NOISE, step=step)
        alone = plain.objective(twin, batch).item()
        return learner.objective(model, batch).item() - alone

    assert [extra(0), extra(1)] == [0, 0]
    assert same()
    assert extra(2) != 0
    assert not same()


def test_without_gradients_there_is_no_adversary() -> None:
    model = SMALL.build()
    learner = replace(PLAIN, adversarial=ADVERSARIAL).build(model, NOISE, steps=4, seed=0)
    with torch.no_grad():
        loss = learner.objective(model, FrameBatch(frames=NOISE, step=3))
    assert loss.isfinite()


def test_without_weight_no_discriminator_is_made() -> None:
    learner = PLAIN.build(SMALL.build(), NOISE, steps=4, seed=0)
    assert learner.adversarial is None
    assert set(learner.tensors()) == {"counts", "sums"}


@pytest.mark.parametrize("adversarial", [AdversarialConfig(), replace(ADVERSARIAL, start_share=0)])
def test_restored_it_goes_on_bit_for_bit(adversarial: AdversarialConfig) -> None:
    config = QuantisationConfig(free_share=0.0, restart_below=0.9, adversarial=adversarial)
    model, other_model = SMALL.build(), SMALL.build()
    learner = config.build(model, NOISE, steps=10, seed=0)
    for step in range(3):
        learner.objective(model, FrameBatch(frames=NOISE, step=step))
    other = config.build(other_model, NOISE, steps=10, seed=0)
    other_model.load_state_dict(model.state_dict())
    other.restore({name: tensor.clone() for name, tensor in learner.tensors().items()})
    for step in range(3, 6):
        batch = FrameBatch(frames=NOISE, step=step)
        assert torch.equal(learner.objective(model, batch), other.objective(other_model, batch))
    ours, theirs = learner.tensors(), other.tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(model.codes, other_model.codes)


def test_rejects_the_state_of_another() -> None:
    learner = PLAIN.build(SMALL.build(), NOISE, steps=4, seed=0)
    wanted = r"a codebook's averages are counts \(8,\) and sums \(8, 4\), got "
    counts, sums = torch.ones(8), torch.ones(8, 4)
    for tensors, got in (
        ({}, "none"),
        ({"counts": counts}, "counts"),
        ({"counts": counts, "sums": torch.ones(9, 4)}, "counts, sums"),
        ({"counts": counts, "sums": sums, "more": sums}, "counts, more, sums"),
    ):
        with pytest.raises(ValueError, match=wanted + got):
            learner.restore(tensors)
    with pytest.raises(ValueError, match="the discriminator of the saved run and of this config"):
        learner.restore({"counts": counts, "sums": sums, "adversarial/discriminator/x": sums})
    other = replace(PLAIN, adversarial=ADVERSARIAL).build(SMALL.build(), NOISE, steps=4, seed=0)
    with pytest.raises(ValueError, match="the discriminator of the saved run and of this config"):
        other.restore({"counts": counts, "sums": sums})


def test_rejects_codes_of_length_1() -> None:
    model = SimpleNamespace(config=VQGANConfig(unit_codes=True))
    with pytest.raises(
        ValueError, match="codes of length 1 can be converted, not trained: set uni"
    ):
        PLAIN.build(model, NOISE, steps=4, seed=0)  # pyright: ignore[reportArgumentType]


def test_rejects_a_discriminator_that_sees_more_than_a_frame() -> None:
    large = replace(ADVERSARIAL, discriminator=DiscriminatorConfig(layers=3))
    with pytest.raises(ValueError, match=r"frames of 16 px are too small .* which needs 24 px"):
        replace(PLAIN, adversarial=large).build(SMALL.build(), NOISE, steps=4, seed=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decay": 0.0}, r"decay 0.0 must lie in \(0, 1\)"),
        ({"decay": 1.0}, r"decay 1.0 must lie in \(0, 1\)"),
        ({"free_share": 1.5}, r"free_share 1.5 must lie in \[0, 0.5\]"),
        ({"restart_below": -0.1}, r"restart_below -0.1 must lie in \[0, 1\]"),
        ({"restart_until": 2.0}, r"restart_until 2.0 must lie in \[0, 1\]"),
        ({"commitment": -1.0}, r"commitment -1.0 must not be negative"),
    ],
)
def test_rejects(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantisationConfig(**fields)


@pytest.mark.parametrize("fields", [{"weight": -1.0}, {"start_share": 1.1}, {"lr": 0.0}])
def test_rejects_an_adversary(fields: dict[str, float]) -> None:
    (value,) = fields.values()
    with pytest.raises(ValueError, match=rf"{value} (must not be negative|lie in|above 0)"):
        AdversarialConfig(**fields)
