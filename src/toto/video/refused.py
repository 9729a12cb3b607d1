"""The decode child's own refusal, which `toto.video.decode` turns into `VideoRefusedError`."""

from typing import Literal


class Refused(Exception):
    """This file is not decoded; the child goes on.

    Args:
        stage: where it was found out: sniff, probe, limits or decode.
        reason: one line.
    """

    def __init__(self, stage: Literal["sniff", "probe", "limits", "decode"], reason: str) -> None:
        super().__init__(stage, reason)
        self.stage = stage
        self.reason = reason
