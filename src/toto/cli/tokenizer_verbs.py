"""The verbs of `toto tokenizer`."""

from pathlib import Path

from toto.cli.options import long_names, parse, recipe_of, say, verb_of

TOKENIZER_VERBS: dict[str, str] = {
    "train": "train one on images and clips (recipes: toto list)",
    "convert": "published weights on this machine, such as encoder.pkl decoder.pkl",
    "fetch": "download published weights and convert them, such as openai-dvae",
    "stats": "n-grams, use of codes, stability and quality of one tokenizer",
    "bench": "tokenizers side by side on the same images or clips",
}


def tokenizer(rest: list[str]) -> None:
    """`toto tokenizer VERB`."""
    verb, rest = verb_of("toto tokenizer", TOKENIZER_VERBS, rest)
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
