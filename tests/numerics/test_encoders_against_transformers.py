"""Encoders of other projects equal transformers' own forward pass, on random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from made_encoders import DEPTH, FRAMES, PATCH_PX, PREPROCESSOR, SIDE_PX, WIDTH, saved
from toto.probe.encoder import Encoder
from toto.probe.preprocessing import Preprocessing
from toto.probe.transformers_encoder import FAMILIES, TransformersEncoder, open_encoder


@pytest.fixture(params=sorted(FAMILIES))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def clips(count: int = 2, side_px: int = SIDE_PX) -> Tensor:
    return torch.randint(256, (count, FRAMES, side_px, side_px, 3), dtype=torch.uint8)


def theirs(encoder: TransformersEncoder, shown: Tensor) -> tuple[list[Tensor], Tensor]:
    """What transformers itself gives for the same pixels: all layers, and the last one's norm."""
    pixels = encoder.preprocessing(shown.flatten(0, 1)).unflatten(0, shown.shape[:2])
    told: dict[str, Any] = {"output_hidden_states": True}
    if encoder.model.config.model_type == "vit_mae":
        told["noise"] = torch.arange(16.0).expand(shown.shape[0] * FRAMES, -1)
    if encoder.model.config.model_type == "vjepa2":
        told["skip_predictor"] = True
    if not encoder.family.video:
        pixels = pixels.flatten(0, 1)
    with torch.no_grad():
        given = encoder.model(pixels, **told)
    streams = [*given.hidden_states, given.last_hidden_state]
    cells = (SIDE_PX // PATCH_PX) ** 2 * (FRAMES // 2 if encoder.family.video else 1)
    flat = [s[:, s.shape[1] - cells :].reshape(shown.shape[0], -1, s.shape[-1]) for s in streams]
    return flat[:-1], flat[-1]


def test_every_layer_is_that_of_transformers(kind: str, tmp_path: Path) -> None:
    encoder = open_encoder(saved(tmp_path, kind))
    assert isinstance(encoder, Encoder)
    assert (encoder.depth, encoder.width) == (DEPTH, WIDTH)
    shown = clips()
    streams, last = theirs(encoder, shown)
    found = encoder.token_features(shown, range(DEPTH + 1))
    assert len(streams) == DEPTH + 1
    for layer, stream in enumerate(streams):
        torch.testing.assert_close(found[layer], stream, rtol=1e-5, atol=1e-5)
    if kind == "clip_vision_model":  # it normalises nothing but what it pools
        last = encoder.model.get_submodule("post_layernorm")(last)
    normed = open_encoder(tmp_path, normalised=True).token_features(shown, [DEPTH])[DEPTH]
    torch.testing.assert_close(normed, last, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(normed, found[DEPTH], atol=1e-2)


def test_a_patch_has_its_place_on_the_grid(kind: str, tmp_path: Path) -> None:
    encoder = open_encoder(saved(tmp_path, kind))
    frames = clips(1)[0]
    other = frames.clone()
    frame, row, column = 3, 1, 2
    corner = slice(row * PATCH_PX, (row + 1) * PATCH_PX), slice(column * PATCH_PX, 24)
    other[frame, *corner] = 255 - other[frame, *corner]
    before, after = (encoder.features(one, [0])[0] for one in (frames, other))
    assert before.shape == (FRAMES, 4, 4, WIDTH)
    changed = (before != after).any(-1).nonzero().tolist()
    # Two frames of one tubelet share their features.
    both = [2, 3] if encoder.family.video else [3]
    assert changed == [[time, row, column] for time in both]


def test_fresh_weights_follow_from_the_seed(kind: str, tmp_path: Path) -> None:
    encoder, shown = open_encoder(saved(tmp_path, kind)), clips(1)
    ones = [encoder.untrained(seed) for seed in (0, 0, 1)]
    assert ones[0].digest() == ones[1].digest()
    assert len({one.digest() for one in (encoder, ones[0], ones[2])}) == 3
    features = [one.token_features(shown, [DEPTH])[DEPTH] for one in (encoder, *ones)]
    assert torch.equal(features[1], features[2])
    assert not torch.allclose(features[1], features[3], atol=1e-3)
    assert features[1].std() > 1e-3


def test_the_digest_is_of_the_weights(tmp_path: Path) -> None:
    encoder = open_encoder(saved(tmp_path / "one", "vit"))
    assert encoder.digest() == open_encoder(saved(tmp_path / "two", "vit")).digest()
    with torch.no_grad():
        next(encoder.model.parameters()).flatten()[0] += 1
    assert encoder.digest() != open_encoder(tmp_path / "one").digest()


def test_pictures_of_another_size_take_interpolated_positions(tmp_path: Path) -> None:
    encoder = open_encoder(saved(tmp_path, "vit"))
    frames = clips(1, side_px=48)[0]
    found = encoder.features(frames[:, :, :40], [DEPTH])[DEPTH]
    assert found.shape == (FRAMES, 6, 5, WIDTH)
    with torch.no_grad():
        given = encoder.model(
            encoder.preprocessing.normalised(frames[:, :, :40]),
            interpolate_pos_encoding=True,
            output_hidden_states=True,
        )
    expected = given.hidden_states[-1][:, 1:].reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "shortest, crop": ("BitImageProcessorPil", PREPROCESSOR),
    "square, bilinear": (
        "ViTImageProcessorPil",
        {
            **PREPROCESSOR,
            "do_center_crop": False,
            "size": {"height": 24, "width": 20},
            "resample": 2,
        },
    ),
    "odd crop": (
        "BitImageProcessorPil",
        {**PREPROCESSOR, "crop_size": {"height": 31, "width": 30}},
    ),
    "enlarged": (
        "ViTImageProcessorPil",
        {**PREPROCESSOR, "do_center_crop": False, "size": {"height": 40, "width": 41}},
    ),
    "video": ("VideoMAEImageProcessorPil", {**PREPROCESSOR, "resample": 2}),
}


@pytest.mark.parametrize("size_px", [(71, 50), (50, 71), (64, 64), (36, 36)])
@pytest.mark.parametrize("name", sorted(PROCESSORS))
def test_preprocessing_is_that_of_transformers(
    name: str, size_px: tuple[int, int], tmp_path: Path
) -> None:
    import transformers

    cls, said = PROCESSORS[name]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    frame = torch.randint(256, (*size_px, 3), dtype=torch.uint8)
    ours = Preprocessing.read(tmp_path)(frame[None])
    processor: Callable[..., Any] = getattr(transformers, cls).from_pretrained(tmp_path)
    picture = Image.fromarray(frame.numpy())
    shown = [[picture]] if name == "video" else picture
    expected = np.asarray(processor(shown, return_tensors="np")["pixel_values"])
    torch.testing.assert_close(
        ours[0], torch.from_numpy(expected.reshape(ours[0].shape)), rtol=1e-5, atol=1e-5
    )
