"""Reads a run's folders into one value; the only file of this room that knows where things lie.

A stage that did not run is `None`, never an error: a report of half a run is still a report. A file
that is there and cannot be read is an error that names it.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from toto.config import from_dict
from toto.report.results import (
    Finetune,
    Generate,
    Ingest,
    LayerAtlas,
    MupStudy,
    Pretrain,
    Probe,
    StageCost,
    Tokenize,
    Tokenizer,
    Track,
)

ResultT = TypeVar("ResultT")

OPTIONAL = ("mup", "layers", "finetune")
"""Folders that the demo has none of; the page says nothing of those that are not there."""
STAGES = ("data", "tokenizer", "shards", "pretrain", "probe", "track", "generate", *OPTIONAL)
"""The folders of a run, in the order its stages ran."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One logged quantity over the steps that logged it."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """A file to show in the page: a PNG picture or an MP4 video."""

    name: str
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that is known of a run. A result that is `None`: its stage has not finished."""

    name: str
    """The run folder's own name, without the path that leads to it."""
    started: frozenset[str]
    """Stage folders that exist, finished or not."""
    costs: tuple[StageCost, ...]
    ingest: Ingest | None
    tokenizer: Tokenizer | None
    tokenizer_curves: dict[str, Curve]
    reconstructions: Media | None
    tokenize: Tokenize | None
    pretrain: Pretrain | None
    pretrain_curves: dict[str, Curve]
    mup: MupStudy | None
    mup_picture: Media | None
    probe: Probe | None
    atlas: LayerAtlas | None
    """Of `toto study layers --out RUN/layers`."""
    atlas_picture: Media | None
    finetune: Finetune | None
    finetune_curves: dict[str, Curve]
    track: Track | None
    overlays: tuple[Media, ...]
    generate: Generate | None
    strips: tuple[Media, ...]
    forecasts: tuple[Media, ...]
    configs: dict[str, dict[str, Any]]
    """What each stage was asked to do, by stage folder."""
    environments: dict[str, dict[str, Any]]
    """On what each stage ran, by stage folder."""


def collect(folder: Path) -> Report:
    """Read what the stages of a run left on disk.

    Args:
        folder: the folder that holds the stage folders `data`, `tokenizer`, ... `generate`.

    Raises:
        ValueError: if the folder holds no stage, or a file in it is not what its name promises;
            the message names the file.
    """
    started = frozenset(stage for stage in STAGES if (folder / stage).is_dir())
    if not started:
        raise ValueError(f"{folder} holds no run (none of {', '.join(STAGES)}); give a run folder")
    return Report(
        name=folder.resolve().name,
        started=started,
        costs=_read_costs(folder / "stages.jsonl"),
        ingest=_read_result(Ingest, folder / "data/results/ingest.json"),
        tokenizer=_read_result(Tokenizer, folder / "tokenizer/results/tokenizer.json"),
        tokenizer_curves=_read_curves(folder / "tokenizer/metrics.jsonl"),
        reconstructions=next(_read_media(folder / "tokenizer", "reconstructions.png"), None),
        tokenize=_read_result(Tokenize, folder / "shards/results/tokenize.json"),
        pretrain=_read_result(Pretrain, folder / "pretrain/results/pretrain.json"),
        pretrain_curves=_read_curves(folder / "pretrain/metrics.jsonl"),
        mup=_read_result(MupStudy, folder / "mup/results/study_mup.json"),
        mup_picture=next(_read_media(folder / "mup", "mup.png"), None),
        probe=_read_result(Probe, folder / "probe/results/probe.json"),
        atlas=_read_result(LayerAtlas, folder / "layers/results/study_layers.json"),
        atlas_picture=next(_read_media(folder / "layers", "layers.png"), None),
        finetune=_read_result(Finetune, folder / "finetune/results/finetune.json"),
        finetune_curves=_read_curves(folder / "finetune/metrics.jsonl"),
        track=_read_result(Track, folder / "track/results/track.json"),
        overlays=tuple(_read_media(folder / "track", "overlay*.png")),
        generate=_read_result(Generate, folder / "generate/results/generate.json"),
        strips=tuple(_read_media(folder / "generate", "strip*.png")),
        forecasts=tuple(_read_media(folder / "generate", "forecast*.mp4")),
        configs=_read_objects(folder, "config.json"),
        environments=_read_objects(folder, "env.json"),
    )


