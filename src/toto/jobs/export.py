"""`toto export`: a checkpoint of ours becomes a folder that stock transformers loads."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
from torch import Tensor
from tyro.conf import Positional

from toto.config import from_dict, to_dict
from toto.data.layout import Layout, LayoutConfig
from toto.jobs.model_card import CARD, write_card
from toto.jobs.model_record import (
    IMPORTED,
    RECORD,
    SCHEMA,
    TOKENIZER_FILES,
    UNKNOWN,
    Record,
    TokenizerRecord,
    TrainingRecord,
    fit,
)
from toto.models import decoder_config
from toto.models.export import Dtype, parts, plain, to_transformers, write_config
from toto.probe.backbone import TOKENIZER
from toto.runtime import checkpoint, durable
from toto.runtime.folder import RunFolder
from toto.tokenizers import load_tokenizer

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """Write a run's model as a folder for transformers, with a model card."""

    run_folder: Positional[Path]
    """Folder of the pre-training run, or of an import."""
    format: Literal["hf"] = "hf"
    """Hugging Face transformers: `LlamaForCausalLM`, GPT-2 or Mamba, in safetensors."""
    step: int | None = None
    """Which checkpoint; the newest that is whole when left out."""
    dtype: Dtype = "fp32"
    """fp32 keeps every number; bf16 takes half the room and changes the logits."""
    license: str = UNKNOWN
    """Licence of the weights, for the card. What they were learnt from has terms of its own."""
    shard_bytes: int = 5_000_000_000
    """Largest file of weights; what is larger is shared out."""

    def __post_init__(self) -> None:
        if self.step is not None and self.step < 0:
            raise ValueError(f"step {self.step} must be 0 or more")
        if self.shard_bytes < 1:
            raise ValueError(f"shard_bytes {self.shard_bytes} must be at least 1")

    def run(self, out: Path) -> dict[str, Any]:
        """Write the folder, whole or not at all.

        Raises:
            ValueError: if the run has no such checkpoint, its model reads patches, or `out`
                exists.
            DiskFullError: if it does not fit.
        """
        if out.exists() or out.is_symlink():
            raise ValueError(f"{out} exists already; remove it or choose another --out")
        folder = RunFolder.open(self.run_folder)
        if not folder.has_result("model"):
            raise ValueError(
                f"{self.run_folder} is not a pre-training run; give the --out of `toto pretrain`"
            )
        described = folder.result("model")
        if described.get("inside"):
            raise ValueError(
                f"{self.run_folder} is a fine-tuning, whose heads transformers has no place for; "
                "export the pre-training run"
            )
        model = decoder_config(described["model"])
        folded = any(part.scale != 1.0 for part in parts(model))
        config, grid = from_dict(LayoutConfig, described["layout"]), tuple(described["grid"])
        layout = fit(config, grid, model)
        path, step = self._checkpoint(folder)
        of_run = json.loads((folder.path / "config.json").read_bytes())
        ours = checkpoint.stored(path, config_digest=of_run["digest"])["model"]
        weights = to_transformers(model, {k: v[()] for k, v in ours.items()}, self.dtype)
        earlier = _imported(folder)
        durable.make_folder(out.parent)
        durable.require_space(out.parent, needed_bytes=sum(w.nbytes for w in weights.values()))
        for orphan in out.parent.glob(f".{out.name}.tmp-*"):
            # Of an export that was killed; one process at a time writes to an --out.
            shutil.rmtree(orphan)
        temporary = out.with_name(f".{out.name}.tmp-{uuid.uuid4().hex}")
        try:
            temporary.mkdir()
            record = Record(
                schema=SCHEMA,
                step=earlier.step if earlier else step,
                dtype=self.dtype,
                model=to_dict(plain(model)),
                layout=config,
                grid=grid,
                precision=described["precision"],
                tokenizer=_copy_tokenizer(folder.path / TOKENIZER, temporary / TOKENIZER),
                weights=_write_weights(temporary, weights, self.shard_bytes),
                training=earlier.training if earlier else _training(folder, layout, step),
                imported=earlier is not None,
                folded=folded or (earlier is not None and earlier.folded),
                license=self.license,
            )
            parameters = sum(weight.numel() for weight in weights.values())
            saved = write_config(model, dtype=self.dtype, start=layout.video_start, end=layout.end)
            durable.write_json(temporary / "config.json", saved)
            durable.write_json(temporary / "generation_config.json", _generation(layout))
            durable.write_json(temporary / RECORD, to_dict(record))
            card = write_card(
                record, layout, architecture=saved["architectures"][0], parameters=parameters
            )
            durable.write_new(temporary / CARD, card.encode())
            durable.commit_folder(temporary, out, what="export")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return {
            "step": record.step,
            "parameters": parameters,
            "bytes": sum((out / name).stat().st_size for name in record.weights),
            "sha256": record.weights,
        }

    def _checkpoint(self, folder: RunFolder) -> tuple[Path, int]:
        """Find the checkpoint asked for."""
        if self.step is None:
            found = checkpoint.latest(folder.checkpoints)
            if found is None:
                raise ValueError(
                    f"{folder.path} has no checkpoint yet; let `toto pretrain` reach its first save"
                )
            return found.path, found.step
        return checkpoint.at(folder.checkpoints, self.step), self.step


