"""Mixup, cutmix and soft targets: shares of pixels are the shares of labels."""

import numpy as np
import pytest
import torch

from toto.train.mixing import (
    Mix,
    MixingConfig,
    draw_mix,
    mix_frames,
    mix_targets,
    soft_targets,
)


def drawn(config: MixingConfig, seed: int) -> Mix:
    return draw_mix(config, 24, 40, np.random.default_rng(seed))


def black_and_white(pairs: int = 2) -> torch.Tensor:
    """Clips that are black and white in turn, [B 3 24 40 3]."""
    frames = torch.zeros(2 * pairs, 3, 24, 40, 3, dtype=torch.uint8)
    frames[1::2] = 255
    return frames


@pytest.mark.parametrize("seed", range(25))
def test_the_share_of_cutmix_is_the_area_exactly(seed: int) -> None:
    mix = drawn(MixingConfig(cutmix=1.0), seed)
    mixed = mix_frames(black_and_white(), mix)
    for clip in mixed[::2]:
        # Of the black clip, what is still black.
        assert (clip == 0).float().mean().item() == pytest.approx(mix.share, abs=1e-7)
        assert (clip[0] == clip[1]).all()
    targets = mix_targets(soft_targets(torch.tensor([0, 1, 0, 1]), 2, smoothing=0.0), mix)
    assert targets[0].tolist() == pytest.approx([mix.share, 1 - mix.share])
    assert targets[1].tolist() == pytest.approx([1 - mix.share, mix.share])


@pytest.mark.parametrize("seed", range(10))
def test_mixup_is_a_mean_by_shares(seed: int) -> None:
    mix = drawn(MixingConfig(mixup=0.8), seed)
    assert mix.box is None
    mixed = mix_frames(black_and_white(), mix)
    assert (mixed[0] == round(255 * (1 - mix.share))).all()
    assert (mixed[1] == round(255 * mix.share)).all()


@pytest.mark.parametrize("seed", range(10))
def test_targets_sum_to_one(seed: int) -> None:
    mix = drawn(MixingConfig(mixup=0.8, cutmix=1.0), seed)
    labels = torch.randint(7, (6,))
    targets = soft_targets(labels, 7, smoothing=0.1)
    assert targets.gather(1, labels[:, None]).flatten().tolist() == pytest.approx(
        [0.9 + 0.1 / 7] * 6
    )
    torch.testing.assert_close(mix_targets(targets, mix).sum(1), torch.ones(6))


def test_a_pair_is_mixed_and_no_other_clip() -> None:
    frames = torch.zeros(6, 1, 4, 4, 3, dtype=torch.uint8)
    frames[2:4] = torch.tensor([100, 200], dtype=torch.uint8).view(2, 1, 1, 1, 1)
    mixed = mix_frames(frames, Mix(share=0.75))
    assert mixed[:, 0, 0, 0, 0].tolist() == [0, 0, 125, 175, 0, 0]


def test_both_kinds_come_as_often() -> None:
    config = MixingConfig(mixup=0.8, cutmix=1.0)
    cut = [drawn(config, seed).box is not None for seed in range(400)]
    # 400 fair coins: five deviations.
    assert abs(sum(cut) - 200) < 50
    assert all(drawn(MixingConfig(cutmix=1.0), seed).box for seed in range(20))


def test_the_draws_decide_alone() -> None:
    config = MixingConfig(mixup=0.8, cutmix=1.0)
    assert [drawn(config, seed) for seed in range(9)] == [drawn(config, seed) for seed in range(9)]
    assert drawn(config, 0) != drawn(config, 1)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_refuses_a_negative_parameter(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} -1.0 must be 0 \(never\) or more"):
        MixingConfig(**{name: -1.0})
