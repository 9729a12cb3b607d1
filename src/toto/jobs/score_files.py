"""Scores on disk: written with their answers, read again, and compared with them.

A score is two files of a run folder: `results/score-NAME.json`, and `results/answers-NAME.json`
with what was answered for each sample. The first has the sha256 of the second.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toto.config import from_dict, to_dict
from toto.runtime import durable
from toto.runtime.folder import RunFolder
from toto.tasks.answers import Answers, Classified, Measured, compute, ids_sha256
from toto.tasks.ledger import SCHEMA, Model, Protocol, Score, Selection, Split, Views
from toto.tasks.published import Published

SCORE, ANSWERS = "score-", "answers-"
_KINDS: dict[str, type] = {"classified": Classified, "measured": Measured}


def write_score(
    folder: RunFolder,
    name: str,
    answers: Answers,
    *,
    metric: str,
    protocol: Protocol,
    model: Model,
    reported: Split,
    seeds: Sequence[int],
    selection: Selection | None,
    views: Views | None = None,
    published: Published | None = None,
) -> Score:
    """Compute a score from its answers, and write both; the score's file comes last.

    Args:
        folder: of the run.
        name: of the score among those of the run: letters, digits and `_ . -`.
        answers: of each sample of the split.
        metric: one of `toto.tasks.answers.METRICS`.
        protocol: how it was measured.
        model: what was measured.
        reported: the split.
        seeds: of the answers.
        selection: what was chosen on another split; None if nothing was.
        views: of each sample.
        published: the paper's value of the same.

    Raises:
        ValueError: if the answers are not those of the split, or the score is refused
            (`toto.tasks.ledger`).
    """
    samples = answers.samples
    if ids_sha256(samples.ids) != reported.ids_sha256:
        raise ValueError(
            f"{folder.path}: the answers are of other samples than split {reported.name!r}; "
            "gather them by the ids of that split"
        )
    spelt = _spell(answers)
    score = Score(
        metric=metric,
        values=compute(metric, answers),
        seeds=tuple(seeds),
        protocol=protocol,
        model=model,
        reported=reported,
        evaluated=len(samples.evaluated),
        evaluated_sha256=ids_sha256(samples.evaluated),
        missing=samples.missing,
        undecodable=samples.undecodable,
        duplicated=samples.duplicated,
        views=views or Views(),
        selection=selection,
        published=published,
        answers_sha256=hashlib.sha256(spelt).hexdigest(),
    )
    file = folder.path / "results" / f"{ANSWERS}{name}.json"
    durable.make_folder(file.parent)
    durable.write_bytes(file, spelt)
    folder.write_result(f"{SCORE}{name}", {"schema": SCHEMA, **to_dict(score)})
    return score


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A score that was found.

    Attributes:
        run: folder of its run, as it was found.
        name: of the score.
        score: None where its file cannot be read.
        troubles: what is wrong with it, one sentence each.
        verdicts: what it comes to, where that is not one number.
    """

    run: Path
    name: str
    score: Score | None
    troubles: tuple[str, ...]
    verdicts: tuple[str, ...] = ()


def read_entry(file: Path) -> Entry:
    """Read a score's file, and compute the score again from the answers beside it."""
    name = file.stem.removeprefix(SCORE)
    run, score, troubles = file.parent.parent, None, []
    try:
        score = _read_score(file)
        troubles = list(differences(score, file.with_name(f"{ANSWERS}{name}.json")))
    except (ValueError, OSError) as error:
        troubles = [f"cannot be read: {error}"]
    return Entry(run=run, name=name, score=score, troubles=tuple(troubles))


def differences(score: Score, answers_file: Path) -> Iterator[str]:
    """Say where a score is not what its answers give.

    Raises:
        ValueError: if the answers cannot be read.
        OSError: if they are not there.
    """
    spelt = answers_file.read_bytes()
    if hashlib.sha256(spelt).hexdigest() != score.answers_sha256:
        yield f"{answers_file.name} is not the one that was scored: its sha256 differs"
    answers = _read_answers(spelt, answers_file)
    samples = answers.samples
    again = compute(score.metric, answers)
    if again != score.values:
        yield f"{score.metric} is {list(again)} by its answers, not {list(score.values)}"
    for what, said, found in (
        ("samples", score.reported.samples, len(samples.ids)),
        ("samples' hash", score.reported.ids_sha256, ids_sha256(samples.ids)),
        ("evaluated", score.evaluated, len(samples.evaluated)),
        ("evaluated samples' hash", score.evaluated_sha256, ids_sha256(samples.evaluated)),
        ("missing", score.missing, samples.missing),
        ("undecodable", score.undecodable, samples.undecodable),
        ("duplicated", score.duplicated, samples.duplicated),
    ):
        if said != found:
            yield f"{what}: {_short(said)} in the score, {_short(found)} in its answers"


def _spell(answers: Answers) -> bytes:
    kind = next(name for name, cls in _KINDS.items() if isinstance(answers, cls))
    body: dict[str, Any] = {"schema": SCHEMA, "kind": kind, **to_dict(answers)}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in body.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _read_answers(spelt: bytes, file: Path) -> Answers:
    body = json.loads(spelt)
    _require_schema(body, file)
    kind = body.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"{file} has answers of kind {kind!r}; there are: {', '.join(_KINDS)}")
    return from_dict(_KINDS[kind], body, where=f"{file.name}: ")


def _read_score(file: Path) -> Score:
    body = json.loads(file.read_bytes())
    _require_schema(body, file)
    return from_dict(Score, body, where=f"{file.name}: ")


def _require_schema(body: Any, file: Path) -> None:
    found = body.get("schema") if isinstance(body, dict) else None
    if found != SCHEMA:
        raise ValueError(
            f"{file} has schema {found}, this toto reads {SCHEMA}; score the run again"
        )
    del body["schema"]


def _short(value: object) -> str:
    return f"{len(value)} samples" if isinstance(value, tuple) else str(value)
