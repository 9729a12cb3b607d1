"""What the site's pages say that is worked out from the code: verbs, options, recipes, notebooks.

A page asks for it with a comment, `<!-- made: options pretrain -->`, which stands for nothing where
Markdown is read as it is. Needs no Sphinx, so tests can ask the same.
"""

import contextlib
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from toto import cli
from toto.models.flops import model_cost
from toto.recipes import FINETUNE, INGEST, PRETRAIN, PROBE, TOKENIZER

Recipes = Mapping[str, Callable[[], Any]]
Table = tuple[list[str], list[list[str]]]
"""Heads and rows."""
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
RECIPES: dict[str, Recipes] = {
    "pretrain": PRETRAIN,
    "finetune": FINETUNE,
    "probe": PROBE,
    "tokenizer": TOKENIZER,
    "ingest": INGEST,
}
MARK = re.compile(r"^<!-- made: (\w+) (.+?) -->$", flags=re.MULTILINE)
COLUMNS = 100
"""Of the help: wider, and its boxes would stand side by side."""
GIVEN = "must be given"


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """A field of a verb.

    Attributes:
        name: with what it takes, such as `--lr FLOAT`.
        text: what it means.
        default: its value if left out, or `GIVEN`.
    """

    name: str
    text: str
    default: str


@cache
def help_of(verb: str) -> str:
    """What `toto VERB --help` prints."""
    # In UTF-8, or the help would have no boxes.
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    before = sys.argv, os.environ.get("COLUMNS")
    sys.argv, os.environ["COLUMNS"] = ["toto", *verb.split(), "--help"], str(COLUMNS)
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            cli.main()
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before[1]
    said.seek(0)
    return re.sub(r"\x1b\[[0-9;]*m", "", said.read())


@cache
def verbs() -> dict[str, str]:
    """Every verb with its purpose; `data` and others like it are followed by their own verbs."""
    found = {}
    for verb, what in cli.VERBS.items():
        found[verb] = _without_hint(what)
        if f"usage: toto {verb} VERB" in help_of(verb):
            for name, own in re.findall(r"^  (\w+) +(.+)$", help_of(verb), flags=re.MULTILINE):
                found[f"{verb} {name}"] = _without_hint(own)
    return found


def _without_hint(what: str) -> str:
    """Leave out what is of use in a terminal only, such as `(recipes: toto list)`."""
    return re.sub(r" \([^()]*\btoto [^()]*\)$", "", what)


def purpose(verb: str) -> str:
    """A sentence on what the verb is for."""
    said = verbs()[verb]
    return f"{said[0].upper()}{said[1:]}."


def options(verb: str) -> dict[str, list[Option]]:
    """The fields of a verb, by the heading that the help has over them."""
    found: dict[str, list[Option]] = {}
    for box in re.findall(r"^╭─ (.*?)^╰", help_of(verb), flags=re.MULTILINE | re.DOTALL):
        title, *framed = box.splitlines()
        lines = [line.strip("│").removeprefix(" ").rstrip() for line in framed]
        # What stands above a rule is about the group.
        rule = next((n for n, line in enumerate(lines) if line and not line.strip("─")), -1)
        entries: list[list[str]] = []
        for line in lines[rule + 1 :]:
            if line.startswith(" "):
                entries[-1].append(line)
            elif line:
                entries.append(re.split(r" {2,}", line, maxsplit=1))
        read = [_option(entry) for entry in entries if not entry[0].startswith("-h, ")]
        if read:
            found[title.strip("─╮ ")] = read
    return found


def _option(entry: list[str]) -> Option:
    name, *said = entry
    text = " ".join(" ".join(said).split())
    if text.endswith("(required)"):
        return Option(name=name, text=text.removesuffix("(required)").strip(), default=GIVEN)
    text, _, default = text.rpartition("(default: ")
    return Option(name=name, text=text.strip(), default=default.removesuffix(")").strip())


def options_table(verb: str) -> str:
    """The fields of a verb, folded away; those of each part of the config in a table of its own."""
    groups = options(verb)
    count = sum(map(len, groups.values()))
    lines = [
        "<details>",
        f"<summary>{count} option{'s' if count > 1 else ''} of <code>toto {verb}</code></summary>",
        "",
    ]
    for title, entries in groups.items():
        if len(groups) > 1:
            lines += [f"**{title}**", ""]
        rows = [
            [
                _code(entry.name),
                entry.text,
                GIVEN if entry.default == GIVEN else _code(entry.default),
            ]
            for entry in entries
        ]
        lines += [*_table(["option", "what it means", "default"], rows), ""]
    return "\n".join([*lines, "</details>"])


def recipe_table(verb: str) -> str:
    """Every recipe of a verb, from its config and its docstring."""
    return "\n".join(_table(*_RECIPE_TABLES.get(verb, _plain_recipes)(RECIPES[verb])))


def _pretraining_recipes(recipes: Recipes) -> Table:
    rows = []
    for name, recipe in recipes.items():
        job = recipe()
        model = job.model
        tokens = job.steps * job.batch * model.context
        rows.append(
            [
                f"`{name}`",
                _first_line(recipe),
                f"{model_cost(model).parameters / 1e6:,.1f} M",
                f"{model.width} x {model.depth}",
                f"{model.context:,}",
                f"{job.steps:,} x {job.batch}",
                f"{tokens / 1e9:,.1f} B" if tokens > 1e8 else f"{tokens / 1e6:,.1f} M",
                _expected(recipe),
            ]
        )
    heads = ["recipe", "what it is", "parameters", "width x depth", "context", "steps x batch"]
    return [*heads, "tokens", "expected"], rows


def _plain_recipes(recipes: Recipes) -> Table:
    rows = [[f"`{n}`", _first_line(recipe), _expected(recipe)] for n, recipe in recipes.items()]
    if not any(expected for *_, expected in rows):
        return ["recipe", "what it is"], [row[:2] for row in rows]
    return ["recipe", "what it is", "expected"], rows


_RECIPE_TABLES = {"pretrain": _pretraining_recipes}


def _first_line(recipe: Callable[[], Any]) -> str:
    return (inspect.getdoc(recipe) or "").partition("\n")[0]


def _expected(recipe: Callable[[], Any]) -> str:
    """The docstring's word on what comes out."""
    found = re.search(
        r"Expected: (.*?)(?:\n\n|\nCommand:|\Z)", inspect.getdoc(recipe) or "", re.DOTALL
    )
    return " ".join(found[1].split()) if found else ""


def notebook(name: str) -> str:
    """A notebook's cells as Markdown, without its title, which the page has."""
    parts = []
    for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return re.sub(r"\A# .*\n+", "", "\n\n".join(parts))


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _table(heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table."""
    for cells in (heads, ["---"] * len(heads), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


MAKERS: dict[str, Callable[[str], str]] = {
    "verb": purpose,
    "options": options_table,
    "recipes": recipe_table,
    "notebook": notebook,
}


def fill(page: str) -> str:
    """Put what was asked for in the place of every mark.

    Raises:
        KeyError: if there is no such kind, verb, table or notebook.
    """
    return MARK.sub(lambda mark: MAKERS[mark[1]](mark[2]), page)
