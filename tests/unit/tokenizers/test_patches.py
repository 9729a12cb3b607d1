from dataclasses import replace
from typing import Any

import pytest
import torch

from toto.tokenizers.patches import (
    PatchNormalisation,
    cut,
    patch_side_px,
    patchify,
    targets,
    unpatchify,
)

MAE = PatchNormalisation()
PLAIN = PatchNormalisation(mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


def test_a_patch_is_the_pixels_of_its_place_in_reading_order() -> None:
    frames = noise(2, 8, 12, 3)
    patches = cut(frames, 4)
    assert patches.shape == (2, 2, 3, 48)
    expected = [
        frames[1, 4 + y, 8 + x, channel] for y in range(4) for x in range(4) for channel in range(3)
    ]
    assert patches[1, 1, 2].tolist() == [int(value) for value in expected]


def test_a_batch_is_cut_as_each_clip_alone() -> None:
    frames = noise(3, 2, 8, 12, 3)
    alone = torch.stack([cut(clip, 4) for clip in frames])
    assert torch.equal(cut(frames, 4), alone)


@pytest.mark.parametrize("patch_px", [1, 2, 4, 8])
@pytest.mark.parametrize("normalisation", [MAE, PLAIN])
def test_drawing_undoes_cutting(patch_px: int, normalisation: PatchNormalisation) -> None:
    frames = noise(2, 8, 16, 3)
    assert torch.equal(unpatchify(patchify(frames, patch_px, normalisation), normalisation), frames)
    batch = frames[None].expand(2, -1, -1, -1, -1)
    assert torch.equal(unpatchify(patchify(batch, patch_px, normalisation), normalisation), batch)


def test_what_leaves_the_bytes_is_clamped_when_drawn() -> None:
    values = torch.tensor([-0.5, 0.0, 1.7]).expand(1, 1, 1, 3)
    assert unpatchify(values, PLAIN).flatten().tolist() == [0, 0, 255]


def test_channels_are_scaled_by_their_own_statistics() -> None:
    frames = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert patchify(frames, 1, MAE).flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_a_target_patch_has_mean_0_and_variance_1() -> None:
    found = targets(patchify(noise(2, 8, 8, 3), 4, MAE), MAE)
    assert found.mean(-1).abs().max().item() < 1e-5
    torch.testing.assert_close(found.var(-1), torch.ones(2, 2, 2), rtol=1e-4, atol=0)


def test_a_target_does_not_know_how_bright_its_patch_was() -> None:
    patches = patchify(noise(1, 8, 8, 3), 4, MAE)
    torch.testing.assert_close(
        targets(3 * patches + 0.7, MAE), targets(patches, MAE), rtol=1e-4, atol=1e-4
    )


def test_a_patch_of_one_colour_is_0_and_finite() -> None:
    grey = replace(MAE, deviation=(0.2, 0.2, 0.2), mean=(0.4, 0.4, 0.4))
    found = targets(patchify(torch.full((1, 4, 4, 3), 90, dtype=torch.uint8), 4, grey), grey)
    assert found.abs().max().item() < 1e-3


def test_targets_can_be_scaled_as_the_input() -> None:
    patches = patchify(noise(1, 8, 8, 3), 4, MAE)
    assert torch.equal(targets(patches, replace(MAE, target="input")), patches)


@pytest.mark.parametrize(("values", "side_px"), [(3, 1), (192, 8), (768, 16)])
def test_the_side_follows_from_the_values(values: int, side_px: int) -> None:
    assert patch_side_px(values) == side_px


@pytest.mark.parametrize(
    ("values", "nearest"), [(0, "3, 1 px"), (64, "48, 4 px"), (191, "147, 7 px"), (4, "3, 1 px")]
)
def test_rejects_values_that_are_no_square(values: int, nearest: str) -> None:
    with pytest.raises(
        ValueError, match=f"a patch of {values} values is no square.* nearest is {nearest} a side"
    ):
        patch_side_px(values)


def test_rejects_frames_that_patches_do_not_cover() -> None:
    with pytest.raises(ValueError, match="frames of 12x8 px do not divide into patches of 8 px"):
        patchify(noise(1, 8, 12, 3), 8, MAE)
    with pytest.raises(ValueError, match="frames of 12x8 px do not divide into patches of 8 px"):
        patchify(noise(2, 1, 8, 12, 3), 8, MAE)
    with pytest.raises(ValueError, match=r"frames are u8 \[T H W 3\], got torch.int64 \(1, 8, 8\)"):
        patchify(torch.zeros(1, 8, 8, dtype=torch.int64), 8, MAE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"deviation": (0.2, 0.0, 0.2)}, r"deviation \(0.2, 0.0, 0.2\) must be above 0 in every"),
        ({"eps": 0.0}, "eps 0.0 must be above 0"),
    ],
)
def test_rejects(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MAE, **fields)
