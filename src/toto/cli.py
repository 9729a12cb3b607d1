"""`toto VERB [RECIPE] [--field value ...]`.

The fields of a job's config are its options, read by tyro. Only the verb that is asked for is
imported, so that `toto --help` answers without torch.
"""

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

VERBS: dict[str, str] = {
    "demo": "the whole path, from videos to a report, in minutes",
    "ingest": "check every video of a folder once, in isolation",
    "tokenizer": "train, convert, fetch or measure a tokenizer (toto tokenizer --help)",
    "tokenize": "turn a data folder into token shards",
    "pretrain": "train the decoder on the next token (recipes: toto list)",
    "probe": "what every layer knows of labelled clips, against an untrained model",
    "track": "follow a first-frame mask through clips by label propagation",
    "generate": "continue held-out clips",
    "report": "one HTML page of everything below a folder",
    "list": "recipes, tokenizers, models, data sets, protocols",
    "show": "what a recipe costs: parameters, FLOPs, memory (toto show pretrain 1b)",
    "doctor": "versions, decoder, device, disk, packages known to break others",
}
TOKENIZER_VERBS: dict[str, str] = {
    "train": "train one on images and clips (recipes: toto list)",
    "convert": "published weights on this machine, such as encoder.pkl decoder.pkl",
    "fetch": "download published weights and convert them, such as openai-dvae",
    "stats": "n-grams, use of codes, stability and quality of one tokenizer",
    "bench": "tokenizers side by side on the same images or clips",
}
# Threads spin briefly, then sleep, when they wait for each other. With one of 2 cores taken by
# another program a training step of the demo is 4 times faster for it (7.6 k tokens/s against 2 k
# and less), on idle cores 1.1 times slower. OpenMP reads it once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
HELP = frozenset({"-h", "--help"})
USAGE = "usage: toto VERB [RECIPE] [--field value ...]"


