"""Published weights become a tokenizer's folder, once; from then on nothing unpickles.

What the files are is told from the names of their tensors. Every tensor must find its place and
every place its tensor: a network that is nearly the published one would give other tokens.
"""

import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toto.config import to_dict
from toto.runtime.durable import commit_folder, make_folder, sha256_file, write_json
from toto.tokenizers import vqgan_weights, vqvae
from toto.tokenizers.dvae import GROUPS, DVAEConfig
from toto.tokenizers.files import save_tokenizer
from toto.tokenizers.pickles import read_state

KINDS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "openai-dvae": (
        "DALL-E's encoder.pkl with decoder.pkl",
        (("decoder", "encoder"), ("decoder", "flava")),
    ),
    "flava-codebook": ("FLAVA's image codebook, DALL-E's encoder alone", (("flava",),)),
    "vqgan": ("a VQGAN of taming transformers, diffusers or LlamaGen", (("vqgan",),)),
    "vqvae": ("a VQ-VAE of swasun/VQ-VAE-Images", (("vqvae",),)),
    "dvae": (
        "DALL-E's architecture at any size, with or without a decoder; only when asked for",
        (("decoder", "encoder"), ("decoder", "flava"), ("encoder",), ("flava",)),
    ),
}
"""What can be converted: in words, and the parts that its files may be, in alphabetical order."""
FINGERPRINTS = {"encoder": (74, 53_786_240), "decoder": (76, 43_829_766)}
"""Tensors and parameters of the released weights, counted in the published code."""
TENSORS_PER_BLOCK = 8


def convert(
    files: Sequence[Path], out: Path, *, kind: str | None = None, sha256: Sequence[str] = ()
) -> dict[str, Any]:
    """Turn published weights into a tokenizer's folder, which appears whole or not at all.

    Args:
        files: the weights, in any order.
        out: the folder to make; holds `source.json`, `weights.safetensors`, `tokenizer.json`.
        kind: one of `KINDS`; None tells it from the tensors.
        sha256: what the files must hash to, one each in the order of `files`, checked before
            anything is read; none to take the files as they are.

    Returns:
        What was converted: kind, tokenizer's name and config, digest, parameters, source files.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if a file is not what it must be, or `out` exists.
    """
    if not files:
        raise ValueError("no weights to convert: give the files, such as encoder.pkl decoder.pkl")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"no kind {kind!r} of weights; known are: {_known()}")
    if out.exists():
        raise ValueError(f"{out} exists already; remove it or choose another name")
    sources = _sources(files, sha256)
    states = [read_state(path) for path in files]
    named = ", ".join(str(path) for path in files)
    try:
        parts = [part_of(state) for state in states]
        kind = _kind_of(parts, kind)
        config, weights = _read(kind, dict(zip(parts, states, strict=True)))
    except ValueError as error:
        raise ValueError(f"{named}: {error}") from error
    with torch.device("meta"):
        tokenizer = config.build()
    states.clear()  # Gigabytes, and the copies are as large.
    # Copies, since tensors that share memory cannot be saved.
    weights = {name: weights.pop(name).clone() for name in list(weights)}
    tokenizer.load_state_dict(weights, assign=True)
    _write(tokenizer, {"kind": kind, "files": sources}, out)
    return {
        "kind": kind,
        "name": tokenizer.name,
        "config": to_dict(config),
        "digest": tokenizer.digest(),
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "files": sources,
    }


def part_of(state: Mapping[str, Tensor]) -> str:
    """Tell from the tensors' names what a file is: encoder, decoder, flava, vqgan, vqvae.

    Raises:
        ValueError: if it is none of these, or more than one.
    """
    first = state.get("blocks.input.w")
    is_encoder = first is not None and first.shape[1:2] == (3,)
    marks = tuple(dialect.mark for dialect in vqgan_weights.DIALECTS.values())
    found = {
        "encoder": is_encoder,
        "decoder": first is not None and not is_encoder,
        "flava": "blocks.group_1.group.block_1.res_path.path.conv_1.weight" in state,
        "vqgan": any(name.startswith(marks) for name in state),
        "vqvae": "_vq_vae._embedding.weight" in state,
    }
    parts = [part for part, is_it in found.items() if is_it]
    if len(parts) != 1:
        what = f"both {' and '.join(parts)}" if parts else "no weights that are known"
        raise ValueError(f"tensors such as {_some(state)} are {what}; known are: {_known()}")
    return parts[0]


