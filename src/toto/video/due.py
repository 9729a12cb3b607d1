"""Which frames of a file are wanted next, as the decode child goes through it."""

from typing import Any


class Due:
    """Which frame comes next in which span; the work of a frame does not grow with the spans.

    Args:
        spans: fields of `toto.video.span.Span`.
    """

    def __init__(self, spans: list[dict[str, Any]]) -> None:
        self._spans = spans
        self._left = [span["frames"] for span in spans]
        self._seen = 0
        self._coming: dict[int, list[tuple[tuple[float, float], list[int]]]] = {}
        self._at: dict[int, list[int]] = {}
        for number, span in enumerate(spans):
            if span["frames"] != 0:
                self._at.setdefault(span["start"], []).append(number)

    @property
    def none(self) -> bool:
        """Say whether no further frame is wanted."""
        return not self._at and not self._coming

    def wants(self, index: int) -> bool:
        """Tell whether any span wants this frame, which `at` is asked for later."""
        for number in range(self._seen, index + 1):
            if number in self._at:
                self._coming[number] = self._take(number)
        self._seen = max(self._seen, index + 1)
        return index in self._coming

    def at(self, index: int) -> list[tuple[tuple[float, float], list[int]]]:
        """Tell each crop of this frame that is wanted, with the spans that want it."""
        return self._coming.pop(index) if self.wants(index) else []

    def _take(self, index: int) -> list[tuple[tuple[float, float], list[int]]]:
        crops: dict[tuple[float, float], list[int]] = {}
        for number in sorted(self._at.pop(index)):
            span = self._spans[number]
            crops.setdefault(tuple(span["crop"]), []).append(number)
            if self._left[number] is not None:
                self._left[number] -= 1
            if self._left[number] != 0:
                self._at.setdefault(index + span["stride"], []).append(number)
        return list(crops.items())
