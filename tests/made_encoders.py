"""Tiny encoders of the families that transformers has, with random weights, saved to a folder."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

SIDE_PX, PATCH_PX, DEPTH, WIDTH = 32, 8, 3, 32
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4}
VIT = {**SIZES, "intermediate_size": 64, "image_size": SIDE_PX, "patch_size": PATCH_PX}
DINO = {**SIZES, "mlp_ratio": 2, "image_size": SIDE_PX, "patch_size": PATCH_PX}
FRAMES = 4
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "vit_mae": {
        **VIT,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
    },
    "ijepa": VIT,
    "dinov2": DINO,
    "dinov2_with_registers": DINO,
    "dinov3_vit": {**VIT, "num_register_tokens": 4},
    "clip_vision_model": VIT,
    "siglip_vision_model": VIT,
    "videomae": {**VIT, "num_frames": FRAMES, "tubelet_size": 2, "use_mean_pooling": False},
    "vjepa2": {
        **SIZES,
        "mlp_ratio": 2,
        "crop_size": SIDE_PX,
        "patch_size": PATCH_PX,
        "frames_per_clip": FRAMES,
        "tubelet_size": 2,
        "pred_hidden_size": 16,
        "pred_num_hidden_layers": 1,
        "pred_num_attention_heads": 2,
        "attn_implementation": "eager",
    },
}
PREPROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": 36},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIDE_PX, "width": SIDE_PX},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def saved(folder: Path, kind: str, **changes: Any) -> Path:
    """A model of the family with random weights, norms and biases too."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **CONFIGS[kind], **changes)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)  # all ones would hide a misplaced norm
                module.bias.normal_(std=0.1)
        for name, weight in model.named_parameters():
            if "position" in name or "token" in name:
                weight.normal_(std=0.1)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder
