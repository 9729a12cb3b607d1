"""`toto import`: a folder that `toto export` wrote becomes a run folder that other jobs open.

The folder may come from anyone. Nothing in it is run, links are not followed, and names and sizes
are compared with what the files hold before memory is taken for them.
"""

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tyro.conf import Positional

from toto.config import digest, from_dict, to_dict
from toto.jobs.export import INDEX, ONE_FILE
from toto.jobs.model_record import IMPORTED, RECORD, TOKENIZER_FILES, WEIGHTS, Record, fit
from toto.models import DecoderConfig, decoder_config
from toto.models.export import from_transformers, parts, plain, require_config, tensors_of
from toto.probe.backbone import TOKENIZER
from toto.runtime import checkpoint, durable
from toto.runtime.folder import RunFolder
from toto.tokenizers import TOKENIZERS, load_tokenizer
from toto.tokenizers.patches import PatchNormalisation
from toto.types import SPECIALS

LARGEST_JSON = 16_000_000
"""Bytes; the index of a model of 10^5 tensors has about 10^7."""
LONGEST_CONTEXT = 2**24
"""No weight bounds it, but a cache is as long."""
MOST_BLOCKS, LARGEST_SIZE = 64, 2**20
"""Of a tokenizer's config; its modules are laid out, without memory, to learn their shapes."""
_FLOATS = ("F32", "BF16", "F16")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportModel:
    """Read an exported model back into a run folder."""

    folder: Positional[Path]
    """What `toto export` wrote."""
    weights_changed: bool = False
    """Take weights that are not those of the export: the model was trained on outside toto."""

    def run(self, out: Path) -> dict[str, Any]:
        """Check the folder, then write a run with one checkpoint into `out`.

        Raises:
            ValueError: if something in the folder is missing, is not what it must be, or is of
                another model than toto's; the message names the file.
            DiskFullError: if it does not fit.
        """
        record = self._record()
        with _blame(self.folder / RECORD):
            model = _model(record)
            layout = fit(record.layout, record.grid, model)
        with _blame(self.folder / "config.json") as file:
            require_config(_read_json(file), model)
        files = self._files()
        hashes = {file.name: durable.sha256_file(file) for file in files}
        if hashes != record.weights and not self.weights_changed:
            name = next(
                n for n in [*hashes, *record.weights] if hashes.get(n) != record.weights.get(n)
            )
            raise ValueError(
                f"{self.folder / name} is not what toto.json says was exported; copy it again, or "
                "add --weights-changed if the model was trained on since"
            )
        if hashes != record.weights:
            # What was measured was measured with other weights.
            record = replace(record, weights=hashes, training=None, step=0)
        tokenizer = self._tokenizer(record, codes=layout.codes)
        weights = self._weights(model, files)
        with _blame(self.folder):
            ours = from_transformers(model, weights)
        parameters = sum(weight.numel() for weight in ours.values())
        with RunFolder.create(out, self, tensorboard=False) as run:
            if run.has_result(IMPORTED):
                return run.result(IMPORTED)
            durable.make_folder(out / TOKENIZER)
            for name, data in tokenizer.items():
                durable.write_bytes(out / TOKENIZER / name, data)
            checkpoint.save(
                run.checkpoints, record.step, tensors={"model": ours}, config_digest=digest(self)
            )
            described = {
                "model": to_dict(model),
                "layout": to_dict(record.layout),
                "patches": to_dict(PatchNormalisation()),
                "grid": list(record.grid),
                "parameters": parameters,
                "precision": record.precision,
            }
            run.write_result("model", described)
            result = {
                "parameters": parameters,
                "step": record.step,
                "sha256": hashes,
                "record": to_dict(record),
            }
            run.write_result(IMPORTED, result)
            return result

    def _record(self) -> Record:
        file = self.folder / RECORD
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder} is not a folder; give one that `toto export` wrote")
        if not os.path.lexists(file):
            raise ValueError(
                f"{self.folder} has no {RECORD}, which says how frames become the model's tokens; "
                "only a folder that `toto export` wrote can be imported"
            )
        with _blame(file):
            return from_dict(Record, _read_json(file))

    def _files(self) -> list[Path]:
        """Find the files of weights: one, or those that the index names."""
        if os.path.lexists(self.folder / ONE_FILE):
            return [_regular(self.folder / ONE_FILE)]
        if not os.path.lexists(self.folder / INDEX):
            for name in _PICKLES:
                if os.path.lexists(self.folder / name):
                    raise ValueError(
                        f"{self.folder} has only {name}, which is a pickle and is not opened; "
                        "whoever trusts it can load it in transformers and save_pretrained() it "
                        f"as {ONE_FILE}"
                    )
            raise ValueError(f"{self.folder} has no {ONE_FILE}; copy the whole folder")
        with _blame(self.folder / INDEX) as file:
            places = _read_json(file).get("weight_map")
            if not isinstance(places, dict) or not places:
                raise ValueError("weight_map is missing")
            names = sorted({str(name) for name in places.values()})
            for name in names:
                if not WEIGHTS.fullmatch(name):
                    raise ValueError(f"weight_map names {name!r}, which is no file of weights")
        return [_regular(self.folder / name) for name in names]

    def _weights(self, model: DecoderConfig, files: list[Path]) -> dict[str, Tensor]:
        """Read the tensors, once their names, shapes and kinds are known to be the model's."""
        places = _shapes(files)
        if len(places) != tensors_of(model):
            raise ValueError(
                f"{self.folder} has {len(places)} tensors, by config.json {tensors_of(model)}"
            )
        for part in parts(model):
            if part.theirs not in places:
                raise ValueError(f"{self.folder} has no tensor {part.theirs}; it is another model")
            file, shape = places[part.theirs]
            if shape != part.shape:
                raise ValueError(
                    f"{file}: {part.theirs} is {list(shape)}, by config.json {list(part.shape)}"
                )
        found = {}
        for file in files:
            with _opened(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    found[name] = tensors.get_tensor(name)
                    if not found[name].isfinite().all():
                        raise ValueError(f"{file}: {name} holds numbers that are not finite")
        return found

    def _tokenizer(self, record: Record, *, codes: int) -> dict[str, bytes]:
        """Read the tokenizer's files, known to be what the record names, and to be a tokenizer."""
        folder, named = self.folder / TOKENIZER, record.tokenizer
        if folder.is_symlink():
            raise ValueError(f"{folder} is a link; copy what it leads to")
        there = {name for name in TOKENIZER_FILES if os.path.lexists(folder / name)}
        if there != named.files.keys() or not there & {"tokenizer.json", "foreign.json"}:
            raise ValueError(
                f"{folder} has {', '.join(sorted(there)) or 'no tokenizer'}, by toto.json "
                f"{', '.join(sorted(named.files)) or 'none'}; copy it again"
            )
        found = {}
        for name, sha256 in named.files.items():
            file = _regular(folder / name)
            if durable.sha256_file(file) != sha256:
                raise ValueError(f"{file} is not what toto.json says was exported; copy it again")
            found[name] = file.read_bytes()
        if "foreign.json" in found:
            with _blame(folder / "foreign.json") as file:
                said = _read_json(file)
                if (said.get("name"), said.get("digest")) != (named.name, named.sha256):
                    raise ValueError("it is of another tokenizer than toto.json names")
            return found
        _require_modest(folder)
        tokenizer = load_tokenizer(folder)
        if tokenizer.digest() != named.sha256:
            raise ValueError(f"{folder} is not the tokenizer that toto.json names; copy it again")
        if tokenizer.vocab_size != codes:
            raise ValueError(
                f"{folder} has {tokenizer.vocab_size} codes, the model {codes + SPECIALS} ids less "
                f"{SPECIALS} special ones"
            )
        return found


def _model(record: Record) -> DecoderConfig:
    """The decoder that the record describes, if it is one whose weights can be read."""
    model = decoder_config(record.model)
    if plain(model) != model:
        raise ValueError("mup: an exported model has none; it is folded into its weights")
    for name, value in record.model.items():
        if isinstance(value, float) and not 0 <= value < math.inf:
            raise ValueError(f"{name} {value!r} is not a positive number")
    if model.context > LONGEST_CONTEXT:
        raise ValueError(f"context {model.context} is more than {LONGEST_CONTEXT}")
    parts(model)  # refuses patches
    return model


def _require_modest(folder: Path) -> None:
    """Refuse a tokenizer whose config asks for more than its weights hold, before it is built.

    It is laid out on the meta device, which has no memory, and compared with the file.
    """
    with _blame(folder / "tokenizer.json") as file:
        said = _read_json(file)
        kind, config = said.get("name"), said.get("config")
        if kind not in TOKENIZERS:
            raise ValueError(f"tokenizer {kind!r} is not one of {', '.join(sorted(TOKENIZERS))}")
        if not isinstance(config, dict):
            raise ValueError("config is not an object")
        for name, value in config.items():
            most = MOST_BLOCKS if "blocks" in name or name == "halvings" else LARGEST_SIZE
            values = value if isinstance(value, list) else [value]
            if len(values) > MOST_BLOCKS or any(type(v) is int and v > most for v in values):
                raise ValueError(f"{name} {str(value)[:100]} is more than {most}")
        parsed = from_dict(TOKENIZERS[kind], config)
        try:
            with torch.device("meta"):
                laid_out = parsed.build()
        except (RuntimeError, TypeError, OverflowError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"no such tokenizer can be built: {reason[:200]}") from error
    if not isinstance(laid_out, nn.Module):
        return
    weights = _regular(folder / "weights.safetensors")
    there = {name: shape for name, (_, shape) in _shapes([weights]).items()}
    wanted = {name: tuple(value.shape) for name, value in laid_out.state_dict().items()}
    if there != wanted:
        name = min(name for name in there.keys() | wanted if there.get(name) != wanted.get(name))
        raise ValueError(
            f"{weights}: {name} is {there.get(name, 'missing')}, by tokenizer.json "
            f"{wanted.get(name, 'not there')}"
        )


def _shapes(files: list[Path]) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Where each tensor is, and its shape; the headers alone are read."""
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for file in files:
        with _opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                if name in found:
                    raise ValueError(f"{file}: {name} is in {found[name][0].name} too")
                part = tensors.get_slice(name)
                if part.get_dtype() not in _FLOATS:
                    raise ValueError(
                        f"{file}: {name} is {part.get_dtype()}; read are {', '.join(_FLOATS)}"
                    )
                found[name] = file, tuple(part.get_shape())
    return found


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, "pt") as tensors:
            yield tensors
    except SafetensorError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} is not a whole file of safetensors: {reason}") from error


@contextmanager
def _blame(file: Path) -> Iterator[Path]:
    """Let what is refused inside begin with the file's name."""
    try:
        yield file
    except ValueError as error:
        if str(error).startswith(str(file)):
            raise
        raise ValueError(f"{file}: {error}") from error


def _regular(file: Path) -> Path:
    """Refuse what is not a plain file: a link may lead anywhere, a pipe never ends."""
    try:
        mode = os.lstat(file).st_mode
    except FileNotFoundError:
        raise ValueError(f"{file} is missing; copy the whole folder") from None
    if stat.S_ISLNK(mode):
        raise ValueError(f"{file} is a link; copy what it leads to, as `cp -rL` does")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{file} is not a file")
    return file


def _read_json(file: Path) -> Mapping[str, Any]:
    if _regular(file).stat().st_size > LARGEST_JSON:
        raise ValueError(f"{file} has more than {LARGEST_JSON} bytes")
    try:
        value = json.loads(file.read_bytes(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {str(error)[:100]}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} is not a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
