"""What each verb does: read its options, run its job, say the outcome in a line.

A verb imports its job when it runs, so that `toto --help` answers without torch.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toto.cli.data_verbs import data
from toto.cli.options import (
    HELP,
    fail,
    near,
    number,
    parse,
    read_options,
    recipe_of,
    say,
    take,
    verb_of,
)
from toto.cli.tokenizer_verbs import tokenizer


def demo(rest: list[str]) -> None:
    """`toto demo [--videos DIR]`."""
    from toto.recipes import DEMO
    from toto.recipes.data import own_videos

    videos, rest = take(rest, "videos")
    job = DEMO["demo"]()
    if videos is not None:
        job = dataclasses.replace(job, ingest=own_videos(job.ingest, Path(videos).resolve()))
    job, out = parse(job, rest, "toto demo", Path("runs/demo"))
    say(f"report: {job.run(out).resolve()}")


def ingest(rest: list[str]) -> None:
    """`toto ingest [RECIPE] [--videos DIR]`, or `toto ingest DATASET ROOT`."""
    from toto.jobs.ingest import Ingest, Workers
    from toto.recipes import INGEST
    from toto.recipes.data import own_videos
    from toto.video.datasets import DATASETS, SampleClips

    program = "toto ingest"
    if rest and rest[0] in DATASETS:
        name, *rest = rest
        program = f"toto ingest {name}"
        if name == "sample_clips":
            job = Ingest(dataset=SampleClips())
        else:
            program += " ROOT"
            if rest and rest[0] in HELP:
                rest = ["ROOT", *rest]
            elif not rest or rest[0].startswith("-"):
                fail(2, f"`toto ingest {name}` needs the folder of the data set: {program}")
            root, *rest = rest
            reader: Any = DATASETS[name]
            job = Ingest(dataset=reader(root=Path(root)))
    else:
        known = {**INGEST, **dict.fromkeys(DATASETS)}
        if rest and not rest[0].startswith("-") and rest[0] not in INGEST:
            names = ", ".join(known)
            fail(2, f"no data set or recipe {rest[0]!r}{near(rest[0], known)}; there are: {names}")
        recipe, rest = recipe_of(INGEST, rest, "ingest", default="paper")
        videos, rest = take(rest, "videos")
        job = recipe() if videos is None else own_videos(recipe(), Path(videos))
    job, out, workers = parse(job, rest, program, Path("runs/data"), workers=Workers())
    result = job.run(out, workers)
    real = [s for s in result["sources"] if not s["name"].startswith("moving-digits/")]
    losses = ", ".join(f"{count} {what}" for what, count in result["losses"].items())
    say(
        f"{sum(source['clips'] for source in real):,} clips; lost: {losses or 'none'}; damaged: "
        f"{result['damaged_clips']}; {out}"
    )


def tokenize(rest: list[str]) -> None:
    """`toto tokenize --data FOLDER ... [--ray local]`."""
    from toto.jobs.tokenize import Tokenize, TokenizeWorkers

    workers = TokenizeWorkers()
    job, out, workers = parse(Tokenize, rest, "toto tokenize", Path("runs/shards"), workers=workers)
    tokens = sum(source["tokens"] for source in job.run(out, workers)["sources"])
    say(f"{tokens:,} tokens; {out}")


def verify(rest: list[str]) -> None:
    """`toto verify SHARDS`; exit status 1 if anything is damaged."""
    from toto.jobs.verify import Verify

    if rest and not rest[0].startswith("-"):
        rest = ["--shards", *rest]
    job = read_options(Verify, rest, "toto verify", Verify.__doc__)
    result = job.run()
    for line in result.lines():
        say(line)
    if not result.good:
        sys.exit(1)


def pretrain(rest: list[str]) -> None:
    """`toto pretrain RECIPE --shards SHARDS`."""
    from toto.recipes import PRETRAIN
    from toto.runtime.parallel import Parallel

    recipe, rest = recipe_of(PRETRAIN, rest, "pretrain")
    job, out, parallel = parse(
        recipe(), rest, "toto pretrain", Path("runs/pretrain"), workers=Parallel()
    )
    result = job.run(out, parallel)
    if os.environ.get("RANK", "0") == "0":
        say(f"validation loss {number(result['validation_loss'])} {result['unit']}; {out}")


def finetune(rest: list[str]) -> None:
    """`toto finetune RECIPE --run-folder RUN --shards SHARDS`."""
    from toto.recipes import FINETUNE
    from toto.runtime.parallel import Parallel

    recipe, rest = recipe_of(FINETUNE, rest, "finetune")
    job, out, parallel = parse(
        recipe(), rest, "toto finetune", Path("runs/finetune"), workers=Parallel()
    )
    result = job.run(out, parallel)
    if os.environ.get("RANK", "0") == "0":
        asked = result["clips"]["test"] + len(result["lost"])
        lone = f" ({100 * result['test_accuracy_one_view']:.1f} % by one)"
        say(
            f"{result['task']}: {100 * result['test_accuracy']:.1f} % of {asked:,} test clips by "
            f"layer {result['layer']}, {result['views']} views"
            f"{'' if result['views'] == '1x1' else lone}, chance {100 * result['chance']:.1f} %; "
            f"{out}"
        )
        _say_lost(result)


def _say_lost(result: dict[str, Any]) -> None:
    """Name the test clips that were lost."""
    lost = result["lost"]
    if lost:
        more = f", ... ({len(lost)} in all)" if len(lost) > 10 else ""
        say(f"missing or undecodable, and counted as wrong: {', '.join(lost[:10])}{more}")


def status(rest: list[str]) -> None:
    """`toto status RUN [--verify] [--json]`."""
    from toto.jobs.status import Status, as_json, as_text

    if rest and not rest[0].startswith("-"):
        rest = ["--run-folder", *rest]
    job = read_options(Status, rest, "toto status", Status.__doc__)
    found = job.run()
    say(as_json(found) if job.json else "\n".join(as_text(found)))


def probe(rest: list[str]) -> None:
    """`toto probe [RECIPE]`."""
    from toto.recipes import PROBE

    recipe, rest = recipe_of(PROBE, rest, "probe", default="demo")
    job, out = parse(recipe(), rest, "toto probe", Path("runs/probe"))
    result = job.run(out)
    for task in result["tasks"].values():
        say(task["verdict"]["sentence"])
    _say_lost(result)


def track(rest: list[str]) -> None:
    """`toto track`, or `toto track --davis ROOT`."""
    if any(argument.partition("=")[0] == "--davis" for argument in rest):
        from toto.jobs.track_davis import TrackDavis, cross_table

        job, out = parse(TrackDavis, rest, "toto track", Path("runs/track-davis"))
        say(f"{cross_table(job.run(out))}\n{out}")
        return
    from toto.jobs.track import Track

    job, out = parse(Track, rest, "toto track", Path("runs/track"))
    scores = job.run(out)["scores"]
    say("; ".join(f"{kind}: J&F {100 * s['j_and_f']:.1f} %" for kind, s in scores.items()))


def ledger(rest: list[str]) -> None:
    """`toto ledger FOLDER...`; exit status 1 if a score is not what its answers give."""
    from toto.jobs.ledger import Ledger, as_json, as_text

    if rest and not rest[0].startswith("-"):
        rest = ["--folders", *rest]
    job = read_options(Ledger, rest, "toto ledger", Ledger.__doc__)
    entries = job.run()
    say(as_json(entries) if job.json else "\n".join(as_text(entries)))
    if any(entry.troubles for entry in entries):
        sys.exit(1)


def score(rest: list[str]) -> None:
    """`toto score davis --gt DIR --pred DIR [--merge-objects] [--json]`."""
    verbs = {"davis": "J and F of masks in the official layout, as the official code has them"}
    _, rest = verb_of("toto score", verbs, rest)
    from toto.jobs.score_davis import ScoreDavis, score_table

    job = read_options(ScoreDavis, rest, "toto score davis", ScoreDavis.__doc__)
    result = job.run()
    say(json.dumps(result) if job.json else score_table(result))


def generate(rest: list[str]) -> None:
    """`toto generate`."""
    from toto.jobs.generate import Generate

    job, out = parse(Generate, rest, "toto generate", Path("runs/generate"))
    result = job.run(out)
    for group, found in result["groups"].items():
        for verdict in found["verdicts"].values():
            say(f"{group}: {verdict['sentence']}")
    say(f"{result['tokens_per_s']:.0f} tokens/s; strips and videos in {out}")


def stream(rest: list[str]) -> None:
    """`toto stream RUN VIDEO [--every N]`."""
    from toto.jobs.stream import StreamVideo, as_text

    for name in ("--run-folder", "--video"):
        if rest and not rest[0].startswith("-"):
            # At the end, so that the second is the first now.
            rest = [*rest[1:], f"{name}={rest[0]}"]
    job, out = parse(StreamVideo, rest, "toto stream", Path("runs/stream"))
    say(f"{as_text(job.run(out))}\n{out}")


def app(rest: list[str]) -> None:
    """`toto app RUN`; until Ctrl-C."""
    from toto.app.options import App
    from toto.app.page import build_page
    from toto.app.serve import PageServer

    asked = read_options(App, rest, "toto app", App.__doc__)
    with PageServer(asked.serve) as server:
        say(f"{server.url} (Ctrl-C ends it)")
        sys.stdout.flush()
        server.run(lambda: build_page(asked.run_folder, asked.page))


def export(rest: list[str]) -> None:
    """`toto export RUN --out DIR`."""
    from toto.jobs.export import Export

    job, out = parse(Export, rest, "toto export", Path("runs/export"))
    result = job.run(out)
    say(f"{result['parameters']:,} parameters, step {result['step']}; {out}")


def import_model(rest: list[str]) -> None:
    """`toto import DIR --out RUN`."""
    from toto.jobs.import_model import ImportModel

    job, out = parse(ImportModel, rest, "toto import", Path("runs/import"))
    result = job.run(out)
    say(f"{result['parameters']:,} parameters, step {result['step']}; {out}")


def study(rest: list[str]) -> None:
    """`toto study VERB`."""
    verbs = {
        "mup": "the best learning rate of each width",
        "layers": "what every layer of a run knows of labelled clips, by every head",
    }
    verb, rest = verb_of("toto study", verbs, rest)
    if verb == "layers":
        from toto.jobs.study_layers import LayerStudy

        job, out = parse(LayerStudy, rest, "toto study layers", Path("runs/layers"))
        say(f"{job.run(out)['verdict']['sentence']}\n{out}")
        return
    from toto.jobs.study import MupStudy
    from toto.report.study_plots import transfer_table

    job, out = parse(MupStudy(), rest, "toto study mup", Path("runs/mup"))
    say(f"{transfer_table(job.run(out))}\n{out}")


def report(rest: list[str]) -> None:
    """`toto report`."""
    from toto.jobs.report import WriteReport

    _, out = parse(WriteReport(), rest, "toto report", Path("runs/demo"))
    say(str(WriteReport().run(out).resolve()))


def show(rest: list[str]) -> None:
    """`toto show pretrain RECIPE [--world N] [--device-gb 80]`."""
    from toto.jobs.show import as_json, describe
    from toto.recipes import PRETRAIN
    from toto.runtime.parallel import Parallel

    if rest and rest[0] in HELP:
        rest = ["pretrain", *rest]
    if not rest or rest[0] != "pretrain":
        fail(2, "`toto show` takes: pretrain RECIPE, such as `toto show pretrain 1b`")
    recipe, rest = recipe_of(PRETRAIN, rest[1:], "show pretrain")
    world, rest = take(rest, "world")
    device_gb, rest = take(rest, "device-gb")
    job, _, parallel = parse(recipe(), rest, "toto show pretrain", Path(), workers=Parallel())
    asked = {"world": world or "1", "device-gb": device_gb or "80"}
    for name, value in asked.items():
        if not value.isdecimal() or int(value) == 0:
            fail(2, f"--{name} {value!r} is not a whole number from 1 on")
    ranks, memory_gb = (int(value) for value in asked.values())
    facts = list(describe(job, parallel, world=ranks, device_gb=memory_gb))
    width = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        say(f"{name:<{width}}{value}")
    say(as_json(job))


def list_tables(rest: list[str]) -> None:
    """`toto list`."""
    if rest and rest[0] in HELP:
        from toto.cli import VERBS

        say(f"usage: toto list\n\n{VERBS['list']}")
        return
    if rest:
        fail(2, f"`toto list` takes nothing more, got {rest[0]!r}")
    from toto.models import MODELS
    from toto.probe.protocols import PROTOCOLS
    from toto.probe.transformers_encoder import FAMILIES
    from toto.recipes import FINETUNE, INGEST, PRETRAIN, PROBE, TOKENIZER
    from toto.tokenizers import TOKENIZERS
    from toto.video.datasets import DATASETS

    tables = {
        "recipes of ingest": INGEST,
        "recipes of tokenizer train": TOKENIZER,
        "recipes of pretrain": PRETRAIN,
        "recipes of finetune": FINETUNE,
        "recipes of probe": PROBE,
        "tokenizers": TOKENIZERS,
        "models": MODELS,
        "data sets": DATASETS,
        "tracking protocols": PROTOCOLS,
        "encoders of transformers": FAMILIES,
    }
    for what, table in tables.items():
        say(f"{what}:")
        for name, entry in table.items():
            text = (getattr(entry, "__doc__", None) or "").strip().split("\n")[0]
            say(f"  {name:<18}{text if callable(entry) else ''}".rstrip())


def doctor(rest: list[str]) -> None:
    """`toto doctor`."""
    from toto.jobs.doctor import Doctor

    facts, troubles = read_options(Doctor, rest, "toto doctor", Doctor.__doc__).run()
    width = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        say(f"{name:<{width}}{value}")
    for trouble in troubles:
        say(f"TROUBLE: {trouble}")
    if troubles:
        sys.exit(1)
    say("no trouble found")


RUN: dict[str, Callable[[list[str]], None]] = {
    "demo": demo,
    "ingest": ingest,
    "data": data,
    "tokenizer": tokenizer,
    "tokenize": tokenize,
    "verify": verify,
    "pretrain": pretrain,
    "status": status,
    "finetune": finetune,
    "probe": probe,
    "track": track,
    "score": score,
    "ledger": ledger,
    "generate": generate,
    "stream": stream,
    "app": app,
    "export": export,
    "import": import_model,
    "study": study,
    "report": report,
    "list": list_tables,
    "show": show,
    "doctor": doctor,
}
