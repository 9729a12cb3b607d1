"""Encoders of other projects, so that the same protocols can measure them.

They come from a local folder that transformers saved: `config.json`, `preprocessor_config.json` and
safetensors. Their class and register tokens have no place in the picture and are left out; probes
read the patches.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from toto.config import to_dict
from toto.data.token_set import TokenSet
from toto.probe.preprocessing import Preprocessing
from toto.runtime.devices import Precision, compute
from toto.tokenizers.base import digest_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What transformers' models of one kind need to be read alike."""

    norm: str
    """Name of the norm behind the last block."""
    video: bool = False
    """Whether it reads clips; others read each frame by itself."""
    any_size: bool = True
    """Whether its positions fit pictures of other sizes than those of its training."""
    asked: dict[str, Any] = field(default_factory=dict)
    """What its `forward` is told besides."""
    unpooled: bool = False
    """Whether it can be made without the pooling head, which nothing here reads."""


_INTERPOLATED = {"interpolate_pos_encoding": True}
FAMILIES: dict[str, Family] = {
    "vit": Family(norm="layernorm", asked=_INTERPOLATED, unpooled=True),
    "vit_mae": Family(norm="layernorm", asked=_INTERPOLATED),
    "ijepa": Family(norm="layernorm", asked=_INTERPOLATED, unpooled=True),
    "dinov2": Family(norm="layernorm"),
    "dinov2_with_registers": Family(norm="layernorm"),
    "dinov3_vit": Family(norm="norm"),
    "clip_vision_model": Family(norm="post_layernorm", asked=_INTERPOLATED),
    "siglip_vision_model": Family(norm="post_layernorm", asked=_INTERPOLATED),
    "videomae": Family(norm="layernorm", video=True, any_size=False),
    "vjepa2": Family(
        norm="encoder.layernorm", video=True, any_size=False, asked={"skip_predictor": True}
    ),
}
"""By the `model_type` of `config.json`. Each is compared with transformers' own forward pass."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TransformersEncoder:
    """Frames in, features of any layer out, as `toto.probe.encoder.Encoder`.

    Layer 0 is what the first block reads, the last what the last block gives: the stream between
    blocks, before the last norm, as of our own models. `normalised` puts every layer through that
    norm, which is what DINO's protocols read.

    Attributes:
        name: folder of the weights.
        model: in evaluation mode.
        family: how it is read.
        preprocessing: how it wants its pictures.
        precision: of the forward pass.
        normalised: whether features have been through the last norm.
    """

    name: str
    model: nn.Module
    family: Family
    preprocessing: Preprocessing
    precision: Precision = "fp32"
    normalised: bool = False

    @property
    def reads_patches(self) -> bool:
        """Frames are what it reads."""
        return True

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(_blocks(self.model))

    @property
    def width(self) -> int:
        """D, channels of a feature."""
        return self._config.hidden_size

    @property
    def tubelet(self) -> int:
        """Frames that share a feature: 1 for encoders of pictures."""
        return self._config.tubelet_size if self.family.video else 1

    @property
    def patch_px(self) -> int:
        """Side of the square of pixels that a feature stands for."""
        return int(self._config.patch_size)

    def digest(self) -> str:
        """sha256 of configuration, preprocessing and all weights; not of the precision."""
        said = {
            "config": _comparable(self._config),
            "preprocessing": to_dict(self.preprocessing),
            "normalised": self.normalised,
        }
        return digest_of(json.dumps(said, sort_keys=True), self.model.state_dict())

    def window(
        self, shard: TokenSet, clip: int, start: int, frames: int
    ) -> UInt8[Tensor, "T H W 3"]:
        """Cut frames from a shard that keeps them.

        Raises:
            ValueError: if the clip has no such frames.
        """
        return shard.pixels(clip, start, frames)

    def token_features(
        self, clips: UInt8[Tensor, "B T H W 3"], layers: Collection[int]
    ) -> dict[int, Float[Tensor, "B L D"]]:
        """Read the features at every place of clips, resized as the encoder wants them.

        Raises:
            ValueError: if the clips have another number of frames than it can read, or a layer does
                not exist.
        """
        pixels = self.preprocessing(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return {layer: x.flatten(1, 3) for layer, x in self._read(pixels, layers).items()}

    def features(
        self, frames: UInt8[Tensor, "T H W 3"], layers: Collection[int]
    ) -> dict[int, Float[Tensor, "T Y X D"]]:
        """Read a clip as large as it is; frames of one tubelet have the same features.

        Raises:
            ValueError: if a side is not a multiple of the patch, or the encoder's positions do not
                fit that size.
        """
        patch_px = self.patch_px
        height, width = frames.shape[1:3]
        if height % patch_px or width % patch_px:
            raise ValueError(
                f"frames of {width}x{height} px do not divide into patches of {patch_px} px; "
                "resize them to a multiple"
            )
        found = self._read(self.preprocessing.normalised(frames)[None], layers)
        return {layer: x[0].repeat_interleave(self.tubelet, 0) for layer, x in found.items()}

    def untrained(self, seed: int) -> Self:
        """Make the same encoder with fresh weights."""
        place = next(self.model.parameters()).device
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fresh = _frozen(_made(self.family, self._config)).to(place)
        return replace(self, name=f"{self.name}, untrained {seed}", model=fresh)

    def to(self, place: torch.device) -> Self:
        """Move the weights to a device."""
        self.model.to(place)
        return self

    @property
    def _config(self) -> Any:
        return self.model.config

    @torch.no_grad()
    def _read(
        self, pixels: Float[Tensor, "B T 3 H W"], layers: Collection[int]
    ) -> dict[int, Float[Tensor, "B T1 Y X D"]]:
        batch, frames, _, height, width = pixels.shape
        grid = (frames // self.tubelet, height // self.patch_px, width // self.patch_px)
        self._require_size(frames, height, width)
        if not self.family.video:
            pixels = pixels.flatten(0, 1)
        place = next(self.model.parameters()).device
        asked = dict(self.family.asked)
        if self._config.model_type == "vit_mae":
            # It hides patches by the order of this noise, and none where the ratio is 0; rising
            # noise leaves them in their order.
            cells = torch.arange(grid[1] * grid[2], device=place, dtype=torch.float32)
            asked["noise"] = cells.expand(len(pixels), -1)
        with compute(self.precision, place), _streams(self.model, layers) as streams:
            self.model(**{str(self.model.main_input_name): pixels.to(place)}, **asked)
        return {layer: self._places(x, batch, grid) for layer, x in streams.items()}

    def _places(
        self, stream_BLD: Tensor, batch: int, grid: tuple[int, int, int]
    ) -> Float[Tensor, "B T Y X D"]:
        """Lay a stream on its grid, without the tokens before it that have no place there."""
        if self.normalised:
            stream_BLD = attrgetter(self.family.norm)(self.model)(stream_BLD)
        cells = grid[1] * grid[2] * (grid[0] if self.family.video else 1)
        # Class and register tokens come first in all families.
        return stream_BLD[:, -cells:].reshape(batch, *grid, -1)

    def _require_size(self, frames: int, height: int, width: int) -> None:
        config = self._config
        if not self.family.any_size:
            trained = getattr(config, "image_size", None) or config.crop_size
            if (height, width) != (trained, trained):
                raise ValueError(
                    f"{self.name} reads {trained}x{trained} px, its positions fit no others; got "
                    f"{width}x{height} px"
                )
        exact = config.num_frames if config.model_type == "videomae" else None
        if frames % self.tubelet or (exact is not None and frames != exact):
            needed = f"{exact} frames" if exact is not None else f"multiples of {self.tubelet}"
            raise ValueError(f"{self.name} reads clips of {needed}, got {frames} frames")


def open_encoder(
    folder: Path, *, trained: bool = True, normalised: bool = False, precision: Precision = "fp32"
) -> TransformersEncoder:
    """Open an encoder that transformers saved; nothing is fetched, and no pickle is read.

    Args:
        folder: with `config.json`, `preprocessor_config.json` and, if trained, safetensors.
        trained: whether its weights are read; fresh ones take their place otherwise.
        normalised: see `TransformersEncoder`.
        precision: of the forward pass.

    Raises:
        ValueError: if the folder is not such a model, its kind is not known here, it has pickled
            weights only, or weights are missing.
    """
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise ValueError(
            "encoders of other projects are read with transformers, which the extra `hub` "
            "installs: pip install 'toto-video[hub]'"
        ) from error
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; give a folder that transformers saved")
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"{folder} is a {kind!r} model; there are: {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    preprocessing = Preprocessing.read(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if kind == "vit_mae":
        config.mask_ratio = 0.0
    model = _loaded(folder, family, config) if trained else _made(family, config)
    if normalised and attrgetter(family.norm)(model) is None:
        raise ValueError(f"{folder} has no last norm; read its layers as they are")
    return TransformersEncoder(
        name=folder.resolve().name,
        model=_frozen(model),
        family=family,
        preprocessing=preprocessing,
        precision=precision,
        normalised=normalised,
    )


def _loaded(folder: Path, family: Family, config: Any) -> nn.Module:
    if not list(folder.glob("*.safetensors")):
        pickles = [f for kind in ("bin", "pt", "pth", "ckpt") for f in folder.glob(f"*.{kind}")]
        if pickles:
            raise ValueError(
                f"{pickles[0]} is a pickle, which can run code when read; save the model as "
                "safetensors where you trust it"
            )
        raise ValueError(f"{folder} has no safetensors; give the folder with the weights")
    from transformers import AutoModel
    from transformers.utils import logging

    # It would print a bar, and a table of the weights of heads that nothing here reads.
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model, told = AutoModel.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **_without_pooling(family),
        )
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
    unread = [name for name in told["missing_keys"] if not name.startswith(("pooler.", "head."))]
    wrong = sorted([*unread, *map(str, told["mismatched_keys"])])
    if wrong:
        raise ValueError(
            f"{folder} lacks {len(wrong)} weights of its model, such as {wrong[0]}; they would be "
            "random numbers"
        )
    return model


def _made(family: Family, config: Any) -> nn.Module:
    from transformers import AutoModel

    return AutoModel.from_config(config, **_without_pooling(family))


def _without_pooling(family: Family) -> dict[str, bool]:
    return {"add_pooling_layer": False} if family.unpooled else {}


def _frozen(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)


def _comparable(config: Any) -> dict[str, Any]:
    """A config without where it came from and which version wrote it."""
    said = json.loads(config.to_json_string(use_diff=False))
    return {k: v for k, v in said.items() if not k.startswith("_") and k != "transformers_version"}


def _blocks(model: Any) -> nn.ModuleList:
    """The blocks of the encoder: the first list of as many modules as the config has layers."""
    depth = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise AssertionError(f"{type(model).__name__} has no list of {depth} blocks")


@contextmanager
def _streams(model: nn.Module, layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Keep what flows between blocks while the model runs."""
    blocks, kept = _blocks(model), dict[int, Tensor]()
    strange = [layer for layer in layers if not 0 <= layer <= len(blocks)]
    if strange:
        raise ValueError(f"layer {strange[0]} is not in 0..{len(blocks)}")

    def before(_: nn.Module, given: tuple[Any, ...]) -> None:
        kept[0] = given[0]

    def behind(layer: int) -> Any:
        def keep(_: nn.Module, __: Any, given: Any) -> None:
            kept[layer] = given[0] if isinstance(given, tuple) else given

        return keep

    with ExitStack() as hooks:
        for layer in set(layers):
            hook = (
                blocks[layer - 1].register_forward_hook(behind(layer))
                if layer
                else blocks[0].register_forward_pre_hook(before)
            )
            hooks.callback(hook.remove)
        yield kept
