"""`toto VERB [RECIPE] [--field value ...]`.

The fields of a job's config are its options, read by tyro. Only the verb that is asked for is
imported, so that `toto --help` answers without torch.
"""

import os
import sys

from toto.cli.options import fail, near, raise_if_asked, say

VERBS: dict[str, str] = {
    "demo": "the whole path, from videos to a report, in minutes",
    "ingest": "check every file of a data set once, in isolation (data sets: toto list)",
    "data": "report on, compare, guard and import data (toto data --help)",
    "tokenizer": "train, convert, fetch or measure a tokenizer (toto tokenizer --help)",
    "tokenize": "turn ingested data into certified token shards",
    "verify": "check token shards, and encode a sample of their clips again",
    "pretrain": "train the decoder on the next token (recipes: toto list)",
    "status": "where a run stands, its forecast, and whether its curve looks well",
    "finetune": "train a run on labels, as a whole or by probes (recipes: toto list)",
    "probe": "what every layer knows of labelled clips, against an untrained model",
    "track": "follow a first-frame mask through clips by label propagation (DAVIS: --davis ROOT)",
    "score": "score masks that any method wrote (toto score davis --help)",
    "ledger": "every score below a folder, computed again, beside the paper's",
    "generate": "continue held-out clips",
    "stream": "push a video's frames through a run's model one by one, and time them",
    "app": "try a run in the browser: what it reads, sees, follows and expects",
    "export": "write a run's model as a folder that stock transformers loads",
    "import": "read such a folder back into a run",
    "study": "a question asked of many small models (toto study --help)",
    "report": "one HTML page of everything below a folder",
    "list": "recipes, tokenizers, models, data sets, protocols",
    "show": "what a recipe costs: parameters, FLOPs, memory (toto show pretrain 1b)",
    "doctor": "versions, decoder, device, disk, packages known to break others",
}
# Threads spin briefly, then sleep, when they wait for each other. With one of 2 cores taken by
# another program a training step of the demo is 4 times faster for it (7.6 k tokens/s against 2 k
# and less), on idle cores 1.1 times slower. OpenMP reads it once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
USAGE = "usage: toto VERB [RECIPE] [--field value ...]"


def main() -> None:
    """Run the command; exit 2 when the user can mend it, 1 when we must.

    A run that was stopped and has saved exits as its `StoppedError` says: 130 after Ctrl-C, 75
    after SIGTERM or SIGUSR1, so that a scheduler can tell that the same command goes on.
    """
    try:
        _main(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        code = getattr(error, "exit_code", 130)
        fail(code, str(error) or "interrupted; what was finished is kept")
    except ValueError as error:
        raise_if_asked()
        fail(2, str(error))
    except FileNotFoundError as error:
        raise_if_asked()
        fail(2, f"{error.filename}: no such file or folder" if error.filename else str(error))
    except BrokenPipeError:
        # Whoever read our output has gone, as `toto list | head` does; that is no news to them.
        # Python would flush once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        raise_if_asked()
        fail(1, str(error))
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line, never a trace
        raise_if_asked()
        fail(
            1,
            f"{type(error).__name__}: {error} (our fault; TOTO_TRACEBACK=1 shows where, "
            "please report it)",
        )


def _main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in {"-h", "--help"}:
        say(help_text())
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        from toto import __version__

        say(f"toto {__version__}")
        return
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        fail(2, f"no verb {verb!r}{near(verb, VERBS)}; `toto --help` lists them")
    from toto.cli.verbs import RUN

    RUN[verb](rest)


def help_text() -> str:
    """Say what the verbs are."""
    width = max(map(len, VERBS)) + 2
    lines = [USAGE, "", "Autoregressive pre-training from videos.", ""]
    lines += [f"  {verb:<{width}}{what}" for verb, what in VERBS.items()]
    lines += ["", "`toto VERB --help` lists the fields of a verb; start with `toto demo`."]
    return "\n".join(lines)
