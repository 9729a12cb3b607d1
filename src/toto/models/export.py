"""Our decoders and transformers' models: which weight is which, and what `config.json` says.

Pure functions between names, shapes and tensors; transformers is not needed for them. One table of
parts serves both directions, so that what is written can be read back bit for bit.

Source: the names and fields are those of transformers 5.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float32
from torch import Tensor

from toto.models import DecoderConfig, Gpt2Config, LlamaConfig, MambaConfig
from toto.models.mup import MuP

Dtype = Literal["fp32", "bf16"]
DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
_OF_NO_EFFECT = re.compile(
    r"_name_or_path|transformers_version|(torch_)?dtype|use_cache|(bos|eos|pad)_token_id"
    r"|attention_dropout|(attn|embd|resid)_pdrop|summary_\w+|time_step_(floor|init_scheme|max|min)"
    r"|time_step_scale|rescale_prenorm_residual|use_associative_scan|use_mambapy|id2label|label2id"
    r"|return_dict|output_(attentions|hidden_states)|problem_type|is_encoder_decoder"
    r"|chunk_size_feed_forward|initializer_range"
)
"""Fields of `config.json` that do not change what a trained model computes from ids."""
_DEFAULTS = {"pretraining_tp": 1, "reorder_and_upcast_attn": False}
"""Fields that transformers adds, and the only value that leaves the model what it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One tensor of theirs, and where it lies in ours.

    Attributes:
        theirs: its name in transformers.
        shape: its shape there.
        ours: name of the tensor of ours whose next rows it is, parts of one in order; empty where
            we hold none, since the table of positions follows from the config.
        turned: whether it is the transpose of ours.
        scale: what ours is multiplied by on the way out; nothing undoes that on the way in.
    """

    theirs: str
    shape: tuple[int, ...]
    ours: str
    turned: bool = False
    scale: float = 1.0


def parts(config: DecoderConfig) -> Iterator[Part]:
    """List the tensors of the model in transformers, one after the other.

    muP's attention scale becomes a factor of the queries' weights: a stock model knows only
    1 / sqrt(head width).

    Raises:
        ValueError: if the model reads or predicts patches, which no model there does.
    """
    if config.patch_values:
        raise ValueError(
            f"the model reads patches of {config.patch_values} values; transformers has no such "
            "decoder, export one that reads ids"
        )
    if isinstance(config, LlamaConfig):
        return _llama(config)
    return _gpt2(config) if isinstance(config, Gpt2Config) else _mamba(config)


def tensors_of(config: DecoderConfig) -> int:
    """Count what `parts` lists, without listing it."""
    a_block = 9 if isinstance(config, LlamaConfig) else 12 if isinstance(config, Gpt2Config) else 10
    beside = 4 if isinstance(config, Gpt2Config) else 2
    return a_block * config.depth + beside + (not config.tied)


def plain(config: DecoderConfig) -> DecoderConfig:
    """Give the config of the model that `to_transformers` writes: without muP."""
    return replace(config, mup=MuP()) if isinstance(config, LlamaConfig) else config


def to_transformers(
    config: DecoderConfig, weights: Mapping[str, Tensor], dtype: Dtype = "fp32"
) -> dict[str, Tensor]:
    """Give a state dict of ours transformers' names and shapes.

    In fp32 every number is the same. Where a part has a scale it is rounded once, and not at all
    if the scale is a power of two.

    Raises:
        ValueError: if the model reads patches.
    """
    found: dict[str, Tensor] = {}
    taken: dict[str, int] = {}
    for part in parts(config):
        if not part.ours:
            found[part.theirs] = _positions(config).to(DTYPES[dtype])
            continue
        first = taken.get(part.ours, 0)
        taken[part.ours] = first + part.shape[-1 if part.turned else 0]
        rows = weights[part.ours].detach()[first : taken[part.ours]]
        if part.scale != 1.0:
            rows = rows.double() * part.scale
        rows = rows.to(DTYPES[dtype])
        found[part.theirs] = (rows.T if part.turned else rows).clone(
            memory_format=torch.contiguous_format
        )
    return found


def from_transformers(config: DecoderConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a state dict of transformers our names and shapes, in fp32.

    Args:
        config: of the model; without muP.
        weights: tensors of the names and shapes that `parts` lists.

    Raises:
        ValueError: if positions are not the sines that the config says.
    """
    rows: dict[str, list[Tensor]] = {}
    for part in parts(config):
        theirs = weights[part.theirs].float()
        if part.ours:
            rows.setdefault(part.ours, []).append(theirs.T if part.turned else theirs)
            continue
        table = _positions(config)
        # As far as bf16 rounds, and what sines differ by from one machine to the next.
        if not torch.allclose(theirs, table, rtol=0.0, atol=float(table.abs().max()) / 100):
            raise ValueError(
                f"{part.theirs} is not the table of sines of this model; learnt positions cannot "
                "be imported"
            )
    return {name: torch.cat(pieces).contiguous() for name, pieces in rows.items()}


