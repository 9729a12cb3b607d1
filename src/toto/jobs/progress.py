"""One progress bar for every job, on the error stream."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

ItemT = TypeVar("ItemT")
# In a notebook bars are drawn as in a terminal; rich's own for it need another package.
console = Console(stderr=True, highlight=False, force_jupyter=False)
"""Where jobs speak to the person who started them; results go to files and to stdout."""


class Bar:
    """A running bar; `note` stands at its end."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Move on by `count`, and change the note if one is given."""
        self._progress.update(self._task, advance=count)
        if note is not None:
            self._progress.update(self._task, note=note)

    def over(self, items: Iterable[ItemT]) -> Iterator[ItemT]:
        """Pass items through, one step each."""
        for item in items:
            yield item
            self.advance()


@contextmanager
def bar(what: str, total: int | None, *, done: int = 0, shown: bool = True) -> Iterator[Bar]:
    """Show a bar with count, elapsed time and time to go while the block runs.

    Args:
        what: a few words, such as "pretrain".
        total: how many steps there are; None if nobody knows.
        done: steps that were done before, when work is resumed.
        shown: whether there is anything to see; of several ranks one shows its bar.
    """
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not shown) as progress:
        yield Bar(progress, progress.add_task(what, total=total, completed=done, note=""))
