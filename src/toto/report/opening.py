"""The top of the page: what was done here, and the few numbers that say whether it worked."""

from toto.report.collect import Report
from toto.report.elements import Html, bar, element, join
from toto.report.results import Task, Verdict
from toto.report.words import count, duration, number, percent


def opening(report: Report) -> Html:
    """Say what the reader looks at, with the key numbers as tiles."""
    return element(
        "header",
        element("p", f"Toto, report of the run {report.name}", class_="eyebrow"),
        element("h1", "What a small model learned from watching videos"),
        element("p", _story(report), class_="lead"),
        element(
            "p",
            element("strong", "This is a small run. "),
            "It shows that every stage works and how to read its result. The data, the model and "
            "the tests are far smaller than the paper's (arXiv 2501.05453): no number here is "
            "comparable with a number there.",
            class_="note",
        ),
        element("div", *_numbers(report), class_="tiles"),
        element("div", *_headlines(report), class_="tiles wide"),
    )


def verdict_mark(verdict: Verdict) -> Html:
    """Say in words, not by colour alone, whether the trained network won."""
    passed = verdict.beats_untrained and verdict.beats_chance
    if passed:
        words = "✓ better than untrained and than chance"
    elif verdict.beats_untrained:
        words = "✗ better than untrained, not than chance"
    else:
        words = "✗ not better than untrained"
    return element("span", words, class_="mark pass" if passed else "mark fail")


def _story(report: Report) -> str:
    tokenizer, tokenize = report.tokenizer, report.tokenize
    codes = f" of {tokenizer.vocab_size:,} codes" if tokenizer else " of a fixed set of codes"
    grid = ""
    if tokenize is not None:
        rows, columns = tokenize.grid
        grid = f" as a grid of {rows} by {columns} patches"
    verb = "learned" if report.pretrain is not None else "has yet to learn"
    story = (
        f"A language model, but for video. Every frame was written down{grid}, each patch as "
        f"one{codes}, and a transformer {verb} to guess the next code from all codes before it. "
        "Nobody labelled anything. "
    )
    if report.probe is None:
        return story + "Whether it picked up what is in the videos was not tested in this run."
    return story + (
        "Did it pick up what is in the videos? To find out, small classifiers read its frozen "
        "layers, and the same classifiers read those of a network that was never trained."
    )


def _numbers(report: Report) -> list[Html]:
    pretrain, seconds = report.pretrain, {cost.stage: cost.wall_s for cost in report.costs}
    tiles = []
    if report.ingest is not None:
        clips = sum(source.clips for source in report.ingest.sources)
        length_s = sum(source.duration_s for source in report.ingest.sources)
        tiles.append(_tile("Video", duration(length_s), f"in {clips:,} clips"))
    if pretrain is not None:
        speed = pretrain.tokens_per_s
        pace = f"{count(speed)} a second" if speed else f"over {pretrain.steps:,} steps"
        guesses = [f"; {number(loss)} for {name}" for name, loss in pretrain.guesses[:1]]
        loss = "".join([pretrain.unit, *guesses])
        tiles.append(_tile("Model", count(pretrain.parameters), "parameters"))
        tiles.append(_tile("Tokens read in training", count(pretrain.tokens), pace))
        tiles.append(_tile("Held-out loss", number(pretrain.validation_loss), loss))
    if seconds:
        share = seconds.get("pretrain")
        note = "all stages" if share is None else f"of which {duration(share)} pre-training"
        tiles.append(_tile("Time", duration(sum(seconds.values())), note))
    return tiles


def _headlines(report: Report) -> list[Html]:
    tasks = report.probe.tasks if report.probe is not None else {}
    return [_headline(name, task) for name, task in tasks.items()]


def _headline(name: str, task: Task) -> Html:
    verdict = task.verdict
    rows = (
        ("trained", "trained", verdict.trained_mean, verdict.trained_sd),
        ("untrained", "untrained", verdict.untrained_mean, verdict.untrained_sd),
        ("chance", "baseline", task.chance, None),
    )
    lines = []
    for label, role, value, spread in rows:
        extra = "" if spread is None else f" ± {number(100 * spread, 1)}"
        figure = element("span", percent(value), element("small", extra), class_="value")
        lines.append(join((element("span", label), bar(value, role), figure)))
    return element(
        "div",
        element(
            "p",
            f"Probe: {name}, {task.classes} classes. Test accuracy, ± sd over seeds",
            class_="label",
        ),
        element("div", *lines, class_="bars"),
        verdict_mark(verdict),
        class_="tile",
    )


def _tile(label: str, value: str, note: str) -> Html:
    return element(
        "div",
        element("p", label, class_="label"),
        element("p", value, class_="big"),
        element("p", note, class_="small"),
        class_="tile",
    )
