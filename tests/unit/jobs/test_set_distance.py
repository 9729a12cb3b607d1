from dataclasses import replace
from pathlib import Path

import pytest
import torch

from made_encoders import saved
from made_run_folders import CODES, save_run, strange
from toto.jobs.set_distance import Extractor, SetDistanceConfig, set_distances, stacked
from toto.models import LlamaConfig
from toto.probe.backbone import Backbone, open_backbone

CONFIG = SetDistanceConfig(components=2, layer=1, stretch_frames=2)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("runs") / "run"
    sizes = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 64, "context": 66}
    save_run(out, strange(LlamaConfig(vocab_size=CODES + 3, **sizes)))
    return open_backbone(out)


def noise(frames: int) -> torch.Tensor:
    return torch.randint(256, (frames, 32, 32, 3), dtype=torch.uint8)


def test_a_sample_is_the_mean_of_a_layer_over_a_whole_stretch(backbone: Backbone) -> None:
    extractor = Extractor(CONFIG, backbone, "r1")
    clip = noise(5)
    found = extractor(clip)
    assert found.shape == (2, 32)
    expected = backbone.features(clip[2:4], [1])[1].mean((0, 1, 2))
    torch.testing.assert_close(found[1], expected)


def test_the_name_says_what_made_the_features(backbone: Backbone) -> None:
    name = Extractor(CONFIG, backbone, "r1").name
    assert name == f"r1 {backbone.digest()[:8]}, layer 1 of 2, mean over 2 frames"
    assert Extractor(replace(CONFIG, layer=2), backbone, "r1").name != name
    middle = Extractor(replace(CONFIG, layer=None), backbone, "r1")
    assert "layer 1 of 2" in middle.name


def test_an_encoder_of_transformers_serves_as_well(backbone: Backbone, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    folder = saved(tmp_path / "videomae", "videomae")
    extractor = Extractor(replace(CONFIG, encoder=folder, stretch_frames=4), backbone, "r1")
    assert extractor.name.startswith("videomae ")
    assert extractor.name.endswith("layer 1 of 3, mean over 4 frames")
    assert extractor(noise(9)).shape == (2, 32)
    other = Extractor(replace(CONFIG, encoder=folder, stretch_frames=2), backbone, "r1")
    with pytest.raises(ValueError, match="videomae reads clips of 4 frames, got 2 frames"):
        other(noise(2))


def test_each_stretch_and_method_is_measured_against_the_real_clips() -> None:
    real = torch.randn(6, 2, 4)
    features = {
        "tokenizer limit": real.clone(),
        "copy last frame": real.flip(0),
        "real": real,
        "forecast": real + 1.0,
    }
    found = set_distances(features, extractor="made", config=CONFIG)
    assert [(d["method"], d["first_frame"], d["last_frame"]) for d in found] == [
        ("forecast", 1, 2),
        ("forecast", 3, 4),
        ("copy last frame", 1, 2),
        ("copy last frame", 3, 4),
        ("tokenizer limit", 1, 2),
        ("tokenizer limit", 3, 4),
    ]
    assert {d["name"] for d in found} == {"frechet(made; 2 of 4 components)"}
    assert {(d["real_samples"], d["other_samples"]) for d in found} == {(6, 6)}
    values = [d["value"] for d in found]
    assert min(values[:2]) > 0.1
    assert values[2:] == pytest.approx([0, 0, 0, 0], abs=1e-9)


def test_features_of_clips_are_joined_by_method() -> None:
    joined = stacked([{"real": torch.zeros(1, 3)}, {"real": torch.ones(1, 3)}])
    assert joined["real"].shape == (2, 1, 3)


@pytest.mark.parametrize(
    ("clips", "frames", "message"),
    [
        (2, 8, "components needs more than 2 real clips, got 2; give more --real-clips"),
        (3, 1, "1 forecast frames hold no stretch of 2; give more --frames"),
    ],
)
def test_what_cannot_be_measured_is_refused_early(clips: int, frames: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CONFIG.require(clips=clips, frames=frames)
    replace(CONFIG, components=0).require(clips=clips, frames=frames)
    with pytest.raises(ValueError, match="components -1 must be at least 0, stretch_frames 2"):
        replace(CONFIG, components=-1)