def _write_weights(folder: Path, weights: Mapping[str, Tensor], shard_bytes: int) -> dict[str, str]:
    """Write one file, or several and an index, named as transformers names them."""
    shards = list(_shared_out(weights, shard_bytes))
    count, hashes, places = len(shards), {}, {}
    for number, shard in enumerate(shards, start=1):
        name = ONE_FILE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
        data = safetensors.torch.save(shard, {"format": "pt"})
        durable.write_new(folder / name, data)
        hashes[name] = hashlib.sha256(data).hexdigest()
        places |= dict.fromkeys(shard, name)
    if count > 1:
        total = sum(weight.nbytes for weight in weights.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        durable.write_json(folder / INDEX, index)
    return hashes


def _shared_out(weights: Mapping[str, Tensor], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Cut the weights, in their order, where one more would exceed the file."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, weight in weights.items():
        if shard and size + weight.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = weight
        size += weight.nbytes
    yield shard


def _copy_tokenizer(source: Path, to: Path) -> TokenizerRecord:
    """Copy the run's tokenizer, and say which it is."""
    foreign = source / "foreign.json"
    if foreign.is_file():
        said = json.loads(foreign.read_bytes())
        name, sha256, patch_px = said["name"], said["digest"], None
    else:
        tokenizer = load_tokenizer(source)
        name, sha256, patch_px = tokenizer.name, tokenizer.digest(), tokenizer.patch_px
    to.mkdir()
    files = {}
    for file in (source / name for name in TOKENIZER_FILES):
        if file.is_file():
            data = file.read_bytes()
            durable.write_new(to / file.name, data)
            files[file.name] = hashlib.sha256(data).hexdigest()
    return TokenizerRecord(name=name, sha256=sha256, patch_px=patch_px, files=files)


def _generation(layout: Layout) -> dict[str, Any]:
    """Let transformers continue a video as `toto generate` does: no special id inside a frame."""
    return {
        "bos_token_id": layout.video_start,
        "eos_token_id": layout.end,
        # Only so that transformers does not choose one aloud; nothing is ever padded.
        "pad_token_id": layout.end,
        "do_sample": False,
        "max_new_tokens": layout.frame_tokens,
        "suppress_tokens": [layout.video_start, layout.end, layout.image_start],
    }


def _imported(folder: RunFolder) -> Record | None:
    """What came with a run that was imported."""
    if not folder.has_result(IMPORTED):
        return None
    return from_dict(Record, folder.result(IMPORTED)["record"])


def _training(folder: RunFolder, layout: Layout, step: int) -> TrainingRecord:
    """Collect what the run says of itself, up to the step that is exported."""
    recipe = json.loads((folder.path / "config.json").read_bytes())["config"]
    # Places on somebody's machine, which are nobody else's business and no use to them.
    recipe.pop("shards", None)
    branch = Path(recipe.get("branch") or "").name
    recipe |= {"branch": branch} if "branch" in recipe else {}
    numbers: dict[str, Any] = {
        "begun_from": branch or "fresh weights",
        "steps": step,
        "steps_of_the_recipe": recipe["steps"],
        "tokens_seen": step * recipe["batch"] * layout.length,
        "unit_of_losses": "nats a token",
        "precision": folder.result("model")["precision"],
    }
    for name in ("loss", "validation_loss"):
        lines = [m for m in folder.metrics() if m["step"] <= step and m.get(name) is not None]
        numbers[name] = lines[-1][name] if lines else None
        numbers[f"{name}_at_step"] = lines[-1]["step"] if lines else None
    if folder.has_result("pretrain") and folder.result("pretrain")["steps"] == step:
        result = folder.result("pretrain")
        names = ("validation_loss", "loss_per_frame", "loss_per_frame_untrained")
        for name in (*names, "unigram_loss", "uniform_loss"):
            numbers[name] = result.get(name)
        numbers["validation_loss_at_step"] = step if numbers["validation_loss"] else None
    if folder.has_result("data"):
        hashes = folder.result("data")["sources"]
        numbers |= {f"index_sha256 of {name}": sha256 for name, sha256 in hashes.items()}
    env = json.loads((folder.path / "env.json").read_bytes())
    env |= {"torch": (env.get("packages") or {}).get("torch")}
    names = ("toto", "git_commit", "torch", "device", "cpu", "time_utc")
    return TrainingRecord(
        recipe=recipe, numbers=numbers, trained_by={name: env.get(name) for name in names}
    )