def dvae_from_published(
    encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor] | None = None
) -> tuple[DVAEConfig, dict[str, Tensor]]:
    """Read DALL-E's weights, named as in its package or as FLAVA's codebook; sizes from shapes.

    Returns:
        The config, and weights that `config.build().load_state_dict` takes.

    Raises:
        ValueError: if a tensor is missing, unknown, or of another shape or type than it must be.
    """
    weights = {f"encoder.{_renamed(name)}": tensor for name, tensor in encoder.items()}
    weights |= {f"decoder.{_renamed(name)}": tensor for name, tensor in (decoder or {}).items()}

    def filters(layer: str) -> int:
        weight = weights.get(f"{layer}.weight")
        if weight is None or weight.ndim != 4:
            raise ValueError(f"{layer}, which tells the size, is missing or no convolution")
        return len(weight)

    config = DVAEConfig(
        vocab_size=filters("encoder.blocks.output.conv"),
        width=filters("encoder.blocks.input"),
        decoder_stem=filters("decoder.blocks.input") if decoder else DVAEConfig().decoder_stem,
        # Besides its blocks the encoder has ten tensors, fewer than a block in every group.
        blocks_per_group=max(1, len(encoder) // (GROUPS * TENSORS_PER_BLOCK)),
        decoder=decoder is not None,
    )
    try:
        with torch.device("meta"):
            wanted = config.build().state_dict()
    except RuntimeError as error:  # More numbers than there are addresses.
        raise ValueError("no dVAE can have the sizes that its tensors tell") from error
    problems = {
        "missing": wanted.keys() - weights.keys(),
        "unknown": weights.keys() - wanted.keys(),
        "of another shape": {
            name
            for name in wanted.keys() & weights.keys()
            if weights[name].shape != wanted[name].shape
        },
        "of no floating point": {n for n, t in weights.items() if not t.is_floating_point()},
    }
    if any(problems.values()):
        told = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise ValueError(f"not the weights of DALL-E's architecture: {told}")
    return config, {name: weights[name].float().contiguous() for name in wanted}


def _kind_of(parts: Sequence[str], asked: str | None) -> str:
    """Choose the kind that these parts make up."""
    kinds = [asked] if asked else [kind for kind in KINDS if kind != "dvae"]
    for kind in kinds:
        if tuple(sorted(parts)) in KINDS[kind][1]:
            return kind
    wanted = f"{asked} is {KINDS[asked][0]}" if asked else f"known are: {_known()}"
    raise ValueError(f"{' and '.join(parts)} alone make nothing that can be converted; {wanted}")


def _read(kind: str, states: Mapping[str, Mapping[str, Tensor]]) -> tuple[Any, dict[str, Tensor]]:
    """Read the parts of one kind: a config, and the weights of what it builds."""
    if kind == "vqgan":
        return vqgan_weights.from_published(states["vqgan"])
    if kind == "vqvae":
        return vqvae.from_published(states["vqvae"])
    encoder, decoder = states.get("encoder") or states["flava"], states.get("decoder")
    if kind != "dvae":
        for part, state in (("encoder", encoder), ("decoder", decoder)):
            if state is not None:
                _check_fingerprint(part, state)
    return dvae_from_published(encoder, decoder)


def _check_fingerprint(part: str, state: Mapping[str, Tensor]) -> None:
    found = len(state), sum(tensor.numel() for tensor in state.values())
    if found != FINGERPRINTS[part]:
        raise ValueError(
            "the {} has {} tensors with {:,} parameters, OpenAI's has {} with {:,}; "
            "for a dVAE of another size give the kind dvae".format(
                part, *found, *FINGERPRINTS[part]
            )
        )


def _sources(files: Sequence[Path], sha256: Sequence[str]) -> list[dict[str, Any]]:
    """Describe the files, and check that they are those that were meant."""
    if sha256 and len(sha256) != len(files):
        raise ValueError(f"{len(sha256)} sha256 for {len(files)} files: give one each, or none")
    sources = []
    for path, expected in zip(files, sha256 or [None] * len(files), strict=True):
        if path.exists() and not path.is_file():
            raise ValueError(f"{path}: not a file")
        found = sha256_file(path)
        if expected is not None and found != expected.lower():
            raise ValueError(
                f"{path}: not the file that was meant: sha256 {found} of "
                f"{path.stat().st_size} bytes, expected {expected}"
            )
        sources.append({"name": path.name, "bytes": path.stat().st_size, "sha256": found})
    return sources


def _write(tokenizer: Any, source: dict[str, Any], out: Path) -> None:
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    try:
        make_folder(temporary)
        write_json(temporary / "source.json", source)
        save_tokenizer(tokenizer, temporary)
        commit_folder(temporary, out, what="tokenizer")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _renamed(name: str) -> str:
    """Name a tensor of DALL-E's package, or of FLAVA's codebook, as we do."""
    name = re.sub(r"\.w$", ".weight", re.sub(r"\.b$", ".bias", name))
    return name.replace(".group.", ".", 1).replace(".res_path.path.", ".res_path.")


def _some(names: Any) -> str:
    """The first few names, so that the message stays one line."""
    chosen = sorted(names)[:3]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name[:100] for name in chosen) + more


def _known() -> str:
    return "; ".join(f"{kind}: {words}" for kind, (words, _) in KINDS.items())
