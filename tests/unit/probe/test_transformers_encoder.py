"""What is refused of another project's encoder, and what its files may look like."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from made_encoders import CONFIGS, DEPTH, FRAMES, PREPROCESSOR, SIDE_PX, saved
from toto.probe.preprocessing import Preprocessing
from toto.probe.transformers_encoder import TransformersEncoder, open_encoder

WEIGHTS = "model.safetensors"


def shown(frames: int = FRAMES, side_px: int = SIDE_PX) -> torch.Tensor:
    return torch.randint(256, (1, frames, side_px, side_px, 3), dtype=torch.uint8)


def opened(folder: Path, kind: str) -> TransformersEncoder:
    return open_encoder(saved(folder, kind))


def said(folder: Path, **changes: Any) -> Path:
    changed = {**PREPROCESSOR, **changes}
    given = {name: value for name, value in changed.items() if value is not None}
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    return folder


def test_refuses_pickled_weights_unread(tmp_path: Path) -> None:
    (saved(tmp_path, "vit") / WEIGHTS).rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin is a pickle, which can run code"):
        open_encoder(tmp_path)


def test_refuses_a_folder_without_weights(tmp_path: Path) -> None:
    (saved(tmp_path, "vit") / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="has no safetensors; give the folder with the weights"):
        open_encoder(tmp_path)
    assert open_encoder(tmp_path, trained=False).depth == DEPTH


def test_refuses_weights_that_lack_some(tmp_path: Path) -> None:
    weights = load_file(saved(tmp_path, "dinov2") / WEIGHTS)
    name = next(name for name in weights if "layer.1" in name)
    del weights[name]
    save_file(weights, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lacks 1 weights of its model, such as encoder\.layer\.1"
    ):
        open_encoder(tmp_path)


def test_reads_what_was_saved_with_a_head(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(5)
    whole = ViTForImageClassification(ViTConfig(**CONFIGS["vit"])).eval()
    whole.save_pretrained(tmp_path)
    clip = shown()
    encoder = open_encoder(said(tmp_path))
    found = encoder.token_features(clip, [DEPTH])[DEPTH]
    with torch.no_grad():
        given = whole.vit(encoder.preprocessing(clip[0]), output_hidden_states=True)
    expected = given.hidden_states[-1][:, 1:].reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_refuses_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config.json; give a folder that transformers"):
        open_encoder(tmp_path)


def test_refuses_a_kind_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is a 'bert' model; there are: vit, vit_mae"):
        open_encoder(tmp_path)


def test_says_which_extra_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'toto-video\[hub\]'"):
        open_encoder(tmp_path)


def test_refuses_a_norm_that_is_not_there(tmp_path: Path) -> None:
    (saved(tmp_path, "videomae") / "config.json").write_text(
        json.dumps({"model_type": "videomae", **CONFIGS["videomae"], "use_mean_pooling": True})
    )
    open_encoder(tmp_path, trained=False)
    with pytest.raises(ValueError, match="has no last norm; read its layers as they are"):
        open_encoder(tmp_path, trained=False, normalised=True)


def test_refuses_clips_of_another_length(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="videomae reads clips of 4 frames, got 8 frames"):
        opened(tmp_path / "videomae", "videomae").token_features(shown(8), [0])
    with pytest.raises(ValueError, match="vjepa2 reads clips of multiples of 2, got 3 frames"):
        opened(tmp_path / "vjepa2", "vjepa2").token_features(shown(3), [0])


def test_refuses_sizes_without_positions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vjepa2 reads 32x32 px, .* got 40x40 px"):
        opened(tmp_path / "vjepa2", "vjepa2").features(shown(side_px=40)[0], [0])
    with pytest.raises(ValueError, match="36x36 px do not divide into patches of 8 px"):
        opened(tmp_path / "vit", "vit").features(shown(side_px=36)[0], [0])


@pytest.mark.parametrize("layer", [-1, DEPTH + 1])
def test_refuses_a_layer_that_is_not_there(layer: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"layer {layer} is not in 0..3"):
        opened(tmp_path, "vit").token_features(shown(), [layer])


def test_leaves_no_hook_behind(tmp_path: Path) -> None:
    encoder = opened(tmp_path, "vit")
    encoder.token_features(shown(), range(DEPTH + 1))
    for module in encoder.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_refuses_an_encoder_without_its_preprocessing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no preprocessor_config.json, which says how"):
        Preprocessing.read(tmp_path)


@pytest.mark.parametrize("name", ["image_mean", "image_std", "size", "resample", "crop_size"])
def test_guesses_no_value(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"preprocessor_config.json has no {name}; add the one"):
        Preprocessing.read(said(tmp_path, **{name: None}))


def test_refuses_steps_it_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="asks for do_reduce_labels, which is not done here"):
        Preprocessing.read(said(tmp_path, do_reduce_labels=True))


def test_refuses_a_size_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"size \{'longest_edge': 9\} is neither height and width"):
        Preprocessing.read(said(tmp_path, size={"longest_edge": 9}))


def test_a_lone_number_is_a_square_or_what_a_crop_is_cut_from(tmp_path: Path) -> None:
    square = Preprocessing.read(said(tmp_path, size=24, do_center_crop=False))
    assert (square.size_px, square.shortest_px, square.crop_px) == ((24, 24), None, None)
    cut = Preprocessing.read(said(tmp_path, size=24, crop_size=20))
    assert (cut.size_px, cut.shortest_px, cut.crop_px) == (None, 24, (20, 20))


def test_refuses_frames_smaller_than_the_crop(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="36x36 px are smaller than the crop of 40x40 px"):
        Preprocessing.read(said(tmp_path, crop_size=40))(shown()[0])


def test_a_fine_chequerboard_becomes_grey(tmp_path: Path) -> None:
    board = (torch.arange(128)[:, None] + torch.arange(128)) % 2 * 255
    frames = board.byte()[None, ..., None].expand(-1, -1, -1, 3).contiguous()
    small = Preprocessing.read(said(tmp_path, do_normalize=False))(frames)
    assert (small - 0.5).abs().max() < 0.02  # by every second pixel it would be all black
