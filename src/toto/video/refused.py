"""How a file is refused: by the decode child, and to whoever asked for it."""

from pathlib import Path
from typing import Literal, get_args

Stage = Literal[
    "list", "open", "sniff", "probe", "limits", "decode", "crash", "timeout", "changed", "guard"
]
"""Where a clip was lost. `list`: its data set's own lists; `open` to `decode`: on the way into the
file; `crash`, `timeout`: the decoder; `changed`: it is no longer what ingest saw; `guard`: it is a
copy of what a block list holds."""
STAGES: tuple[Stage, ...] = get_args(Stage)


class VideoRefusedError(ValueError):
    """A file that is not decoded.

    Attributes:
        path: the file.
        stage: where it was found out, one of `STAGES`.
        reason: one line.
    """

    def __init__(self, path: Path, stage: Stage, reason: str) -> None:
        # All three to the base class: an exception is pickled by its arguments.
        super().__init__(path, stage, " ".join(reason.split())[:300])
        self.path = path
        self.stage = stage
        self.reason: str = self.args[2]

    def __str__(self) -> str:
        path = str(self.path)
        return f"{path if path.isprintable() else ascii(path)}: {self.reason}"


class Refused(Exception):
    """The decode child's own refusal, which `toto.video.decode` turns into `VideoRefusedError`.

    Args:
        stage: where it was found out: sniff, probe, limits or decode.
        reason: one line.
    """

    def __init__(self, stage: Literal["sniff", "probe", "limits", "decode"], reason: str) -> None:
        super().__init__(stage, reason)
        self.stage = stage
        self.reason = reason
