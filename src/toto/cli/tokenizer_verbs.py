"""The verbs of `toto tokenizer`."""

import sys
from pathlib import Path

from toto.cli.options import HELP, fail, long_names, near, parse, recipe_of, say

TOKENIZER_VERBS: dict[str, str] = {
    "train": "train one on images and clips (recipes: toto list)",
    "convert": "published weights on this machine, such as encoder.pkl decoder.pkl",
    "fetch": "download published weights and convert them, such as openai-dvae",
    "stats": "n-grams, use of codes, stability and quality of one tokenizer",
    "bench": "tokenizers side by side on the same images or clips",
}


def tokenizer(rest: list[str]) -> None:
    """`toto tokenizer VERB`."""
    if not rest or rest[0] in HELP:
        width = max(map(len, TOKENIZER_VERBS)) + 2
        say("usage: toto tokenizer VERB [--field value ...]\n")
        for name, what in TOKENIZER_VERBS.items():
            say(f"  {name:<{width}}{what}")
        sys.exit(0 if rest else 2)
    verb, rest = rest[0], rest[1:]
    if verb not in TOKENIZER_VERBS:
        known = ", ".join(TOKENIZER_VERBS)
        fail(2, f"no verb {verb!r}{near(verb, TOKENIZER_VERBS)}; `toto tokenizer` has: {known}")
    program = f"toto tokenizer {verb}"
    if verb == "train":
        from toto.recipes import TOKENIZER

        recipe, rest = recipe_of(TOKENIZER, rest, "tokenizer train", default="paper")
        rest = long_names(rest, images="--sources.images", clips="--sources.clips")
        job, out = parse(recipe(), rest, program, Path("runs/tokenizer"))
        result = job.run(out)
        say(f"{result['psnr_db']:.1f} dB, {result['used_codes']} codes used; {out}")
    elif verb in {"convert", "fetch"}:
        from toto.jobs.convert import Convert, Fetch

        verb_job = Convert if verb == "convert" else Fetch
        job, out = parse(verb_job, rest, program, Path("runs/tokenizer"))
        job.run(out)
        say(f"open it with --tokenizer {out}")
    elif verb == "stats":
        from toto.jobs.tokenizer_stats import TokenizerStats
        from toto.report.token_tables import stats_table

        job, out = parse(TokenizerStats(), rest, program, Path("runs/stats"))
        say(f"{stats_table(job.run(out))}\n{out}")
    elif verb == "bench":
        from toto.jobs.tokenizer_bench import TokenizerBench
        from toto.report.token_tables import bench_table

        job, out = parse(TokenizerBench(), rest, program, Path("runs/bench"))
        say(f"{bench_table(job.run(out))}\n{out}")
