"""The verbs of `toto data`."""

from pathlib import Path

from toto.cli.options import parse, read_options, say, verb_of

DATA_VERBS: dict[str, str] = {
    "report": "what there is: clips, hours, tokens, losses, passes that a training run makes",
    "scale": "machines, hours and disk for many hours of video, from measured rates",
    "duplicates": "copies within and between data folders: exact, re-encoded, cropped, flipped",
    "block": "make a block list of evaluation sets, for `toto tokenize --block`",
    "import": "turn other projects' token files into token shards (commavq, lvm)",
}


def data(rest: list[str]) -> None:
    """`toto data VERB`."""
    verb, rest = verb_of("toto data", DATA_VERBS, rest)
    program = f"toto data {verb}"
    if verb == "report":
        from toto.jobs.data_report import DataReport
        from toto.report.data_tables import data_page

        job, out = parse(DataReport, rest, program, Path("runs/data-report"))
        say(f"{data_page(job.run(out))}\n{out}")
    elif verb == "scale":
        from toto.jobs.data_scale import DataScale

        facts = read_options(DataScale, rest, program, DataScale.__doc__).describe()
        width = max(len(name) for name, _ in facts) + 2
        for name, value in facts:
            say(f"{name:<{width}}{value}")
    elif verb == "duplicates":
        from toto.jobs.duplicates import Duplicates

        job, out = parse(Duplicates, rest, program, Path("runs/duplicates"))
        pairs = sum(kind["pairs"] for kind in job.run(out)["counts"])
        say(f"{pairs:,} copies; {out / 'duplicates.md'}")
    elif verb == "block":
        from toto.jobs.block import Block

        job, out = parse(Block, rest, program, Path("runs/block.parquet"))
        counts = ", ".join(f"{count:,} {what}" for what, count in job.run(out).items())
        say(f"{counts}; use it with `toto tokenize --block {out}`")
    elif verb == "import":
        from toto.jobs.import_tokens import ImportTokens

        job, out = parse(ImportTokens, rest, program, Path("runs/imported"))
        result = job.run(out)
        say(f"{sum(source['tokens'] for source in result['sources']):,} tokens; {out}")
