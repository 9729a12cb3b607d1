"""The sections on what went in and what was trained: data, tokenizer, pre-training, rates."""

from collections.abc import Sequence

from toto.report import figures
from toto.report.collect import Report
from toto.report.elements import (
    Html,
    caption,
    details,
    element,
    figure,
    join,
    key,
    legend,
    picture,
    table,
    unfinished,
)
from toto.report.results import Ingest, MupStudy, Pretrain, Problem, Sweep, Tokenize, Tokenizer
from toto.report.study_plots import NAMES, how_it_moved
from toto.report.words import count, duration, number, percent

LONG_LIST = 6
"""A list of problem files longer than this is folded."""


def data(ingest: Ingest) -> Html:
    """Say which videos went in and which did not."""
    rows = [
        (s.name, f"{s.clips:,}", f"{s.frames:,}", duration(s.duration_s), f"{s.lost:,}")
        for s in ingest.sources
    ]
    return join((
        element("p", "Every file is opened in a separate process and checked before it is used."),
        table(("source", "clips", "frames", "length", "lost"), rows),
        _problems("Lost clips", ingest.lost, "No clip was lost."),
        _problems("Damaged clips, read as far as they go", ingest.damaged, "No clip was damaged."),
    ))  # fmt: skip


def tokenizer(report: Report, result: Tokenizer) -> Html:
    """Show what the codes keep of a picture, and how it got there."""
    curves = report.tokenizer_curves
    titles = {
        "nll": ("Reconstruction loss", "nats a value"),
        "loss": ("Loss", "as optimised"),
        "perplexity": ("Codes in effective use", "perplexity"),
    }
    shown = [name for name in ("nll", "perplexity") if name in curves] or ["loss"]
    panels = [
        figures.over_steps(curves[n], name=f"tokenizer-{n}", title=titles[n][0], unit=titles[n][1])
        for n in shown
        if n in curves
    ]
    parts = [element("p", _quality(result))]
    if report.reconstructions is not None:
        image = picture(report.reconstructions, "Real frames above, their reconstructions below")
        words = caption(
            axes="Frames the tokenizer was not trained on (top) and what is left of them after "
            "they were turned into codes and back (bottom).",
            look="Shapes should be in the right place; fine texture is lost. What is blurred here "
            "is invisible to the model that reads the codes.",
            limits="A few frames, not a measurement; the numbers above are the measurement.",
        )
        parts.append(figure([image], words, wide=True))
    if panels:
        words = caption(
            axes="Quantities logged while the tokenizer learned, against the optimiser step; long "
            "logs are averaged over short stretches.",
            look="The loss should fall and level off. Perplexity says how many codes are in use, "
            "weighted by how often: a fall towards 1 means that the codes collapsed.",
            limits="The codes are counted on a few held-out frames only, so the curve is "
            "rough and lies below the table's perplexity.",
        )
        parts.append(figure(panels, words))
    if report.tokenize is not None:
        parts.extend(_codes(report.tokenize))
    else:
        parts.append(unfinished("tokenize", started="shards" in report.started))
    return join(parts)


def pretraining(report: Report, result: Pretrain) -> Html:
    """Show how the loss fell, against what simple guesses would score."""
    curves = report.pretrain_curves
    guesses = ", ".join(f"{number(loss)} for {name}" for name, loss in result.guesses)
    intro = element(
        "p",
        f"{count(result.parameters)} parameters, {result.steps:,} steps, {count(result.tokens)} "
        f"tokens{f' in {result.precision}' if result.precision else ''}. Held-out loss "
        f"{number(result.validation_loss)} {result.unit}, against {guesses}.",
    )
    if "loss" not in curves:
        return intro
    panel = figures.pretraining(curves["loss"], curves.get("validation_loss"), result)
    keys = legend(key("trained", "training clips"), key("limit", "held-out clips", "dot"))
    words = caption(
        axes=f"Average loss at the next place, in {result.unit}, against the optimiser step. Zero "
        "would be perfect foresight. Long logs are averaged over short stretches.",
        look="Below the lowest dashed line, the model uses what came before and not just "
        "what is common. Held-out points that rise while the curve falls mean that it "
        "learns the training clips by heart.",
        limits="A low loss may come from predicting still backgrounds; it does not prove that the "
        "model knows what moves. The probes below ask that.",
    )
    return join((intro, figure([panel], words, keys=keys)))


def redundancy(result: Pretrain) -> Html:
    """Show how much easier later frames are."""
    first, *_, last = result.loss_per_frame
    intro = (
        f"The first frame costs {number(first)} {result.unit}, the last {number(last)}. "
        "Neighbouring frames look alike, so a model that looks back should find later "
        "frames easier. The paper's Figure 10 asks the same of its large model."
    )
    keys = legend(key("trained", "trained"), key("untrained", "untrained, same architecture"))
    words = caption(
        axes="Average surprise at a code, in nats, against which frame of the clip it lies in, on "
        "held-out clips.",
        look="The trained line should drop after the first frame and stay low; the untrained "
        "line should stay flat, at or above the level of a uniform guess.",
        limits="How much is copying and how much is foresight: still videos alone would also give "
        "a drop.",
    )
    panel = figures.loss_per_frame(result)
    by_frame = figure([panel], words, keys=keys)
    if not result.loss_per_position_later:
        return join((element("p", intro), by_frame))
    words = caption(
        axes=f"Average loss at each place of a frame, in {result.unit}, on held-out clips; the "
        "places are read row after row.",
        look="The first place of a later frame should cost the most, since nothing near it is "
        "known yet, and the start of each row more than its middle. The paper's Figure 10 has "
        "both, and an arch: the rows at top and bottom cost less.",
        limits="Which part of the arch is the clips' own: what is filmed mostly moves in the "
        "middle.",
    )
    keys = legend(key("limit", "first frame"), key("trained", "frames after it"))
    by_position = figure([figures.loss_per_position(result)], words, keys=keys)
    return join((element("p", intro), by_frame, by_position))


