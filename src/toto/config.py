"""Configs are frozen dataclasses; this turns them into JSON, back, and into a digest.

A run folder holds the JSON, so that a run can be opened, resumed or repeated without the command
that began it. Reading is strict: a field that is missing or unknown is an error, never a default.
"""

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

ConfigT = TypeVar("ConfigT")


def to_dict(config: Any) -> Any:
    """Turn a config (or a value inside one) into what `json.dumps` takes."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    if isinstance(config, Path):
        return str(config)
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise TypeError(f"a config cannot hold {config!r} of type {type(config).__name__}")


def from_dict(cls: type[ConfigT], data: Mapping[str, Any], *, where: str = "") -> ConfigT:
    """Make a config of class `cls` from what `to_dict` gave.

    Args:
        cls: a dataclass; nested dataclasses, tuples, `X | None`, `Literal` and `Path` are read.
        data: the parsed JSON object.
        where: path of the field being read; for messages.

    Raises:
        ValueError: if a field is unknown, missing, or of the wrong kind; the message names it.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where.rstrip('.') or cls.__name__}: expected an object, got {data!r}")
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls))}
    hints = typing.get_type_hints(cls)
    for name in data:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{where}{name}: {cls.__name__} has no such field{hint}")
    missing = [name for name in fields if name not in data]
    if missing:
        raise ValueError(f"{where}{missing[0]}: missing from a saved {cls.__name__}")
    values = {name: _read(hints[name], data[name], f"{where}{name}") for name in fields}
    return cls(**values)


def digest(config: Any) -> str:
    """Sixteen hex digits that change whenever any field of the config does."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where=f"{where}.")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _read(args[0], value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _read_any([a for a in args if a is not type(None)], value, where)
    if origin is typing.Literal:
        if value not in args:
            raise ValueError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, got {value!r}")
        of = list(args[:1]) * len(value) if origin is list or args[-1] is ... else list(args)
        if len(of) != len(value):
            raise ValueError(f"{where}: expected {len(of)} values, got {value!r}")
        items = [
            _read(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(of, value, strict=True))
        ]
        return origin(items)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected an object, got {value!r}")
        return {k: _read(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is Path:
        if not isinstance(value, str):
            raise ValueError(f"{where}: expected a path, got {value!r}")
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise ValueError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def _read_any(hints: list[Any], value: Any, where: str) -> Any:
    """Read the one alternative of a union that the value fits."""
    reasons = []
    for hint in hints:
        try:
            return _read(hint, value, where)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError("; ".join(reasons))