def main() -> None:
    """Run the command; exit 2 when the user can mend it, 1 when we must."""
    try:
        _main(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        fail(130, str(error) or "interrupted; what was finished is kept")
    except ValueError as error:
        _raise_if_asked()
        fail(2, str(error))
    except FileNotFoundError as error:
        _raise_if_asked()
        fail(2, f"{error.filename}: no such file or folder" if error.filename else str(error))
    except BrokenPipeError:
        # Whoever read our output has gone, as `toto list | head` does; that is no news to them.
        # Python would flush once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _raise_if_asked()
        fail(1, str(error))
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line, never a trace
        _raise_if_asked()
        fail(
            1,
            f"{type(error).__name__}: {error} (our fault; TOTO_TRACEBACK=1 shows where, "
            "please report it)",
        )


def _main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in {"-h", "--help"}:
        _say(help_text())
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        from toto import __version__

        _say(f"toto {__version__}")
        return
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        fail(2, f"no verb {verb!r}{_near(verb, VERBS)}; `toto --help` lists them")
    _run(verb, rest)


def help_text() -> str:
    """Say what the verbs are."""
    width = max(map(len, VERBS)) + 2
    lines = [USAGE, "", "Autoregressive pre-training from videos.", ""]
    lines += [f"  {verb:<{width}}{what}" for verb, what in VERBS.items()]
    lines += ["", "`toto VERB --help` lists the fields of a verb; start with `toto demo`."]
    return "\n".join(lines)


def fail(status: int, message: str) -> NoReturn:
    """End with one line on the error stream."""
    print("toto: " + " ".join(message.split()), file=sys.stderr)  # noqa: T201
    sys.exit(status)


def _raise_if_asked() -> None:
    if os.environ.get("TOTO_TRACEBACK"):
        raise


def _run(verb: str, rest: list[str]) -> None:
    if verb == "demo":
        _demo(rest)
    elif verb == "tokenizer":
        _tokenizer(rest)
    elif verb == "show":
        _show(rest)
    elif verb == "list":
        _list(rest)
    elif verb == "doctor":
        _doctor(rest)
    elif verb == "pretrain":
        from toto.recipes import PRETRAIN

        recipe, rest = _recipe(PRETRAIN, rest, verb)
        job, out = _parse(recipe(), rest, f"toto {verb}", Path("runs/pretrain"))
        result = job.run(out)
        if os.environ.get("RANK", "0") == "0":
            _say(f"validation loss {_number(result['validation_loss'])} {result['unit']}; {out}")
        if "RANK" in os.environ:
            _leave_at_once()
    else:
        _job(verb, rest)


def _leave_at_once() -> NoReturn:
    """End a rank of torchrun whose work is done and on disk, without the interpreter's shutdown.

    On a busy machine a rank that had just left its process group was seen to abort there
    ("terminate called without an active exception", exit -6); torchrun calls that a failed run.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _job(verb: str, rest: list[str]) -> None:
    """Verbs whose job has no recipe: the fields without a default must be given."""
    if verb == "ingest":
        from toto.recipes import INGEST

        recipe, rest = _recipe(INGEST, rest, verb, default="paper")
        rest = _long_names(rest, videos="--collection.videos")
        job, out = _parse(recipe(), rest, "toto ingest", Path("runs/data"))
        sources = job.run(out)["sources"]
        _say(f"{sources[0]['clips']} clips, {sources[0]['refused']} refused; {out}")
    elif verb == "tokenize":
        from toto.jobs.tokenize import Tokenize

        job, out = _parse(Tokenize, rest, "toto tokenize", Path("runs/shards"))
        tokens = sum(source["tokens"] for source in job.run(out)["sources"])
        _say(f"{tokens:,} tokens; {out}")
    elif verb == "probe":
        from toto.recipes import demo_probe

        job, out = _parse(demo_probe(), rest, "toto probe", Path("runs/probe"))
        for task in job.run(out)["tasks"].values():
            _say(task["verdict"]["sentence"])
    elif verb == "track":
        from toto.jobs.track import Track

        job, out = _parse(Track, rest, "toto track", Path("runs/track"))
        scores = job.run(out)["scores"]
        _say("; ".join(f"{kind}: J&F {100 * s['j_and_f']:.1f} %" for kind, s in scores.items()))
    elif verb == "generate":
        from toto.jobs.generate import Generate

        job, out = _parse(Generate, rest, "toto generate", Path("runs/generate"))
        _say(f"{job.run(out)['tokens_per_s']:.0f} tokens/s; strips and videos in {out}")
    elif verb == "report":
        from toto.jobs.report import WriteReport

        _, out = _parse(WriteReport(), rest, "toto report", Path("runs/demo"))
        _say(str(WriteReport().run(out).resolve()))


def _demo(rest: list[str]) -> None:
    from toto.recipes import DEMO

    rest = _long_names(rest, videos="--ingest.collection.videos")
    job, out = _parse(DEMO["demo"](), rest, "toto demo", Path("runs/demo"))
    if job.ingest.collection.videos is not None:
        job = _resolved(job)
    report = job.run(out)
    _say(f"report: {report.resolve()}")


def _resolved(job: Any) -> Any:
    collection = job.ingest.collection
    collection = dataclasses.replace(collection, videos=collection.videos.resolve())
    return dataclasses.replace(job, ingest=dataclasses.replace(job.ingest, collection=collection))


def _tokenizer(rest: list[str]) -> None:
    """The verbs of `toto tokenizer`."""
    if not rest or rest[0] in HELP:
        width = max(map(len, TOKENIZER_VERBS)) + 2
        _say("usage: toto tokenizer VERB [--field value ...]\n")
        for name, what in TOKENIZER_VERBS.items():
            _say(f"  {name:<{width}}{what}")
        sys.exit(0 if rest else 2)
    verb, rest = rest[0], rest[1:]
    if verb not in TOKENIZER_VERBS:
        known = ", ".join(TOKENIZER_VERBS)
        fail(2, f"no verb {verb!r}{_near(verb, TOKENIZER_VERBS)}; `toto tokenizer` has: {known}")
    program = f"toto tokenizer {verb}"
    if verb == "train":
        from toto.recipes import TOKENIZER

        recipe, rest = _recipe(TOKENIZER, rest, "tokenizer train", default="paper")
        rest = _long_names(rest, images="--sources.images", clips="--sources.clips")
        job, out = _parse(recipe(), rest, program, Path("runs/tokenizer"))
        result = job.run(out)
        _say(f"{result['psnr_db']:.1f} dB, {result['used_codes']} codes used; {out}")
    elif verb in {"convert", "fetch"}:
        from toto.jobs.convert import Convert, Fetch

        verb_job = Convert if verb == "convert" else Fetch
        job, out = _parse(verb_job, rest, program, Path("runs/tokenizer"))
        job.run(out)
        _say(f"open it with --tokenizer {out}")
    elif verb == "stats":
        from toto.jobs.tokenizer_stats import TokenizerStats
        from toto.report.token_tables import stats_table

        job, out = _parse(TokenizerStats(), rest, program, Path("runs/stats"))
        _say(f"{stats_table(job.run(out))}\n{out}")
    elif verb == "bench":
        from toto.jobs.tokenizer_bench import TokenizerBench
        from toto.report.token_tables import bench_table

        job, out = _parse(TokenizerBench(), rest, program, Path("runs/bench"))
        _say(f"{bench_table(job.run(out))}\n{out}")


def _show(rest: list[str]) -> None:
    from toto.jobs.show import as_json, describe
    from toto.recipes import PRETRAIN

    if rest and rest[0] in HELP:
        rest = ["pretrain", *rest]
    if not rest or rest[0] != "pretrain":
        fail(2, "`toto show` takes: pretrain RECIPE, such as `toto show pretrain 1b`")
    recipe, rest = _recipe(PRETRAIN, rest[1:], "show pretrain")
    job, _ = _parse(recipe(), rest, "toto show pretrain", Path())
    facts = list(describe(job))
    width = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        _say(f"{name:<{width}}{value}")
    _say(as_json(job))


def _list(rest: list[str]) -> None:
    if rest and rest[0] in HELP:
        _say(f"usage: toto list\n\n{VERBS['list']}")
        return
    if rest:
        fail(2, f"`toto list` takes nothing more, got {rest[0]!r}")
    from toto.models import MODELS
    from toto.probe.propagate import PROTOCOLS
    from toto.recipes import INGEST, PRETRAIN, TOKENIZER
    from toto.tokenizers import TOKENIZERS
    from toto.video.datasets import DATASETS

    tables = {
        "recipes of ingest": INGEST,
        "recipes of tokenizer train": TOKENIZER,
        "recipes of pretrain": PRETRAIN,
        "tokenizers": TOKENIZERS,
        "models": MODELS,
        "data sets": DATASETS,
        "tracking protocols": PROTOCOLS,
    }
    for what, table in tables.items():
        _say(f"{what}:")
        for name, entry in table.items():
            text = (getattr(entry, "__doc__", None) or "").strip().split("\n")[0]
            _say(f"  {name:<16}{text if callable(entry) else ''}".rstrip())


def _doctor(rest: list[str]) -> None:
    from toto.jobs.doctor import Doctor

    facts, troubles = _read_options(Doctor, rest, "toto doctor", Doctor.__doc__).run()
    width = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        _say(f"{name:<{width}}{value}")
    for trouble in troubles:
        _say(f"TROUBLE: {trouble}")
    if troubles:
        sys.exit(1)
    _say("no trouble found")


def _recipe(
    recipes: dict[str, Callable[[], Any]], rest: list[str], verb: str, default: str | None = None
) -> tuple[Callable[[], Any], list[str]]:
    """Take the recipe's name off the arguments."""
    known = ", ".join(recipes)
    if rest and rest[0] in HELP:
        # Every recipe has the same fields; show one that is whole.
        return recipes["demo"], rest
    if default is not None and (not rest or rest[0].startswith("-")):
        return recipes[default], rest
    if not rest or rest[0].startswith("-"):
        fail(2, f"`toto {verb}` needs a recipe: {known}")
    if rest[0] not in recipes:
        fail(2, f"no recipe {rest[0]!r}{_near(rest[0], recipes)}; there are: {known}")
    return recipes[rest[0]], rest[1:]


def _parse(job: Any, rest: list[str], program: str, out: Path) -> tuple[Any, Path]:
    """Read a job's fields and `--out`; `job` is a class, or an instance that holds the defaults."""
    import tyro

    cls, default = (job, dataclasses.MISSING) if isinstance(job, type) else (type(job), job)
    command = dataclasses.make_dataclass(
        "Command",
        [
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
        ],
        kw_only=True,
    )
    parsed = _read_options(command, rest, program, cls.__doc__)
    return parsed.job, parsed.out


def _read_options(cls: Any, rest: list[str], program: str, about: str | None) -> Any:
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


def _long_names(rest: list[str], **short: str) -> list[str]:
    """Spell out the options that have a short name, such as `--videos DIR`."""
    names = {f"--{name}": long for name, long in short.items()}
    found = []
    for argument in rest:
        name, equals, value = argument.partition("=")
        found.append(names.get(name, name) + equals + value)
    return found


def _near(name: str, known: Any) -> str:
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _say(text: str) -> None:
    print(text)  # noqa: T201
