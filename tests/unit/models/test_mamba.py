import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from toto.models import MambaConfig

SMALL = MambaConfig(vocab_size=37, width=40, depth=2, context=64)


def test_sizes_inside_a_block_are_the_published_ones() -> None:
    config = MambaConfig(vocab_size=8195, width=1024, depth=1)
    assert (config.channels, config.step_rank, config.state_size, config.kernel) == (
        2048,
        64,
        16,
        4,
    )
    assert replace(config, width=1040).step_rank == 65
    assert SMALL.step_rank == 3


def test_fresh_weights_are_the_published_ones() -> None:
    config = MambaConfig(vocab_size=2000, width=256, depth=3)
    model = config.build()
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for block in model.blocks:
        mixer = block.mixer
        assert torch.equal(mixer.A_log, torch.arange(1, 17).log().expand(512, 16))
        assert torch.equal(mixer.D, torch.ones(512))
        steps = F.softplus(mixer.step.bias)
        assert steps.min() >= 0.999e-3
        assert steps.max() <= 1.001e-1
        # Evenly spread in the logarithm: a third of them in each third of it.
        third = (steps.log() - math.log(1e-3)) / math.log(100)
        assert ((third < 1 / 3).float().mean() - 1 / 3).abs() < 0.1
        for weight, bound in (
            (mixer.input.weight, 256**-0.5),
            (mixer.convolution.weight, 4**-0.5),
            (mixer.select.weight, 512**-0.5),
            (mixer.step.weight, 16**-0.5),
            (mixer.output.weight, 512**-0.5 / math.sqrt(3)),
        ):
            assert weight.abs().max().item() == pytest.approx(bound, rel=0.02)
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_the_state_does_not_grow() -> None:
    model = SMALL.build().eval().requires_grad_(False)
    cache = model.new_cache(1)
    sizes = []
    for _ in range(5):
        model(torch.randint(37, (1, 3)), cache)
        sizes.append((cache.states.shape, cache.inputs.shape))
    assert set(sizes) == {((2, 1, 80, 16), (2, 1, 80, 3))}
    assert cache.length == 15


def test_the_past_reaches_further_than_the_convolution() -> None:
    model = replace(SMALL, init_std=0.5).build().eval().requires_grad_(False)
    ids = torch.randint(37, (1, 64))
    other = ids.clone()
    other[0, 0] = (ids[0, 0] + 1) % 37
    assert (model(ids) - model(other))[0, -1].abs().max() > 0
