"""Options of the command line: the fields of a job's config, read by tyro."""

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

HELP = frozenset({"-h", "--help"})


def fail(status: int, message: str) -> NoReturn:
    """End with one line on the error stream."""
    print("toto: " + " ".join(message.split()), file=sys.stderr)  # noqa: T201
    sys.exit(status)


def raise_if_asked() -> None:
    """Raise again what is being handled, for those who want to see where it came from."""
    if os.environ.get("TOTO_TRACEBACK"):
        raise


def recipe_of(
    recipes: dict[str, Callable[[], Any]], rest: list[str], verb: str, default: str | None = None
) -> tuple[Callable[[], Any], list[str]]:
    """Take the recipe's name off the arguments."""
    known = ", ".join(recipes)
    if rest and rest[0] in HELP:
        # Every recipe has the same fields; show one that is whole.
        return recipes.get("demo", next(iter(recipes.values()))), rest
    if default is not None and (not rest or rest[0].startswith("-")):
        return recipes[default], rest
    if not rest or rest[0].startswith("-"):
        fail(2, f"`toto {verb}` needs a recipe: {known}")
    if rest[0] not in recipes:
        fail(2, f"no recipe {rest[0]!r}{near(rest[0], recipes)}; there are: {known}")
    return recipes[rest[0]], rest[1:]


def parse(job: Any, rest: list[str], program: str, out: Path, *, workers: Any = None) -> Any:
    """Read a job's fields and `--out`.

    Args:
        job: a class, or an instance that holds the defaults.
        rest: the arguments.
        program: for the help.
        out: default of `--out`.
        workers: defaults of what is asked beside the job and is no part of its config.

    Returns:
        The job and the folder; and the workers, if they are given.
    """
    import tyro

    cls, default = (job, dataclasses.MISSING) if isinstance(job, type) else (type(job), job)
    fields: list[Any] = [
        (
            "job",
            Annotated[cls, tyro.conf.arg(name="")],
            dataclasses.field()
            if default is dataclasses.MISSING
            else dataclasses.field(default=default),
        ),
        (
            "out",
            Annotated[Path, tyro.conf.arg(help="Folder of the run; made if need be.")],
            dataclasses.field(default=out),
        ),
    ]
    if workers is not None:
        beside = Annotated[type(workers), tyro.conf.arg(name="")]
        fields.append(("workers", beside, dataclasses.field(default=workers)))
    command = dataclasses.make_dataclass("Command", fields, kw_only=True)
    parsed = read_options(command, rest, program, cls.__doc__)
    return (parsed.job, parsed.out) if workers is None else (parsed.job, parsed.out, parsed.workers)


def read_options(cls: Any, rest: list[str], program: str, about: str | None) -> Any:
    """Let tyro read the options; its complaint, a box of many lines, becomes one."""
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                cls,
                args=rest,
                prog=program,
                description=about,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as ended:
        if ended.code:
            fail(2, f"{unboxed(complaint.getvalue())}; `{program} --help` lists the fields")
        raise


def unboxed(complaint: str) -> str:
    """Give a complaint of tyro's as one line, without frame, colours and its last paragraph."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", complaint).partition("For full helptext")[0]
    # The first line is a title. Where the output takes no box characters, only rules remain.
    lines = [line.strip("│ ") for line in plain.strip().splitlines()[1:] if line[:1] != "╰"]
    words = " ".join("; " if not line.strip("─-") else line for line in lines)
    return " ".join(words.split()).replace(" ;", ";").strip("; ")


def long_names(rest: list[str], **short: str) -> list[str]:
    """Spell out the options that have a short name, such as `--images DIR`."""
    names = {f"--{name}": long for name, long in short.items()}
    found = []
    for argument in rest:
        name, equals, value = argument.partition("=")
        found.append(names.get(name, name) + equals + value)
    return found


def verb_of(program: str, verbs: dict[str, str], rest: list[str]) -> tuple[str, list[str]]:
    """Take the second verb off the arguments, or say which there are and end."""
    if not rest or rest[0] in HELP:
        width = max(map(len, verbs)) + 2
        say(f"usage: {program} VERB [--field value ...]\n")
        for name, what in verbs.items():
            say(f"  {name:<{width}}{what}")
        sys.exit(0 if rest else 2)
    if rest[0] not in verbs:
        known = ", ".join(verbs)
        fail(2, f"no verb {rest[0]!r}{near(rest[0], verbs)}; `{program}` has: {known}")
    return rest[0], rest[1:]


def take(rest: list[str], name: str) -> tuple[str | None, list[str]]:
    """Take `--name VALUE` or `--name=VALUE` off the arguments."""
    for place, argument in enumerate(rest):
        if argument == f"--{name}":
            if place + 1 == len(rest):
                fail(2, f"--{name} needs a value")
            return rest[place + 1], rest[:place] + rest[place + 2 :]
        if argument.startswith(f"--{name}="):
            return argument.partition("=")[2], rest[:place] + rest[place + 1 :]
    return None, rest


def near(name: str, known: Any) -> str:
    """Ask whether the nearest known name was meant, if there is one."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def number(value: float | None) -> str:
    """Print a number that may not be there."""
    return "-" if value is None else f"{value:.3f}"


def say(text: str) -> None:
    """Print a result; progress and errors go to the error stream."""
    print(text)  # noqa: T201
