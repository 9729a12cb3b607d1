from dataclasses import replace

import numpy as np
import pytest
import torch

from toto.config import from_dict, to_dict
from toto.probe.propagate import (
    Propagation,
    grid_to_mask,
    mask_to_grid,
    propagate,
)
from toto.probe.protocols import PROTOCOLS, Protocol

SMALL = Propagation(context_frames=3, radius=2, topk=3, temperature=0.05)


def texture(rows: int, columns: int, width: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, width, generator=torch.Generator().manual_seed(seed))


def onehot(ids: torch.Tensor, objects: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(ids, objects + 1).float()


def blocks(rows: int, columns: int) -> torch.Tensor:
    ids = torch.zeros(rows, columns, dtype=torch.long)
    ids[2:5, 3:7] = 1
    ids[4:8, 8:10] = 2
    return ids


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_still_clip_keeps_its_mask(name: str) -> None:
    ids = blocks(9, 14)
    features = texture(9, 14).expand(6, -1, -1, -1)
    soft = propagate(features, onehot(ids, 2), PROTOCOLS[name].propagation)
    assert torch.equal(soft.argmax(dim=-1), ids.expand(6, -1, -1))


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
@pytest.mark.parametrize("step", [(1, 0), (0, -1), (1, 1)])
def test_a_moving_texture_carries_its_mask_along(name: str, step: tuple[int, int]) -> None:
    config = replace(PROTOCOLS[name].propagation, context_frames=2)
    world = texture(40, 40)
    ids = torch.zeros(16, 16, dtype=torch.long)
    ids[6:10, 6:10] = 1
    frames = range(5)
    features = torch.stack(
        [world[10 - step[0] * t :, 10 - step[1] * t :][:16, :16] for t in frames]
    )
    got = propagate(features, onehot(ids, 1), config).argmax(dim=-1)
    for t in frames:
        moved = ids.roll((step[0] * t, step[1] * t), dims=(0, 1))
        # cells at the rim came from outside the first frame: nothing in it is like them
        assert torch.equal(got[t, 4:-4, 4:-4], moved[4:-4, 4:-4])


def test_permuted_objects_give_permuted_labels() -> None:
    features = torch.randn(4, 9, 14, 8, generator=torch.Generator().manual_seed(1))
    mask = onehot(blocks(9, 14), 2)
    order = torch.tensor([2, 0, 1])
    straight, permuted = (propagate(features, m, SMALL) for m in (mask, mask[..., order]))
    assert torch.equal(straight[..., order], permuted)


def test_labels_stay_shares_of_one() -> None:
    features = torch.randn(5, 9, 14, 8, generator=torch.Generator().manual_seed(2))
    soft = propagate(features, onehot(blocks(9, 14), 2), SMALL)
    assert soft.min() >= 0
    torch.testing.assert_close(soft.sum(dim=-1), torch.ones(5, 9, 14))


def test_an_object_farther_than_the_radius_is_not_seen() -> None:
    features = texture(1, 12).expand(2, -1, -1, -1).clone()
    features[1] = features[1].roll(5, dims=1)
    mask = onehot(torch.tensor([[0, 1] + [0] * 10]), 1)
    assert propagate(features, mask, replace(SMALL, radius=5))[1, 0, 6].argmax() == 1
    assert propagate(features, mask, replace(SMALL, radius=4))[1, 0, 6].argmax() == 0
    disk = replace(SMALL, radius=5, radius_shape="disk")
    assert propagate(features, mask, disk)[1, 0, 6].argmax() == 0
    free = replace(SMALL, radius=1, radius_applies_to_first=False)
    assert propagate(features, mask, free)[1, 0, 6].argmax() == 1


@pytest.mark.parametrize(
    ("change", "frame", "expected"),
    [
        ({}, 1, [0]),
        ({}, 3, [0, 1, 2]),
        ({}, 6, [0, 3, 4, 5]),
        ({"first_frame_always": False}, 2, [0, 1]),
        ({"first_frame_always": False}, 6, [3, 4, 5]),
        ({"repeat_first": True}, 1, [0, 0, 0, 0]),
        ({"repeat_first": True}, 2, [0, 0, 0, 1]),
        ({"repeat_first": True}, 6, [0, 3, 4, 5]),
    ],
)
def test_context(change: dict[str, bool], frame: int, expected: list[int]) -> None:
    assert replace(SMALL, **change).context(frame) == expected


def test_the_default_build_and_a_build_without_onednn_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = torch.randn(4, 9, 14, 8, generator=torch.Generator().manual_seed(3))
    mask = onehot(blocks(9, 14), 2)
    usual = propagate(features, mask, SMALL)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    torch.testing.assert_close(propagate(features, mask, SMALL), usual, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_protocol_survives_json(name: str) -> None:
    assert from_dict(Protocol, to_dict(PROTOCOLS[name])) == PROTOCOLS[name]


def test_mask_to_grid_takes_shares_or_the_middle_of_each_cell() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:4, :3] = 5
    mask[4:, 4:] = 255
    area = mask_to_grid(mask, [5], (2, 2), "area")
    assert area[..., 1].tolist() == [[0.75, 0], [0, 0]]
    assert area[..., 0].tolist() == [[0.25, 1], [1, 1]]
    nearest = mask_to_grid(mask, [5], (2, 2), "nearest")
    assert nearest[..., 1].tolist() == [[1, 0], [0, 0]]
    # the middle of a cell of four pixels lies between its second and third
    mask[:] = [0, 0, 5, 0, 0, 0, 0, 0]
    bilinear = mask_to_grid(mask, [5], (2, 2), "bilinear")
    assert bilinear[..., 1].tolist() == [[0.5, 0], [0.5, 0]]


def test_cells_of_pixel_size_give_the_mask_back() -> None:
    mask = blocks(9, 14).numpy().astype(np.uint8)
    mask[mask == 2] = 9
    for objects in ([1, 9], [9, 1]):
        soft = mask_to_grid(mask, objects, (9, 14))
        assert np.array_equal(grid_to_mask(soft[None], objects, (9, 14))[0], mask)


def test_a_stretched_map_wins_over_a_larger_flat_one() -> None:
    soft = torch.tensor([[0.9, 0.1], [0.8, 0.2]]).view(1, 2, 1, 2)
    assert grid_to_mask(soft, [4], (2, 1)).ravel().tolist() == [0, 0]
    assert grid_to_mask(soft, [4], (2, 1), normalise=True).ravel().tolist() == [0, 4]
    absent = torch.tensor([[0.9, 0.0], [0.8, 0.0]]).view(1, 2, 1, 2)
    assert grid_to_mask(absent, [4], (2, 1), normalise=True).ravel().tolist() == [0, 0]


@pytest.mark.parametrize("name", ["context_frames", "radius", "topk"])
def test_rejects_a_count_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        replace(SMALL, **{name: 0})


def test_rejects_a_temperature_of_zero() -> None:
    with pytest.raises(ValueError, match=r"temperature must be above 0, got 0\.0"):
        replace(SMALL, temperature=0.0)


def test_rejects_a_mask_of_another_grid() -> None:
    with pytest.raises(
        ValueError, match=r"mask \(3, 4, 2\) does not lie on features \(3, 3, 8\) of frame 0"
    ):
        propagate(torch.zeros(2, 3, 3, 8), torch.zeros(3, 4, 2), SMALL)


def test_rejects_features_that_are_not_finite() -> None:
    features = torch.zeros(2, 3, 3, 8)
    features[1, 2, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="a feature is not finite"):
        propagate(features, torch.zeros(3, 3, 2), SMALL)


@pytest.mark.parametrize("objects", [[], [1, 1], [0], [256]])
def test_rejects_ids_that_cannot_be_followed(objects: list[int]) -> None:
    with pytest.raises(ValueError, match=r"objects are distinct ids in 1\.\.255, got"):
        mask_to_grid(np.zeros((4, 4), np.uint8), objects, (2, 2))


def test_rejects_channels_that_do_not_match_the_objects() -> None:
    with pytest.raises(ValueError, match="2 objects and background need 3 channels, got 2"):
        grid_to_mask(torch.zeros(1, 2, 2, 2), [1, 2], (4, 4))
