import pytest
import torch

from toto.tokenizers import DVAE, DVAEConfig
from toto.train.learner import FrameBatch
from toto.train.objectives import bound_terms, relaxed_bound
from toto.train.relaxation import RelaxationConfig

FRAMES = torch.randint(256, (6, 16, 16, 3), generator=torch.Generator().manual_seed(3)).byte()


@pytest.fixture
def dvae() -> DVAE:
    return DVAEConfig(vocab_size=16, width=8, decoder_stem=8, blocks_per_group=1).build()


def at(step: int, frames: torch.Tensor = FRAMES) -> FrameBatch:
    return FrameBatch(frames=frames, step=step)


def test_the_schedules_are_shares_of_the_run(dvae: DVAE) -> None:
    config = RelaxationConfig(temperature_share=0.5, kl_share=0.2, balance_weight=0.3)
    learner = config.build(dvae, FRAMES, steps=100, seed=3)
    temperature = {step: learner.relaxed(at(step)).temperature for step in (0, 25, 50, 99)}
    assert temperature == pytest.approx({0: 1.0, 25: (1 + 1 / 16) / 2, 50: 1 / 16, 99: 1 / 16})
    weight = {step: learner.relaxed(at(step)).kl_weight for step in (0, 10, 20, 99)}
    assert weight == pytest.approx({0: 0.0, 10: 3.3, 20: 6.6, 99: 6.6})
    assert {learner.relaxed(at(step)).balance_weight for step in (0, 99)} == {0.3}
    assert learner.start == 0


def test_the_defaults_are_the_published_schedules(dvae: DVAE) -> None:
    """In 1,200,000 updates: 150,000 to the last temperature, about 5,000 to the whole weight."""
    learner = RelaxationConfig().build(dvae, FRAMES, steps=1_200_000, seed=0)
    assert learner.relaxed(at(149_000)).temperature > 1 / 16
    assert learner.relaxed(at(150_000)).temperature == pytest.approx(1 / 16)
    assert learner.relaxed(at(5_000)).kl_weight == pytest.approx(6.6, rel=0.05)
    assert learner.relaxed(at(2_400)).kl_weight == pytest.approx(3.3)


def test_the_objective_is_the_bound_of_the_step(dvae: DVAE) -> None:
    learner = RelaxationConfig(kl_share=0.5).build(dvae, FRAMES, steps=10, seed=3)
    loss = learner.objective(dvae, at(4))
    assert torch.equal(loss, relaxed_bound(dvae, learner.relaxed(at(4))))
    assert not torch.equal(loss, learner.objective(dvae, at(5)))
    seeds = {learner.relaxed(at(step)).seed for step in range(10)}
    assert len(seeds) == 10


def test_measures_are_the_terms_of_the_bound(dvae: DVAE) -> None:
    learner = RelaxationConfig(kl_share=0.5).build(dvae, FRAMES, steps=10, seed=3)
    found = learner.measures(dvae, FRAMES, 5)
    relaxed = learner.relaxed(at(5))
    terms = bound_terms(dvae, relaxed)
    assert found == {
        "nll": terms.nll.item(),
        "kl": terms.divergence.item(),
        "temperature": relaxed.temperature,
        "kl_weight": 6.6,
    }


def test_codes_start_on_patches_only_when_asked(dvae: DVAE) -> None:
    before = {name: tensor.clone() for name, tensor in dvae.state_dict().items()}

    def moved() -> list[str]:
        return [
            name for name, now in dvae.state_dict().items() if not torch.equal(now, before[name])
        ]

    RelaxationConfig().build(dvae, FRAMES, steps=10, seed=0)
    assert moved() == []
    RelaxationConfig(sharpness=20.0).build(dvae, FRAMES, steps=10, seed=0)
    assert moved() != []


def test_it_carries_nothing(dvae: DVAE) -> None:
    learner = RelaxationConfig().build(dvae, FRAMES, steps=10, seed=0)
    assert learner.tensors() == {}
    learner.restore({})
    with pytest.raises(ValueError, match="the relaxation carries no state, got counts, sums"):
        learner.restore({"sums": torch.zeros(1), "counts": torch.zeros(1)})
