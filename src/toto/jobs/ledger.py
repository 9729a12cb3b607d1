"""`toto ledger`: every score below some folders, computed again, beside the paper's."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toto.config import to_dict
from toto.jobs.score_files import SCORE, Entry, read_entry
from toto.report.elements import Html, element, join, table
from toto.runtime.durable import make_folder, write_bytes
from toto.tasks.ledger import Score

HEADERS = (
    "score",
    "metric",
    "ours, %",
    "sd",
    "seeds",
    "paper, %",
    "samples",
    "lost",
    "twice",
    "views",
    "tried",
    "protocol",
    "model",
)
WORDS = ["score", "metric", "protocol", "model"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """Show every score below some folders, and compute each again from its answers."""

    folders: tuple[Path, ...]
    """Run folders, or folders that hold some."""
    json: bool = False
    """Whether to print JSON in place of a table."""
    html: Path | None = None
    """File to write the table to as a page."""
    decode: bool = False
    """Whether forecasts are also painted from their tokens and measured again; needs their run and
    data where they were."""

    def run(self) -> list[Entry]:
        """Read and compute.

        Raises:
            ValueError: if there is no score below the folders.
        """
        entries = [read_entry(file) for file in self._files(f"results/{SCORE}*.json")]
        forecasts = self._files("results/generate.json")
        if forecasts:
            # They need torch, which other scores do without.
            from toto.jobs.generated_check import read_forecasts

            entries += [read_forecasts(file.parents[1], decode=self.decode) for file in forecasts]
        if not entries:
            listed = ", ".join(map(str, self.folders))
            raise ValueError(
                f"no score below {listed}; `toto probe`, `toto track` and `toto generate` write "
                "them"
            )
        if self.html is not None:
            make_folder(self.html.parent)
            write_bytes(self.html, as_html(entries).encode())
        return entries

    def _files(self, pattern: str) -> list[Path]:
        return sorted({file for folder in self.folders for file in folder.rglob(pattern)})


def as_text(entries: Sequence[Entry]) -> Iterator[str]:
    """Say it as a Markdown table, with the troubles behind it."""
    rows = [HEADERS, *(_row(entry.name, entry.score) for entry in entries if entry.score)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADERS))]
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if header in WORDS else cell.rjust(width)
            for header, cell, width in zip(HEADERS, row, widths, strict=True)
        ]
        yield f"| {' | '.join(cells)} |"
        if not number:
            rules = [
                "-" * width if header in WORDS else "-" * (width - 1) + ":"
                for header, width in zip(HEADERS, widths, strict=True)
            ]
            yield f"| {' | '.join(rules)} |"
    yield from _remarks(entries)


def as_json(entries: Sequence[Entry]) -> str:
    """Say it for programs: each entry with its score, and what is wrong with it."""
    return json.dumps([_described(entry) for entry in entries], indent=1)


def as_html(entries: Sequence[Entry]) -> str:
    """Say it as a page without scripts."""
    rows = [_row(entry.name, entry.score) for entry in entries if entry.score]
    body = element(
        "body",
        element("h1", "Scores"),
        table(HEADERS, rows, words=2),
        *(element("p", line) for line in _remarks(entries)),
    )
    head = element("head", element("meta", charset="utf-8"), element("title", "Scores"))
    return join((Html("<!doctype html>\n"), element("html", head, body, lang="en"), "\n"))


def _row(name: str, score: Score) -> tuple[str, ...]:
    views, selection, published = score.views, score.selection, score.published
    deviation = score.deviation
    return (
        name,
        score.metric,
        f"{100 * score.value:.2f}",
        "" if deviation is None else f"{100 * deviation:.2f}",
        str(len(score.seeds)),
        "" if published is None else f"{100 * published.value:.1f} ({published.row})",
        str(score.reported.samples),
        str(len(score.missing) + len(score.undecodable)),
        str(len(score.duplicated)),
        str(views),
        str(1 if selection is None else selection.tried),
        f"{score.protocol.name} {score.protocol.digest[:8]}",
        f"{score.model.name} {score.model.weights_sha256[0][:8]}",
    )


def _remarks(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries:
        score = entry.score
        for what in ("missing", "undecodable", "duplicated"):
            ids: tuple[str, ...] = getattr(score, what, ())
            if ids:
                shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
                yield f"{entry.run}: {entry.name}: {len(ids)} {what}: {shown}"
        for verdict in entry.verdicts:
            yield f"{entry.run}: {entry.name}: {verdict}"
        for trouble in entry.troubles:
            yield f"WRONG {entry.run}: {entry.name}: {trouble}"
    wrong = sum(bool(entry.troubles) for entry in entries)
    yield (
        f"{len(entries)} scores, each computed again from its answers; "
        f"{f'{wrong} WRONG' if wrong else 'all the same'}"
    )


def _described(entry: Entry) -> dict[str, Any]:
    score = entry.score
    return {
        "run": str(entry.run),
        "name": entry.name,
        "value": None if score is None else score.value,
        "deviation": None if score is None else score.deviation,
        "score": None if score is None else to_dict(score),
        "verdicts": list(entry.verdicts),
        "troubles": list(entry.troubles),
    }
