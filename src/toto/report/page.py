"""Puts the sections in order and writes the page: one file that needs no other, now or later."""

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from toto.report import findings, forecasts, record, training
from toto.report.collect import OPTIONAL, Report
from toto.report.elements import Html, element, join, unfinished
from toto.report.opening import opening
from toto.runtime.durable import write_bytes

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
"""Content security policy: the browser itself refuses scripts and every request."""


class Section(NamedTuple):
    """A heading of the page, and what is under it once its stage has finished."""

    anchor: str
    title: str
    stage: str
    """The stage folder it comes from; empty if it comes from several."""
    verb: str
    """The command that makes it; empty if every stage adds to it."""
    body: Html | None
    """None: the stage has not finished."""


def write_report(report: Report, path: Path) -> Path:
    """Write the page.

    The file appears under its name only when it is whole; one that stood there stays until then.

    Args:
        report: what `collect` read.
        path: the HTML file; its folder is made if need be.

    Returns:
        `path`.

    Raises:
        OSError: if it cannot be written; a full disk is named as such, the old page stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page(report).encode())
    return path


def page(report: Report) -> str:
    """Give the whole page as HTML."""
    sections = _sections(report)
    links = [element("a", s.title, href=f"#{s.anchor}") for s in sections]
    head = (
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", f"{report.name} - Toto run report"),
        element("style", Html(files("toto.report").joinpath("page.css").read_text("utf-8"))),
    )
    main = element(
        "main",
        opening(report),
        element("nav", *links, aria_label="Sections"),
        *(_section(s, started=s.stage in report.started) for s in sections),
    )
    body = element("html", element("head", *head), element("body", main), lang="en")
    return join((Html("<!doctype html>\n"), body, "\n"))


def _sections(r: Report) -> list[Section]:
    left_out = set(OPTIONAL) - r.started
    return [section for section in _all_sections(r) if section.stage not in left_out]


def _all_sections(r: Report) -> list[Section]:
    frames = r.pretrain if r.pretrain is not None and len(r.pretrain.loss_per_frame) > 1 else None
    return [
        Section("data", "The data", "data", "ingest", r.ingest and training.data(r.ingest)),
        Section(
            "tokenizer",
            "From pictures to codes",
            "tokenizer",
            "tokenizer",
            r.tokenizer and training.tokenizer(r, r.tokenizer),
        ),
        Section(
            "pretraining",
            "Pre-training",
            "pretrain",
            "pretrain",
            r.pretrain and training.pretraining(r, r.pretrain),
        ),
        Section(
            "redundancy",
            "Loss by frame",
            "pretrain",
            "pretrain",
            frames and training.redundancy(frames),
        ),
        Section(
            "mup",
            "Learning rate over widths",
            "mup",
            "study mup",
            r.mup and training.learning_rates(r, r.mup),
        ),
        Section(
            "layers", "Accuracy per layer", "probe", "probe", r.probe and findings.layers(r.probe)
        ),
        Section(
            "atlas",
            "Layer atlas",
            "layers",
            "study layers",
            r.atlas and findings.atlas(r, r.atlas),
        ),
        Section(
            "finetuning",
            "Fine-tuning",
            "finetune",
            "finetune",
            r.finetune and findings.finetuning(r, r.finetune),
        ),
        Section(
            "forecasts",
            "Forecasts",
            "generate",
            "generate",
            r.generate and forecasts.forecasts(r, r.generate),
        ),
        Section(
            "tracking", "Tracking", "track", "track", r.track and findings.tracking(r, r.track)
        ),
        Section("cost", "Time and memory", "", "", record.cost(r.costs) if r.costs else None),
        Section(
            "setup",
            "Configuration and versions",
            "",
            "",
            record.setup(r.configs, r.environments) if r.configs or r.environments else None,
        ),
    ]


def _section(section: Section, *, started: bool) -> Html:
    if section.body is not None:
        inside = section.body
    elif not section.verb:
        inside = element("p", "nothing recorded yet", class_="quiet")
    else:
        inside = unfinished(section.verb, started=started)
    return element("section", element("h2", section.title), inside, id=section.anchor)
