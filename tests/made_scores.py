"""Scores of made-up answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toto.jobs.score_files import write_score
from toto.recipes import demo_probe
from toto.runtime.folder import RunFolder
from toto.tasks.answers import Answers, Classified
from toto.tasks.ledger import Model, Protocol, Score, Selection, Split

IDS = tuple(f"set/{number}.mp4" for number in range(7))
"""No power of two divides them, and no number of ranks but one."""
LABELS = dict(zip(IDS, (0, 1, 2, 0, 1, 2, 0), strict=True))
RANKED = {name: (label, (label + 1) % 3) for name, label in LABELS.items()}
"""All right."""
CHOSE = tuple(f"set/held-out-{number}.mp4" for number in range(5))
PROTOCOL = Protocol.of("made", {"epochs": 3})
MODEL = Model(name="runs/made", weights_sha256=("ab" * 32,), trained=True)


def classified(
    answered: Sequence[dict[str, tuple[int, ...]]] = (RANKED,), undecodable: Sequence[str] = ()
) -> Classified:
    """Answers of some seeds."""
    return Classified.gathered(
        IDS, LABELS, [one.items() for one in answered], classes=3, undecodable=undecodable
    )


def reported(digest: str = "of the test split") -> Split:
    """The split that is reported."""
    return Split.of("set/test", digest, IDS)


def selection(**changes: Any) -> Selection:
    """What another split chose."""
    made = {
        "split": Split.of("set/selection", "of the selection split", CHOSE),
        "ids": CHOSE,
        "reported": IDS,
        "among": {"layers": 3, "rates": 2},
        "chosen": ["layer 1, 1e-3"],
    }
    return Selection.on(**{**made, **changes})


def write(out: Path, answers: Answers, name: str = "made", **changes: Any) -> Score:
    """Write a score into a run folder of its own."""
    made = {
        "metric": "top1",
        "protocol": PROTOCOL,
        "model": MODEL,
        "reported": reported(),
        "seeds": range(answers.seeds),
        "selection": selection(),
    }
    with RunFolder.create(out, demo_probe(), tensorboard=False) as folder:
        return write_score(folder, name, answers, **{**made, **changes})
