"""Published VQGAN weights under their various names, read into this project's.

Three dialects of one architecture are known: taming transformers' own, diffusers' `VQModel`, and
LlamaGen's tokenizers, which also scale vectors and codes to length 1. What the names and shapes do
not account for to the last tensor is refused: a network that is nearly this one gives other tokens.

Source: CompVis/taming-transformers, huggingface/diffusers (VQModel),
FoundationVision/LlamaGen (tokenizer/tokenizer_image): names and shapes only.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from toto.tokenizers.vqgan import VQGANConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How one library names the parts of the network."""

    mark: str
    """A beginning of a name that only this library uses."""
    dropped: str
    """Pattern of the names that are not of the network itself."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Patterns and what each becomes, one after the other."""
    up_from_coarsest: bool = False
    """Its decoder counts levels from the coarsest; ours, like taming's, from the finest."""
    unit_codes: bool = False


DIALECTS = {
    "taming": Dialect(
        mark="encoder.down.",
        # The discriminator and the perceptual network; and what only moves the codes in training.
        dropped=r"loss\.|quantize\.embedding\.(cluster_size|embed_avg)$",
    ),
    "diffusers": Dialect(
        mark="encoder.down_blocks.",
        dropped=r"$^",
        renamed=(
            (r"\.(down|up)_blocks\.", r".\1."),
            (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
            (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
            (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
            (r"\.resnets\.", ".block."),
            (r"\.attentions\.", ".attn."),
            (r"\.(down|up)samplers\.0\.", r".\1sample."),
            (r"\.conv_shortcut\.", ".nin_shortcut."),
            (r"\.conv_norm_out\.", ".norm_out."),
            (r"\.group_norm\.", ".norm."),
            (r"\.(to_q|query)\.", ".q."),
            (r"\.(to_k|key)\.", ".k."),
            (r"\.(to_v|value)\.", ".v."),
            (r"\.(to_out\.0|proj_attn)\.", ".proj_out."),
        ),
        up_from_coarsest=True,
    ),
    "LlamaGen": Dialect(
        mark="encoder.conv_blocks.",
        dropped=r"quantize\.codebook_used$",
        renamed=(
            (r"^encoder\.conv_blocks\.", "encoder.down."),
            (r"^decoder\.conv_blocks\.", "decoder.up."),
            (r"\.res\.", ".block."),
            (r"\.mid\.0\.", ".mid.block_1."),
            (r"\.mid\.1\.", ".mid.attn_1."),
            (r"\.mid\.2\.", ".mid.block_2."),
        ),
        up_from_coarsest=True,
        unit_codes=True,
    ),
}


def from_published(state: Mapping[str, Tensor]) -> tuple[VQGANConfig, dict[str, Tensor]]:
    """Read published weights, whichever library's names they bear.

    All sizes are taken from the shapes; weights of another precision become fp32. What no tensor
    tells is taken from the released models: 32 groups in every normalisation, and codes of
    length 1 in LlamaGen's.

    Args:
        state: every tensor of the file by name, for example a checkpoint's `state_dict`.

    Returns:
        The config, and weights that `config.build().load_state_dict` takes.

    Raises:
        ValueError: if the names are of none of these libraries, or a tensor is missing, has another
            shape or has no place in the network.
    """
    _refuse_other_quantisers(state)
    dialect = next(
        (d for d in DIALECTS.values() if any(name.startswith(d.mark) for name in state)), None
    )
    if dialect is None:
        marks = ", ".join(f"{name} ({d.mark}...)" for name, d in DIALECTS.items())
        raise ValueError(
            f"no VQGAN's weights: names such as {_some(sorted(state))}; known are those of {marks}"
        )
    weights = _renamed(state, dialect)
    config = _config_of(weights, unit_codes=dialect.unit_codes)
    with torch.device("meta"):
        wanted = config.build().state_dict()
    problems = {
        "missing": wanted.keys() - weights.keys(),
        "unknown": weights.keys() - wanted.keys(),
        "of another shape": {
            name
            for name in wanted.keys() & weights.keys()
            if _as_convolution(weights[name], wanted[name]).shape != wanted[name].shape
        },
        "of no floating point": {n for n, t in weights.items() if not t.is_floating_point()},
    }
    if any(problems.values()):
        told = "; ".join(f"{what}: {_some(sorted(n))}" for what, n in problems.items() if n)
        raise ValueError(f"not the weights of this VQGAN architecture: {told}")
    return config, {
        name: _as_convolution(weights[name], tensor).float().contiguous()
        for name, tensor in wanted.items()
    }


def _refuse_other_quantisers(state: Mapping[str, Tensor]) -> None:
    if "quantize.proj.weight" in state:
        raise ValueError(
            "these weights are of a Gumbel quantiser (quantize.proj): its tokens are the best of "
            "learned scores, not the nearest code; take a VQGAN with quantize.embedding.weight"
        )
    if "quantize.used" in state:
        raise ValueError(
            "these weights renumber their codes (quantize.used), so that their ids are not places "
            "in the codebook; take the weights without the remapping"
        )


def _renamed(state: Mapping[str, Tensor], dialect: Dialect) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in state.items():
        if re.match(dialect.dropped, name):
            continue
        for pattern, replacement in dialect.renamed:
            name = re.sub(pattern, replacement, name)
        if name in weights:
            raise ValueError(f"two of these weights are one and the same of the VQGAN's: {name}")
        weights[name] = tensor
    if not dialect.up_from_coarsest:
        return weights
    coarsest = _count(weights, "encoder.down.") - 1
    return {
        re.sub(r"^decoder\.up\.(\d+)", lambda m: f"decoder.up.{coarsest - int(m[1])}", name): tensor
        for name, tensor in weights.items()
    }


def _config_of(weights: Mapping[str, Tensor], *, unit_codes: bool) -> VQGANConfig:
    """Every size, from the shapes of a few weights."""
    levels = range(_count(weights, "encoder.down."))
    first = "encoder.conv_in.weight"
    ends = [f"encoder.down.{level}.block.0.conv1.weight" for level in levels]
    book, last, bridge = "quantize.embedding.weight", "encoder.conv_out.weight", "quant_conv.weight"
    told = (first, *ends, book, last, bridge)
    nothing = torch.empty(0)
    if missing := [n for n in told if (w := weights.get(n, nothing)).ndim < 2 or not w.numel()]:
        raise ValueError(
            f"not the weights of this VQGAN architecture: missing or of another shape: "
            f"{_some(missing)}"
        )
    channels = len(weights[first])
    widths = [len(weights[name]) for name in ends]
    if any(width % channels for width in widths):
        raise ValueError(
            f"levels of {widths} channels are not multiples of the first convolution's {channels}"
        )
    return VQGANConfig(
        vocab_size=len(weights[book]),
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        blocks_per_level=_count(weights, "encoder.down.0.block."),
        attention_levels=tuple(
            level for level in levels if _count(weights, f"encoder.down.{level}.attn.")
        ),
        z_channels=len(weights[last]),
        code_width=len(weights[bridge]),
        unit_codes=unit_codes,
    )


def _count(names: Iterable[str], beginning: str) -> int:
    """How many numbered parts have names with this beginning."""
    return len({n[len(beginning) :].split(".", 1)[0] for n in names if n.startswith(beginning)})


def _as_convolution(weight: Tensor, like: Tensor) -> Tensor:
    """A linear layer's weight is a 1x1 convolution's without the two sides."""
    if weight.ndim == 2 and like.ndim == 4:
        return weight[:, :, None, None]
    return weight


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