def write_config(config: DecoderConfig, *, dtype: Dtype, start: int, end: int) -> dict[str, Any]:
    """Fill `config.json` for a stock `LlamaForCausalLM`, `GPT2LMHeadModel` or `MambaForCausalLM`.

    No `pad_token_id`: the embedding of that id would not learn in a fine-tuning.

    Args:
        config: of the model.
        dtype: of the weights beside it.
        start: id of the token that a video begins with.
        end: id of the token that a sequence ends with.
    """
    if isinstance(config, LlamaConfig):
        fields = _llama_config(config)
    else:
        fields = _gpt2_config(config) if isinstance(config, Gpt2Config) else _mamba_config(config)
    return fields | {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_std,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": None,
        "dtype": str(DTYPES[dtype]).removeprefix("torch."),
        "use_cache": True,
    }


def require_config(saved: Mapping[str, Any], config: DecoderConfig) -> None:
    """Refuse a `config.json` of a model that is not this one.

    transformers may have written it anew: fields that it adds or leaves out pass where they change
    nothing. A field that is not known might change what the model computes.

    Args:
        saved: the parsed JSON object; it may come from anyone.
        config: what the weights are to be read as.

    Raises:
        ValueError: naming the field, its value and what it must be.
    """
    wanted = write_config(config, dtype="fp32", start=0, end=0) | _DEFAULTS
    for name, value in saved.items():
        if _OF_NO_EFFECT.fullmatch(name) or (value is None and name not in wanted):
            continue
        if name not in wanted:
            raise ValueError(
                f"{name} {value!r} is not a field that toto knows, so it might be another model"
            )
        if isinstance(value, bool) != isinstance(wanted[name], bool) or value != wanted[name]:
            raise ValueError(f"{name} {value!r} is not {wanted[name]!r}, as toto's decoder has it")
    # The base is there twice, and transformers 5 leaves the older place out.
    missing = sorted(
        name
        for name in wanted.keys() - saved.keys() - _DEFAULTS.keys() - {"rope_theta"}
        if not _OF_NO_EFFECT.fullmatch(name)
    )
    if missing:
        raise ValueError(f"{missing[0]} is missing; it must be {wanted[missing[0]]!r}")


def _llama(config: LlamaConfig) -> Iterator[Part]:
    width, hidden = config.width, config.mlp_width
    scale = config.mup.attention_scale(width, config.heads)
    query = 1.0 if scale is None else scale * math.sqrt(config.head_width)
    ids = (config.vocab_size, width)
    yield Part(theirs="model.embed_tokens.weight", shape=ids, ours="embedding.weight")
    for layer in range(config.depth):
        there, here = f"model.layers.{layer}", f"blocks.{layer}"
        for name, shape, ours, scale in (
            ("self_attn.q_proj", (width, width), "attention.qkv", query),
            ("self_attn.k_proj", (width, width), "attention.qkv", 1.0),
            ("self_attn.v_proj", (width, width), "attention.qkv", 1.0),
            ("self_attn.o_proj", (width, width), "attention.out", 1.0),
            ("mlp.gate_proj", (hidden, width), "mlp.gate_up", 1.0),
            ("mlp.up_proj", (hidden, width), "mlp.gate_up", 1.0),
            ("mlp.down_proj", (width, hidden), "mlp.down", 1.0),
            ("input_layernorm", (width,), "attention_norm", 1.0),
            ("post_attention_layernorm", (width,), "mlp_norm", 1.0),
        ):
            yield Part(
                theirs=f"{there}.{name}.weight",
                shape=shape,
                ours=f"{here}.{ours}.weight",
                scale=scale,
            )
    yield Part(theirs="model.norm.weight", shape=(width,), ours="norm.weight")
    if not config.tied:
        yield Part(theirs="lm_head.weight", shape=ids, ours="head.weight")


