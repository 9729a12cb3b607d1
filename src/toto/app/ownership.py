"""What is whose: files by their tags, and the names under which Gradio keeps open pages apart.

Gradio gives any file of its cache to whoever names it, and answers an open page's events to
whoever says its name. Here both are good for one visitor and for nobody else.
"""

import re
from collections import OrderedDict
from pathlib import Path

from toto.app.store import Store

MOST_SESSIONS = 4096
"""Remembered; the oldest are forgotten, and their pages must be loaded again."""
_SESSION = re.compile(r"[A-Za-z0-9]{4,64}")


class NotYoursError(Exception):
    """A request names what belongs to somebody else, or to nobody."""


class Ownership:
    """Who owns what in a store.

    Args:
        store: where files lie. What it holds now is the page's own, and everybody's to see.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._public = store.tags()
        self._owners: dict[str, set[str]] = {}
        self._sessions: OrderedDict[str, str] = OrderedDict()

    def claim(self, session: object, visitor: str) -> None:
        """Take the name of an open page for a visitor, if nobody has.

        Raises:
            NotYoursError: if it is another's, or no name.
        """
        if not isinstance(session, str) or not _SESSION.fullmatch(session):
            raise NotYoursError
        if self._sessions.setdefault(session, visitor) != visitor:
            raise NotYoursError
        self._sessions.move_to_end(session)
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)

    def require(self, session: object, visitor: str) -> None:
        """Make sure that an open page is a visitor's.

        Raises:
            NotYoursError: if it is not.
        """
        if not isinstance(session, str) or self._sessions.get(session) != visitor:
            raise NotYoursError

    def give(self, tag: str, visitor: str) -> None:
        """Let a visitor have what lies under a tag."""
        self._owners.setdefault(tag, set()).add(visitor)

    def file(self, path: str, visitor: str) -> Path:
        """Give the file that a visitor names, if they may have it. It may be gone.

        Raises:
            NotYoursError: if they may not.
        """
        tag = self._store.tag_of(path)
        if tag is None or not (tag in self._public or visitor in self._owners.get(tag, ())):
            raise NotYoursError
        return Path(path)

    def sweep(self, keep_s: float) -> None:
        """Delete files that nothing has written for so many seconds; the page's own stay."""
        self._store.sweep(keep_s, but=self._public)
        left = self._store.tags()
        # A copy: visitors may be given more while this runs beside them.
        self._owners = {tag: who for tag, who in dict(self._owners).items() if tag in left}
