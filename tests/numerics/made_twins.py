"""Small decoders with strange weights, and transformers' models with the same ones."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from made_run_folders import strange
from toto.models import Gpt2Config, LlamaConfig, MambaConfig

LENGTH = 96
SIZES: dict[str, Any] = {"vocab_size": 67, "depth": 3, "context": LENGTH, "norm_eps": 1e-4}


@dataclass
class Twins:
    """A decoder of ours and its twin, to be given the same ids.

    Attributes:
        ours: the decoder.
        theirs: the model of transformers.
        close: by how much logits and streams may differ, absolute and relative. fp32: the same
            products in another order.
        deviation: that logits have at least, or any two models would agree.
        first: layer of ours that is the first of their hidden states.
    """

    ours: Any
    theirs: Any
    close: float
    deviation: float
    first: int


def llama(transformers: Any, *, tied: bool, mlp_width: int) -> Twins:
    config = LlamaConfig(
        **SIZES, width=48, heads=4, mlp_width=mlp_width, tied=tied, rope_base=5_000.0, init_std=0.2
    )
    ours: Any = strange(config)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **_shared(config),
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            rope_theta=config.rope_base,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
        )
    )
    weights = {
        "model.embed_tokens": ours.embedding.weight,
        "model.norm": ours.norm.weight,
        "lm_head": _readout(ours),
    }
    for number, block in enumerate(ours.blocks):
        q, k, v = block.attention.qkv.weight.chunk(3)
        gate, up = block.mlp.gate_up.weight.chunk(2)
        for name, weight in {
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.attention.out.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.mlp.down.weight,
            "input_layernorm": block.attention_norm.weight,
            "post_attention_layernorm": block.mlp_norm.weight,
        }.items():
            weights[f"model.layers.{number}.{name}"] = weight
    theirs.load_state_dict({f"{name}.weight": weight for name, weight in weights.items()})
    return Twins(ours, theirs.eval(), close=1e-5, deviation=0.1, first=0)


def gpt2(transformers: Any, *, tied: bool) -> Twins:
    """With our table for its learned positions. Measured: 4e-6 on logits of deviation 2."""
    config = Gpt2Config(**SIZES, width=48, heads=4, tied=tied, init_std=0.3, position_scale=2.0)
    ours: Any = strange(config)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **_shared(config),
            n_embd=config.width,
            n_layer=config.depth,
            n_head=config.heads,
            n_positions=config.context,
            layer_norm_epsilon=config.norm_eps,
        )
    )
    weights = {
        "transformer.wte.weight": ours.embedding.weight,
        "transformer.wpe.weight": ours.positions(range(config.context)),
        "transformer.ln_f.weight": ours.norm.weight,
        "transformer.ln_f.bias": ours.norm.bias,
        "lm_head.weight": _readout(ours),
    }
    for number, block in enumerate(ours.blocks):
        for name, part in {
            "ln_1": block.attention_norm,
            "attn.c_attn": block.attention.qkv,
            "attn.c_proj": block.attention.out,
            "ln_2": block.mlp_norm,
            "mlp.c_fc": block.mlp.up,
            "mlp.c_proj": block.mlp.down,
        }.items():
            # GPT-2's matrices stand the other way round.
            weight = part.weight.T if part.weight.ndim == 2 else part.weight
            weights[f"transformer.h.{number}.{name}.weight"] = weight
            weights[f"transformer.h.{number}.{name}.bias"] = part.bias
    theirs.load_state_dict(weights)
    return Twins(ours, theirs.eval(), close=2e-5, deviation=1.0, first=0)


def mamba(transformers: Any, *, tied: bool) -> Twins:
    """Theirs on its plain path. Measured: 8e-6 on logits of deviation 3.7."""
    config = MambaConfig(**SIZES, width=40, state_size=7, kernel=5, tied=tied, init_std=0.5)
    ours = config.build().eval().requires_grad_(False)
    for name, parameter in ours.named_parameters():
        # All ones, or the same rates in each channel, would hide one that is misplaced.
        if name.endswith(("norm.weight", ".D")):
            parameter.uniform_(0.5, 1.5)
        elif name.endswith("A_log"):
            parameter.add_(torch.randn_like(parameter) / 2)
        elif name.endswith(("select.weight", "step.weight")):
            parameter.mul_(4)  # else hardly any selection
    theirs = transformers.MambaForCausalLM(
        transformers.MambaConfig(
            **_shared(config),
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            state_size=config.state_size,
            expand=config.expand,
            conv_kernel=config.kernel,
            time_step_rank=config.step_rank,
            layer_norm_epsilon=config.norm_eps,
        )
    )
    weights = {
        "backbone.embeddings.weight": ours.embedding.weight,
        "backbone.norm_f.weight": ours.norm.weight,
        "lm_head.weight": _readout(ours),
    }
    for number, block in enumerate(ours.blocks):
        mixer = block.mixer
        for name, weight in {
            "norm.weight": block.norm.weight,
            "mixer.in_proj.weight": mixer.input.weight,
            "mixer.conv1d.weight": mixer.convolution.weight,
            "mixer.conv1d.bias": mixer.convolution.bias,
            "mixer.x_proj.weight": mixer.select.weight,
            "mixer.dt_proj.weight": mixer.step.weight,
            "mixer.dt_proj.bias": mixer.step.bias,
            "mixer.A_log": mixer.A_log,
            "mixer.D": mixer.D,
            "mixer.out_proj.weight": mixer.output.weight,
        }.items():
            weights[f"backbone.layers.{number}.{name}"] = weight
    theirs.load_state_dict(weights)
    # transformers leaves the embedding out.
    return Twins(ours, theirs.eval(), close=2e-5, deviation=1.0, first=1)


def _shared(config: Any) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _readout(ours: Any) -> Tensor:
    return ours.embedding.weight if ours.head is None else ours.head.weight
