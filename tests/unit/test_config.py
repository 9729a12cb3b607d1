import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from toto.config import digest, from_dict, to_dict
from toto.recipes import DEMO, PRETRAIN, demo_probe

RECIPES: dict[str, Callable[[], Any]] = {
    **{f"pretrain {name}": recipe for name, recipe in PRETRAIN.items()},
    **DEMO,
    "probe": demo_probe,
}


@pytest.fixture(params=sorted(RECIPES))
def recipe(request: pytest.FixtureRequest) -> Any:
    return RECIPES[request.param]()


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    size: int = 3
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """One field of every kind that configs have."""

    name: str
    count: int = 1
    share: float = 0.25
    on: bool = True
    kind: Literal["a", "b"] = "a"
    limit: int | None = None
    place: Path = Path("here")
    maybe: Path | None = None
    pair: tuple[float, float] = (0.5, 1.0)
    many: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)
    inners: tuple[Inner, ...] = ()
    names: dict[str, int] = field(default_factory=dict)
    choice: Inner | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count {self.count} must be at least 0")


FULL = Outer(
    name="x",
    limit=3,
    maybe=Path("there"),
    many=(1, 2),
    inners=(Inner(), Inner(size=4)),
    names={"k": 5},
    choice=Inner(rate=1.0),
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a nested dictionary are."""
    if isinstance(value, dict | list) and value:
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*path, key))
    else:
        yield path


def changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return {"a": 1} if isinstance(value, dict) else f"{value}-"


def test_every_recipe_is_read_back_from_json(recipe: Any) -> None:
    text = json.dumps(to_dict(recipe))
    read = from_dict(type(recipe), json.loads(text))
    assert read == recipe
    assert digest(read) == digest(recipe)


def test_the_digest_changes_with_every_value_of_every_recipe(recipe: Any) -> None:
    saved = to_dict(recipe)
    assert digest(saved) == digest(recipe)
    seen = {digest(recipe)}
    for path in leaves(saved):
        other = copy.deepcopy(saved)
        holder = other
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = changed(holder[path[-1]])
        seen.add(digest(other))
    assert len(seen) == 1 + len(list(leaves(saved)))


def test_no_field_of_a_recipe_is_left_out(recipe: Any) -> None:
    def compare(config: Any, saved: Any) -> None:
        if is_dataclass(config):
            assert set(saved) == {f.name for f in fields(config)}
            for name, value in saved.items():
                compare(getattr(config, name), value)

    compare(recipe, to_dict(recipe))


@pytest.mark.parametrize("config", [FULL, Outer(name="defaults")])
def test_every_kind_of_field_is_read_back(config: Outer) -> None:
    read = from_dict(Outer, json.loads(json.dumps(to_dict(config))))
    assert read == config
    assert type(read.place) is type(config.place)
    assert type(read.many) is tuple


def test_a_whole_number_is_a_float_where_one_is_meant() -> None:
    read = from_dict(Outer, to_dict(FULL) | {"share": 1})
    assert read.share == 1.0
    assert type(read.share) is float


def test_the_digest_is_sixteen_hex_digits_and_does_not_vary() -> None:
    assert digest(FULL) == digest(replace(FULL))
    assert len(digest(FULL)) == 16
    int(digest(FULL), 16)
    reordered = dict(reversed(to_dict(FULL).items()))
    assert digest(reordered) == digest(FULL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nane": 1}, "^nane: Outer has no such field; did you mean 'name'[?]$"),
        ({"zzz": 1}, "^zzz: Outer has no such field$"),
        ({"name": ...}, "^name: missing from a saved Outer$"),
        ({"share": ...}, "^share: missing from a saved Outer$"),  # though it has a default
        ({"name": 3}, "^name: expected str, got 3$"),
        ({"count": "3"}, "^count: expected int, got '3'$"),
        ({"count": 3.0}, "^count: expected int, got 3.0$"),
        ({"count": True}, "^count: expected int, got True$"),
        ({"share": True}, "^share: expected float, got True$"),
        ({"on": 1}, "^on: expected bool, got 1$"),
        ({"kind": "c"}, "^kind: 'c' is not one of 'a', 'b'$"),
        ({"limit": "x"}, "^limit: expected int, got 'x'$"),
        ({"place": 3}, "^place: expected a path, got 3$"),
        ({"place": None}, "^place: expected a path, got None$"),
        ({"pair": 3}, "^pair: expected a list, got 3$"),
        ({"pair": [1.0]}, r"^pair: expected 2 values, got \[1.0\]$"),
        ({"pair": [1.0, 2.0, 3.0]}, "^pair: expected 2 values, got "),
        ({"pair": [1.0, "x"]}, r"^pair\[1\]: expected float, got 'x'$"),
        ({"many": [1, 2.5]}, r"^many\[1\]: expected int, got 2.5$"),
        ({"inner": 3}, "^inner: expected an object, got 3$"),
        ({"inner": {"size": 1}}, "^inner.rate: missing from a saved Inner$"),
        ({"inner": {"size": "x", "rate": 1.0}}, "^inner.size: expected int, got 'x'$"),
        ({"inners": [{"size": 1, "rate": None}]}, r"^inners\[0\].rate: expected float, got None$"),
        ({"inner": {"size": 1, "rat": 1.0}}, "^inner.rat: Inner has no .*; did you mean 'rate'"),
        ({"names": {"k": "x"}}, "^names.k: expected int, got 'x'$"),
        ({"names": [1]}, r"^names: expected an object, got \[1\]$"),
        ({"choice": {"size": 1}}, "^choice.rate: missing from a saved Inner$"),
        ({"count": -1}, "^count -1 must be at least 0$"),  # the config's own check
    ],
)
def test_reading_is_strict_and_names_the_field(changes: dict[str, Any], message: str) -> None:
    data = {k: v for k, v in (to_dict(FULL) | changes).items() if v is not ...}
    with pytest.raises(ValueError, match=message):
        from_dict(Outer, data)


@pytest.mark.parametrize("data", [None, [], 3, "x"])
def test_rejects_what_is_no_object(data: Any) -> None:
    with pytest.raises(ValueError, match="Outer: expected an object, got "):
        from_dict(Outer, data)


def test_says_what_a_config_cannot_hold() -> None:
    with pytest.raises(TypeError, match=r"a config cannot hold .* of type function"):
        to_dict({"x": lambda: 0})
    with pytest.raises(TypeError, match=r"a config cannot hold .* of type type"):
        to_dict({"x": Outer})