def _llama_config(config: LlamaConfig) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.context,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "rms_norm_eps": config.norm_eps,
        # Twice: transformers 5 reads the second, earlier ones and other programs the first, whose
        # default they would take without a word.
        "rope_theta": config.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
    }


def _gpt2(config: Gpt2Config) -> Iterator[Part]:
    width, hidden = config.width, config.mlp_width
    ids = (config.vocab_size, width)
    yield Part(theirs="transformer.wte.weight", shape=ids, ours="embedding.weight")
    yield Part(theirs="transformer.wpe.weight", shape=(config.context, width), ours="")
    for layer in range(config.depth):
        there, here = f"transformer.h.{layer}", f"blocks.{layer}"
        for name, shape, ours in (
            ("ln_1", (width,), "attention_norm"),
            ("attn.c_attn", (width, 3 * width), "attention.qkv"),
            ("attn.c_proj", (width, width), "attention.out"),
            ("ln_2", (width,), "mlp_norm"),
            ("mlp.c_fc", (width, hidden), "mlp.up"),
            ("mlp.c_proj", (hidden, width), "mlp.down"),
        ):
            yield Part(
                theirs=f"{there}.{name}.weight",
                shape=shape,
                ours=f"{here}.{ours}.weight",
                turned=len(shape) == 2,
            )
            yield Part(theirs=f"{there}.{name}.bias", shape=shape[-1:], ours=f"{here}.{ours}.bias")
    for name in ("weight", "bias"):
        yield Part(theirs=f"transformer.ln_f.{name}", shape=(width,), ours=f"norm.{name}")
    if not config.tied:
        yield Part(theirs="lm_head.weight", shape=ids, ours="head.weight")


def _gpt2_config(config: Gpt2Config) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": config.width,
        "n_layer": config.depth,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "n_positions": config.context,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
    }


def _mamba(config: MambaConfig) -> Iterator[Part]:
    width, inside, states = config.width, config.channels, config.state_size
    rank, ids = config.step_rank, (config.vocab_size, width)
    yield Part(theirs="backbone.embeddings.weight", shape=ids, ours="embedding.weight")
    for layer in range(config.depth):
        there, here = f"backbone.layers.{layer}", f"blocks.{layer}"
        for name, shape, ours in (
            ("norm.weight", (width,), "norm.weight"),
            ("mixer.in_proj.weight", (2 * inside, width), "mixer.input.weight"),
            ("mixer.conv1d.weight", (inside, 1, config.kernel), "mixer.convolution.weight"),
            ("mixer.conv1d.bias", (inside,), "mixer.convolution.bias"),
            ("mixer.x_proj.weight", (rank + 2 * states, inside), "mixer.select.weight"),
            ("mixer.dt_proj.weight", (inside, rank), "mixer.step.weight"),
            ("mixer.dt_proj.bias", (inside,), "mixer.step.bias"),
            ("mixer.A_log", (inside, states), "mixer.A_log"),
            ("mixer.D", (inside,), "mixer.D"),
            ("mixer.out_proj.weight", (width, inside), "mixer.output.weight"),
        ):
            yield Part(theirs=f"{there}.{name}", shape=shape, ours=f"{here}.{ours}")
    yield Part(theirs="backbone.norm_f.weight", shape=(width,), ours="norm.weight")
    if not config.tied:
        yield Part(theirs="lm_head.weight", shape=ids, ours="head.weight")


def _mamba_config(config: MambaConfig) -> dict[str, Any]:
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "state_size": config.state_size,
        "expand": config.expand,
        "intermediate_size": config.channels,
        "conv_kernel": config.kernel,
        "time_step_rank": config.step_rank,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": True,
        "layer_norm_epsilon": config.norm_eps,
    }


def _positions(config: DecoderConfig) -> Float32[Tensor, "L D"]:
    """What our GPT-2 adds to the embeddings."""
    assert isinstance(config, Gpt2Config)
    return config.positions(range(config.context))
