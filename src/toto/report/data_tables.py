"""Tables of what data folders come to, as Markdown that is aligned for a terminal too."""

from collections.abc import Mapping, Sequence
from typing import Any

from toto.report.words import count, number, percent

LISTED = 20
"""Most reasons that a table lists."""


def data_page(result: Mapping[str, Any]) -> str:
    """Give `results/data_report.json` as a page: what there is, what was lost, what it is worth."""
    stride, frames = result["stride"], result["sequence_frames"]
    parts = [
        "# What the data come to",
        f"Frames of {result['side_px']} px as {result['frame_tokens']} tokens; of videos every "
        f"{_ordinal(stride)} frame is kept, {frames} kept frames or {frames} images make a "
        "sequence. k = 10^3, M = 10^6, G = 10^9.",
        _instances(result),
        _notes(result),
        "## What was lost",
        _reasons(result["losses"]) or "Nothing: every clip that was listed can be used.",
        "## What is damaged and used all the same",
        _reasons(result["damaged"]) or "Nothing.",
        f"## What {count(result['training_tokens'])} training tokens mean",
        _passes(result),
        "## The paper's data, by its own numbers",
        _paper(result["paper"]),
    ]
    return "\n\n".join(parts) + "\n"


def _instances(result: Mapping[str, Any]) -> str:
    head = (
        "source",
        "instances",
        "lost",
        "hours",
        "tokens, every frame",
        f"tokens, every {_ordinal(result['stride'])}",
        "in sequences",
        "sequences",
    )
    sources = result["sources"]
    rows = [_instance(source) for source in sources]
    names = ("clips", "lost", "seconds", "untimed", "tokens_every_frame", "tokens_at_stride")
    names += ("tokens_in_sequences", "sequences")
    total = {name: sum(source[name] for source in sources) for name in names}
    rows.append(_instance({**total, "name": "total", "kind": "video"}))
    return table(head, rows)


def _instance(source: Mapping[str, Any]) -> list[str]:
    hours = "-"
    if source["kind"] != "image":
        # A length that is not known adds nothing; the mark says that there is more.
        hours = number(source["seconds"] / 3600) + ("+" if source["untimed"] else "")
    return [
        source["name"],
        f"{source['clips']:,}",
        f"{source['lost']:,}",
        hours,
        count(source["tokens_every_frame"]),
        count(source["tokens_at_stride"]),
        count(source["tokens_in_sequences"]),
        f"{source['sequences']:,}",
    ]


def _notes(result: Mapping[str, Any]) -> str:
    sources, frames = result["sources"], result["sequence_frames"]
    short, untimed = (sum(source[name] for source in sources) for name in ("short", "untimed"))
    lines = [
        "hours: from a clip's first frame to its last, and one more frame's time; images have "
        "none. Clips that overlap in a file are counted each.",
        f"tokens, every {_ordinal(result['stride'])}: of the frames that `toto tokenize` keeps, "
        "from the first on; several random crops of a clip are not counted as more.",
        f"in sequences: of clips that give {frames} kept frames ({short:,} clips are shorter). "
        "Sequences: those without a frame in two; training also cuts between them.",
    ]
    if untimed:
        lines.append(f"hours with a +: {untimed:,} clips have no times and add none.")
    return "\n".join(f"- {line}" for line in lines)


def _reasons(reasons: Sequence[Mapping[str, Any]]) -> str:
    if not reasons:
        return ""
    head = ("source", "clips", "where", "reason", "such as")
    rows = [
        [
            reason["source"],
            f"{reason['clips']:,}",
            f"{reason['status']} ({reason['stage']})" if reason["stage"] else "used",
            reason["reason"],
            reason["example"],
        ]
        for reason in reasons[:LISTED]
    ]
    text = table(head, rows, words=(0, 2, 3, 4))
    if len(reasons) > LISTED:
        rest = sum(reason["clips"] for reason in reasons[LISTED:])
        text += (
            f"\n\nAnd {len(reasons) - LISTED:,} reasons more, of {rest:,} clips: "
            "results/data_report.json lists them."
        )
    return text


def _passes(result: Mapping[str, Any]) -> str:
    head = ("source", "share", "training tokens", "tokens there are", "passes")
    rows = [
        [
            source["name"],
            percent(source["share"]),
            count(source["share"] * result["training_tokens"]),
            count(source["tokens_in_sequences"]),
            _times(source["passes"]),
        ]
        for source in result["sources"]
        if source["share"]
    ]
    if not rows:
        return "No source has a clip that is long enough for one sequence."
    words = "Shares as --mixture gives them."
    if result["mixture"] != "given":
        words = (
            "Shares in proportion to the tokens of the training splits, so that all are read "
            "equally often; --mixture gives others."
        )
    return f"{table(head, rows)}\n\n{words} One pass reads every kept frame once."


def _paper(rows: Sequence[Mapping[str, Any]]) -> str:
    head = (
        "set",
        "instances",
        "hours",
        "tokens (Table 2)",
        "hours x 3600 x 29.97 x 256",
        "at every 4th frame",
        "share",
        "passes in 1,000 G tokens",
    )
    text = table(
        head,
        [
            [
                row["name"],
                count(row["instances"]),
                "-" if row["hours"] is None else f"{row['hours']:,}",
                count(row["tokens_every_frame"]),
                "-" if row["tokens_from_hours"] is None else count(row["tokens_from_hours"]),
                count(row["tokens_at_stride"]),
                percent(row["share"], 0),
                _times(row["passes"]),
            ]
            for row in rows
        ],
    )
    return (
        f"{text}\n\nThe paper's Table 2 counts EVERY frame of its videos. It trains on every 4th "
        "frame, so a quarter of the tokens it lists for videos can be read; its images have no "
        "stride. Compare its Table 2 with the column `tokens, every frame` above, and its passes "
        "with yours. Instances, hours, tokens and shares are the paper's; the other columns are "
        "worked out from them."
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)) -> str:
    """Give rows as a Markdown table whose columns are aligned.

    Args:
        head: names of the columns.
        rows: a cell a column.
        words: columns that are aligned left; the others hold numbers.
    """
    cells = [[_plain(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    rule = [
        "-" * width if column in words else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    lines = [
        [
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def _plain(cell: str) -> str:
    """Keep a file's name from drawing its own columns or moving the cursor."""
    kept = "".join(letter if letter.isprintable() else "?" for letter in cell)
    return kept.replace("|", "\\|")


def _times(passes: float | None) -> str:
    if passes is None:
        return "n/a"
    return number(passes, 2 if passes < 100 else 0)


def _ordinal(stride: int) -> str:
    if stride == 1:
        return "single"
    ending = "th" if stride % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(stride % 10)
    return f"{stride}{ending or 'th'}"