def learning_rates(report: Report, result: MupStudy) -> Html:
    """Show which learning rate is best at each width, with muP and without."""
    seeds = "1 seed" if result.seeds == 1 else f"{result.seeds} seeds"
    sweeps = {NAMES["mup"]: result.mup, NAMES["standard"]: result.standard}
    parts = [
        element(
            "p",
            f"Models of {len(result.widths)} widths, {result.depth} layers each, were trained for "
            f"{result.steps:,} steps with many learning rates, {seeds} a rate. Under "
            f"muP the parametrisation follows from the width (base width {result.base_width}), so "
            "that one rate should serve all.",
        ),
        *(
            element("p", element("b", f"{name}:"), f" {how_it_moved(s.moved, result.widths)}.")
            for name, s in sweeps.items()
        ),
    ]
    if report.mup_picture is not None:
        words = caption(
            axes=f"Loss at the end of training, in {result.unit}, against the learning rate; a "
            "line for each width. A ring marks its best rate.",
            look="With muP the rings should stand above each other. Without, those of wider models "
            "lie further to the left.",
            limits=f"Small models and few steps, on {result.data}; the paper's widths are larger.",
        )
        shown = picture(report.mup_picture, "Loss against learning rate, by width", plot=True)
        parts.append(figure([shown], words, wide=True))
    rows = [
        (name, str(width), *_best_rate(sweep, str(width)))
        for name, sweep in sweeps.items()
        for width in result.widths
    ]
    head = ("", "width", "best rate", f"loss, {result.unit}", "lost by the narrowest width's rate")
    parts.append(table(head, rows))
    return join(parts)


def _best_rate(sweep: Sweep, width: str) -> tuple[str, str, str]:
    best = sweep.best[width]
    if best is None:
        return "none was finite", "n/a", "n/a"
    edge = " (at the edge)" if best.at_edge else ""
    return (
        join(("2", element("sup", str(best.log2_lr)), edge)),
        number(best.loss, 3),
        number(sweep.lost_by_keeping[width], 3),
    )


def _quality(result: Tokenizer) -> str:
    others = (
        ("painting every patch in its mean colour", result.psnr_db_mean_colour),
        ("one grey level a patch", result.psnr_db_grey),
    )
    known = [f"{number(value, 1)} dB for {what}" for what, value in others if value is not None]
    against = f", against {' and '.join(known)}" if known else ""
    return (
        f"The {result.name} tokenizer has {count(result.parameters)} parameters and turns each "
        f"{result.patch_px} by {result.patch_px} pixel patch into one of {result.vocab_size:,} "
        f"codes. On {result.frames:,} held-out frames its reconstructions reach "
        f"{number(result.psnr_db, 1)} dB PSNR (higher is closer){against}. "
        f"{result.used_codes:,} codes occur there; perplexity {number(result.perplexity, 0)}."
    )


def _codes(result: Tokenize) -> Sequence[Html]:
    used = sum(1 for n in result.histogram if n)
    if not used:
        return (element("p", "No token was written.", class_="quiet"),)
    panels = [figures.code_use(result.histogram), figures.code_coverage(result.histogram)]
    words = caption(
        axes="All tokens of the data set. First panel: how often each of the "
        f"{result.vocab_size:,} codes occurs, sorted, on a scale where each line is ten times the "
        "one below. Second panel: the share of all tokens that the most frequent codes make up; "
        "dashed, equal frequencies.",
        look=f"{used:,} codes occur ({percent(used / result.vocab_size)} of the vocabulary). A "
        "long flat curve is a vocabulary in good use, a cliff is one that collapsed.",
        limits="Whether the codes mean anything: one for background may be frequent and useless.",
    )
    rows = [
        (s.name, f"{s.clips:,}", f"{s.frames:,}", f"{s.tokens:,}",
         f"{s.used_codes:,} ({percent(s.used_codes / result.vocab_size, 0)})",
         number(s.perplexity, 0))
        for s in result.sources
    ]  # fmt: skip
    headers = ("source", "clips", "frames", "tokens", "codes used", "perplexity")
    return (figure(panels, words), table(headers, rows))


def _problems(title: str, problems: Sequence[Problem], none: str) -> Html:
    if not problems:
        return element("p", none, class_="quiet")
    if any(problem.stage for problem in problems):
        rows = [(p.path, p.stage, p.reason) for p in problems]
        whole = table(("file", "check", "reason"), rows, words=3)
    else:
        whole = table(("file", "reason"), [(p.path, p.reason) for p in problems], words=2)
    if len(problems) > LONG_LIST:
        return details(f"{title}: {len(problems):,}", whole)
    return join((element("h3", title), whole))