def read_pretraining(run: Path) -> tuple[Pretrain | None, dict[str, Curve]]:
    """Read what a pre-training run came to, if it has ended, and what it logged.

    Raises:
        ValueError: as `collect`.
    """
    result = _read_result(Pretrain, run / "results/pretrain.json")
    return result, _read_curves(run / "metrics.jsonl")


def _read_costs(path: Path) -> tuple[StageCost, ...]:
    return tuple(_parse(StageCost, line, path) for line in _read_lines(path))


def _read_result(cls: type[ResultT], path: Path) -> ResultT | None:
    return _parse(cls, _read_object(path), path) if path.exists() else None


def _read_objects(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    paths = {stage: folder / stage / name for stage in STAGES}
    return {stage: _read_object(path) for stage, path in paths.items() if path.exists()}


def _read_object(path: Path) -> dict[str, Any]:
    return _parse_object(_read_text(path), str(path))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line; a last line without its end was still being written."""
    if not path.exists():
        return []
    whole = _read_text(path).split("\n")[:-1]
    return [_parse_object(line, f"{path}, line {n}") for n, line in enumerate(whole, start=1)]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason}); run its stage again") from None


def _parse_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error}); run its stage again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, got {value!r:.60}; run its stage again")
    return value


def _read_curves(path: Path) -> dict[str, Curve]:
    """Read `metrics.jsonl` into one curve for each name; lines need not all hold the same names."""
    points: dict[str, list[tuple[int, float]]] = {}
    for line in _read_lines(path):
        step = line.get("step")
        if not isinstance(step, int):
            raise ValueError(
                f"{path}: a line has no whole step ({line!r:.60}); run its stage again"
            )
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                points.setdefault(name, []).append((step, float(value)))
    return {
        name: Curve(steps=tuple(s for s, _ in pairs), values=tuple(v for _, v in pairs))
        for name, pairs in points.items()
    }


def _read_media(folder: Path, pattern: str) -> Iterator[Media]:
    """Read pictures and videos, refusing those whose first bytes belie their name."""
    signatures = {".png": (0, b"\x89PNG\r\n\x1a\n"), ".mp4": (4, b"ftyp")}
    for path in sorted(folder.glob(pattern), key=lambda p: (len(p.name), p.name)):
        data = path.read_bytes()
        start, signature = signatures[path.suffix]
        if data[start : start + len(signature)] != signature:
            raise ValueError(f"{path}: not a {path.suffix[1:].upper()} file; run its stage again")
        yield Media(name=path.name, data=data)


def _parse(cls: type[ResultT], data: dict[str, Any], path: Path) -> ResultT:
    try:
        return from_dict(cls, _fit(cls, data))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; run its stage again") from None


def _fit(hint: Any, value: Any) -> Any:
    """Drop what the page does not show and fill in defaults, since configs are read strictly.

    A stage may so write more than the page shows; what the page needs stays required.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return value
    if origin is tuple and isinstance(value, list):
        return [_fit(args[0], item) for item in value]
    if origin is dict or dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"expected an object, got {value!r:.60}")
        if origin is dict:
            return {key: _fit(args[1], item) for key, item in value.items()}
        hints = typing.get_type_hints(hint)
        given = {name: _fit(hints[name], value[name]) for name in hints if name in value}
        defaults = {f.name: f.default for f in dataclasses.fields(hint)}
        return {n: d for n, d in defaults.items() if d is not dataclasses.MISSING} | given
    return value
