"""What a model reads of shards, in which format, and what is minimised over it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from toto.data.layout import Layout, LayoutConfig
from toto.data.records import Description
from toto.data.remote import is_address, join, names_below
from toto.data.token_set import INDEX, TokenSet
from toto.models import DecoderConfig
from toto.tokenizers.patches import PatchNormalisation, patch_side_px
from toto.train.objectives import next_token, token_losses
from toto.train.patches import PatchObjective
from toto.types import SPECIALS, Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What a pre-training run minimises.

    Attributes:
        loss: mean over a batch.
        losses: of every place that follows another, [B L]; the end token may stand behind them.
        unit: of both.
        reads: what a batch must carry.
    """

    loss: Callable[[nn.Module, Batch], Tensor]
    losses: Callable[[nn.Module, Batch], Tensor]
    unit: Literal["nats a token", "squared error a value"]
    reads: Literal["codes", "frames", "both"]


def objective_of(model: DecoderConfig, normalisation: PatchNormalisation) -> Objective:
    """Choose the objective by what the model reads and predicts.

    Raises:
        ValueError: if it reads patches that are not square.
    """
    if not model.patch_values:
        return Objective(loss=next_token, losses=token_losses, unit="nats a token", reads="codes")
    patches = PatchObjective(
        patch_px=patch_side_px(model.patch_values), normalisation=normalisation
    )
    if model.predicts == "tokens":
        return Objective(
            loss=patches.next_token,
            losses=patches.token_losses,
            unit="nats a token",
            reads="both",
        )
    return Objective(
        loss=patches.next_patch,
        losses=patches.patch_losses,
        unit="squared error a value",
        reads="frames",
    )


def open_tokens(shards: str | Path, name: str, *, frames: bool) -> TokenSet:
    """Open one source below what `toto tokenize` wrote.

    Args:
        shards: its folder, or the address that the folder was copied to.
        name: of the token set below it, such as `kinetics/train`; `#sha256=` and the hash of the
            set's index behind it pin its content.
        frames: whether the frames are read too.

    Raises:
        ValueError: if it is not there, is damaged, or keeps no frames where they are asked for.
    """
    if not is_address(str(shards)) and not (Path(shards) / name.partition("#")[0]).is_dir():
        there = ", ".join(names_below(shards, INDEX)) or "none"
        raise ValueError(
            f"{shards} has no token set {name!r} (it has: {there}); `toto tokenize` makes them"
        )
    return TokenSet(join(shards, name), frames=frames)


def grid_of(model: DecoderConfig, description: Description) -> tuple[int, int]:
    """Rows and columns of places in a frame, as the model reads it.

    Raises:
        ValueError: if the model's patches do not cover the frames, or are not those that the
            codes it predicts stand for.
    """
    if not model.patch_values:
        return description.grid
    side_px, code_px = patch_side_px(model.patch_values), description.patch_px
    if model.predicts == "tokens" and side_px != code_px:
        raise ValueError(
            f"the model reads patches of {side_px} px, these shards' codes stand for {code_px} px; "
            f"--model.patch-values {3 * code_px**2}"
        )
    height_px, width_px = description.frame_px
    if height_px % side_px or width_px % side_px:
        raise ValueError(
            f"patches of {side_px} px do not cover frames of {width_px}x{height_px} px; "
            f"--model.patch-values {3 * code_px**2} makes them {code_px} px"
        )
    return height_px // side_px, width_px // side_px


def fit_layout(config: LayoutConfig, model: DecoderConfig, description: Description) -> Layout:
    """Fit the sequence format to model and shards.

    Raises:
        ValueError: if the model reads another vocabulary, other patches or a shorter context.
    """
    rows, columns = grid_of(model, description)
    codes = 1 if model.predicts == "patches" else description.vocab_size
    layout = Layout(config, codes=codes, frame_tokens=rows * columns)
    if model.vocab_size != layout.vocab_size:
        raise ValueError(
            f"the model reads {model.vocab_size} ids, these shards need {layout.vocab_size} "
            f"({layout.codes} codes and {SPECIALS} special ones); "
            f"--model.vocab-size {layout.vocab_size}"
        )
    if model.context < layout.length:
        raise ValueError(
            f"a sequence has {layout.length} tokens, the model's context {model.context}; "
            f"--model.context {layout.length}, or fewer --layout.frames"
        )
    return layout
